"""ISMRMRD raw data, written by the ismrmrd package from a synthetic image."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
import torch

from medinv.data import KSpace, NonCartesianKSpace, read_ismrmrd, read_kspace
from medinv.data.describe import describe
from medinv.errors import DataError, MedinvWarning
from medinv.operators import fourier
from tests.data.fuzzing import assert_survives

with warnings.catch_warnings():  # it changes the filters
    import ismrmrd

COILS, NZ, NY, NX = 2, 4, 6, 8
NOISE, CALIBRATION, REVERSE, NAVIGATION = 19, 20, 22, 23
HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <measurementInformation>
    <patientPosition>HFS</patientPosition><protocolName>t2_tse_tra</protocolName>
  </measurementInformation>
  <experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz>
  </experimentalConditions>
  <encoding>
    <encodedSpace>
      <matrixSize><x>8</x><y>6</y><z>{nz}</z></matrixSize>
      <fieldOfView_mm><x>16</x><y>18</y><z>{fov_z}</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>4</x><y>6</y><z>{nz}</z></matrixSize>
      <fieldOfView_mm><x>8</x><y>18</y><z>{fov_z}</z></fieldOfView_mm>
    </reconSpace>
    <encodingLimits>
      <kspace_encoding_step_1>
        <minimum>0</minimum><maximum>5</maximum><center>{center}</center>
      </kspace_encoding_step_1>
    </encodingLimits>
    <trajectory>{trajectory}</trajectory>
    <parallelImaging>
      <accelerationFactor><kspace_encoding_step_1>1</kspace_encoding_step_1></accelerationFactor>
      <calibrationMode>{calibration}</calibrationMode>
    </parallelImaging>
  </encoding>
  <sequenceParameters><TR>4000</TR><TE>90</TE></sequenceParameters>
</ismrmrdHeader>"""


def header(**changes):
    defaults = {"nz": 1, "fov_z": 5, "center": 3, "trajectory": "cartesian",
                "calibration": "separate"}
    return HEADER.format(**(defaults | changes))


def samples(*shape):
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def readout(data, *, trajectory=None, flags=(), counters=None, position=(0, 0, 0), **fields):
    """One acquisition: an axial slice, readout to the left, phase to the back."""
    defaults = {"center_sample": NX // 2, "sample_time_us": 5.0, "read_dir": (1, 0, 0),
                "phase_dir": (0, 1, 0), "slice_dir": (0, 0, 1), "position": position}
    acquisition = ismrmrd.Acquisition.from_array(data, trajectory, **(defaults | fields))
    for name, value in (counters or {}).items():
        setattr(acquisition.idx, name, value)
    for flag in flags:
        acquisition.setFlag(flag)
    return acquisition


def lines(data, **fields):
    """The readouts of k-space (coil, ky, kx)."""
    counters = fields.pop("counters", {})
    return [readout(np.ascontiguousarray(data[:, ky]), **fields,
                    counters={"kspace_encode_step_1": ky, **counters})
            for ky in range(data.shape[1])]


def write(path, acquisitions, xml=None):
    dataset = ismrmrd.Dataset(str(path), "dataset")
    dataset.write_xml_header(xml or header())
    for acquisition in acquisitions:
        dataset.append_acquisition(acquisition)
    dataset.close()
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "scan.h5"


def test_cartesian(file):
    data = samples(COILS, NY, NX)
    kspace = read_ismrmrd(write(file, lines(data)))
    np.testing.assert_array_equal(kspace.data[0], data)
    assert kspace.mask.all()
    assert kspace.acquisition.known() == {
        "modality": "MR", "field_strength_t": 2.894, "contrast": "T2w", "tr_ms": 4000.0,
        "te_ms": 90.0, "patient_position": "HFS",
    }
    assert (kspace.voxel_mm, kspace.readout_axis) == ((5.0, 3.0, 2.0), -1)
    assert torch.equal(read_kspace(file).data, kspace.data)


def test_place_in_the_patient(file):
    """LPS in the file: 10 mm left, 20 mm back, 30 mm up is (-10, -20, 30) in RAS."""
    kspace = read_ismrmrd(write(file, lines(samples(COILS, NY, NX), position=(10, 20, 30))))
    volume = kspace.volume(torch.zeros(1, NY, NX))
    assert volume.orientation == "LPS"
    assert volume.world_mm((NX // 2, NY // 2, 0)) == (-10.0, -20.0, 30.0)
    assert volume.spacing_mm == (2.0, 3.0, 5.0)
    cropped = kspace.crop_readout()
    assert cropped.data.shape[-1] == NX // 2
    small = cropped.volume(torch.zeros(1, NY, NX // 2))
    assert small.world_mm((NX // 4, NY // 2, 0)) == (-10.0, -20.0, 30.0)
    torch.testing.assert_close(fourier.ifft(cropped.data, [-1]),
                               fourier.ifft(kspace.data, [-1])[..., 2:6])


def test_slices_stand_in_the_order_of_their_places(file):
    data = samples(3, COILS, NY, NX)
    heights = {0: 7.0, 1: -7.0, 2: 0.0}  # interleaved
    acquisitions = [line for s, z in heights.items()
                    for line in lines(data[s], position=(0, 0, z), counters={"slice": s})]
    kspace = read_ismrmrd(write(file, acquisitions))
    np.testing.assert_array_equal(kspace.data, data[[1, 2, 0]])
    assert kspace.voxel_mm == (7.0, 3.0, 2.0)
    assert kspace.volume(torch.zeros(3, NY, NX)).world_mm((4, 3, 2)) == (0.0, 0.0, 7.0)
    one = read_ismrmrd(file, select={"slice": 2})
    np.testing.assert_array_equal(one.data[0], data[2])


def test_slices_that_are_not_equidistant(file):
    acquisitions = [line for s, z in enumerate((0.0, 5.0, 11.0))
                    for line in lines(samples(COILS, NY, NX), position=(0, 0, z),
                                      counters={"slice": s})]
    with pytest.raises(DataError, match="equidistant slices.*from 5 to 6 mm"):
        read_ismrmrd(write(file, acquisitions))


def test_partial_fourier_and_asymmetric_echo(file):
    """Lines 0 to 3 with centre 1, echoes at sample 2 of 6."""
    data = samples(COILS, 4, 6)
    kspace = read_ismrmrd(write(file, lines(data, center_sample=2), header(center=1)))
    np.testing.assert_array_equal(kspace.data[0, :, 2:6, 2:8], data)
    assert kspace.mask.sum() == 4 * 6
    with pytest.raises(DataError, match="asymmetric echo"):
        kspace.crop_readout()


def test_reversed_and_discarded_samples(file):
    """Every second line runs backwards and starts with a sample to be discarded."""
    data = samples(COILS, NY, NX)
    acquisitions = lines(data)
    for ky in range(1, NY, 2):
        turned = np.concatenate([np.full((COILS, 1), 9), data[:, ky, ::-1]], 1)
        acquisitions[ky] = readout(
            turned.astype(np.complex64), flags=(REVERSE,), discard_pre=1,
            center_sample=NX // 2, counters={"kspace_encode_step_1": ky},
        )
    kspace = read_ismrmrd(write(file, acquisitions))
    np.testing.assert_array_equal(kspace.data[0], data)


def epi(data, turned_centre, *, centre=NX // 2, n=NX):
    """Lines of the first ``n`` samples of kx, every second one backwards."""
    acquisitions = []
    for ky in range(NY):
        backwards = ky % 2 == 1
        line = data[:, ky, :n]
        acquisitions.append(readout(
            np.ascontiguousarray(line[:, ::-1] if backwards else line),
            center_sample=turned_centre if backwards else centre,
            flags=(REVERSE,) if backwards else (), counters={"kspace_encode_step_1": ky}))
    return acquisitions


@pytest.mark.parametrize("n", [NX, 6])
@pytest.mark.parametrize(("convention", "one_more"), [("standard", 0), ("siemens", 1)])
def test_both_conventions_of_reversed_readouts(file, n, convention, one_more):
    """Sample i at ``center - i``, or at ``center - 1 - i``: both directions cover the same kx."""
    data = samples(COILS, NY, NX)
    write(file, epi(data, n - 1 - NX // 2 + one_more, n=n))
    kspace = read_ismrmrd(file)
    np.testing.assert_array_equal(kspace.data[0, ..., :n], data[..., :n])
    assert kspace.mask[:, :n].all()
    assert not kspace.mask[:, n:].any()
    told = read_kspace(file, reversed_readouts=convention)
    assert torch.equal(told.data, kspace.data)


def test_reversed_readouts_whose_centre_is_not_clear(file):
    """Six of eight samples, forwards from the left end of kx, backwards from the right one."""
    data = samples(COILS, NY, NX)
    write(file, epi(data, 3, n=6))
    with pytest.raises(DataError, match="choose reversed_readouts='standard' .* or 'siemens'"):
        read_ismrmrd(file)
    for convention, first in (("standard", 2), ("siemens", 1)):
        kspace = read_ismrmrd(file, reversed_readouts=convention)
        np.testing.assert_array_equal(kspace.data[0, :, 1, first:first + 6], data[:, 1, :6])
    write(file.with_name("c.h5"), epi(data, NX // 2))
    with pytest.raises(DataError, match="by another convention than 'standard'"):
        read_ismrmrd(file.with_name("c.h5"), reversed_readouts="standard")


def test_readouts_of_one_direction_only(file):
    data = samples(COILS, NY, NX)
    acquisitions = [readout(np.ascontiguousarray(data[:, ky, ::-1]), flags=(REVERSE,),
                            center_sample=3, counters={"kspace_encode_step_1": ky})
                    for ky in range(NY)]
    np.testing.assert_array_equal(read_ismrmrd(write(file, acquisitions)).data[0], data)


@pytest.mark.parametrize("encoded_z", [2, 3])
def test_encoded_z_of_a_2d_scan(file, encoded_z):
    """Pulseq's writers say 2, or the number of slices; one step of kz was measured."""
    data = samples(3, COILS, NY, NX)
    acquisitions = [line for s in range(3) for line in
                    lines(data[s], position=(0, 0, 5 * s), counters={"slice": s})]
    xml = header(fov_z=5).replace("<z>1</z>", f"<z>{encoded_z}</z>", 1)
    kspace = read_ismrmrd(write(file, acquisitions, xml))
    np.testing.assert_array_equal(kspace.data, data)
    assert kspace.voxel_mm == (5.0, 3.0, 2.0)
    one = read_ismrmrd(file, select={"slice": 1})
    np.testing.assert_array_equal(one.data, data[1:2])
    assert one.voxel_mm == (5.0, 3.0, 2.0)


def test_field_of_view_of_zero(file):
    """Voxels of 1 mm, with a warning; of one space only, as large as the other's."""
    xml = header().replace("<x>16</x><y>18</y><z>5</z>", "<x>0</x><y>0</y><z>0</z>")
    data = samples(COILS, NY, NX)
    kspace = read_ismrmrd(write(file, lines(data), xml))
    assert kspace.voxel_mm == (5.0, 3.0, 2.0)
    unknown = xml.replace("<x>8</x><y>18</y><z>5</z>", "<x>0</x><y>0</y><z>5</z>")
    file.unlink()
    with pytest.warns(MedinvWarning, match="the field of view along x, y is 0 in the header"):
        kspace = read_ismrmrd(write(file, lines(data), unknown))
    assert kspace.voxel_mm == (5.0, 1.0, 1.0)
    assert kspace.recon_fov_mm == (5.0, 6.0, 4.0)
    assert kspace.crop_readout().data.shape[-1] == 4
    file.unlink()
    with pytest.raises(DataError, match="expected a positive encoding/encodedSpace/fieldOfView"):
        read_ismrmrd(write(file, lines(data), header().replace("<x>16<", "<x>-16<")))


def test_describe(file):
    """Matrix, field of view, coils and what there is to choose; no NumPy dtype."""
    scan = readout(samples(COILS, 32), flags=(NOISE,))
    data = samples(COILS, NY, NX)
    write(file, [scan, *lines(data), *lines(data, counters={"contrast": 1})])
    facts = describe(file)
    assert "arrays" not in facts
    assert {name: facts[name] for name in (
        "layout", "coils", "slices", "contrasts", "readouts of the image", "other readouts",
        "trajectory", "encoded matrix (x, y, z)", "image field of view (x, y, z), mm", "te_ms")
    } == {
        "layout": "ISMRMRD", "coils": COILS, "slices": 1, "contrasts": 2,
        "readouts of the image": 2 * NY, "other readouts": 1, "trajectory": "cartesian",
        "encoded matrix (x, y, z)": [NX, NY, 1],
        "image field of view (x, y, z), mm": [8.0, 18.0, 5.0], "te_ms": 90.0,
    }
    file.unlink()
    write(file, lines(data), header().replace("<z>5</z>", "<z>0</z>"))
    assert "the field of view along z is 0" in describe(file)["findings"][0]


def test_headers_are_read_without_samples(file):
    """h5py alone would read the samples of every readout with its header."""
    write(file, lines(samples(COILS, NY, NX)))
    content = file.read_bytes()
    stored = struct.pack("<IQI", 2 * COILS * NX, content.index(b"GCOL"), 3)
    assert stored in content
    file.write_bytes(content.replace(stored, stored[:-4] + b"\xff\xff\0\0"))  # in no heap
    assert describe(file)["readouts of the image"] == NY
    with pytest.raises(DataError, match="cannot be read"):
        read_ismrmrd(file)


@pytest.mark.parametrize(("field", "other"), [
    (b"kspace_encode_step_1\0", b"kspace_encode_step_7\0"), (b"position\0", b"pos_tion\0"),
])
def test_headers_without_a_field(file, field, other):
    content = write(file, lines(samples(COILS, NY, NX))).read_bytes()
    assert field in content
    file.write_bytes(content.replace(field, other))
    with pytest.raises(DataError, match="without ISMRMRD's fields"):
        read_ismrmrd(file)


def test_averages_and_segments(file):
    data = samples(COILS, NY, NX)
    acquisitions = [*lines(data), *lines(3 * data, counters={"average": 1, "segment": 2})]
    kspace = read_ismrmrd(write(file, acquisitions))
    np.testing.assert_allclose(kspace.data[0], 2 * data, rtol=1e-6)
    kspace = read_ismrmrd(file, select={"average": 1})
    np.testing.assert_array_equal(kspace.data[0], 3 * data)


def test_contrasts_are_chosen(file):
    data = samples(COILS, NY, NX)
    write(file, [*lines(data), *lines(2 * data, counters={"contrast": 1})])
    with pytest.raises(DataError, match=r"2 of contrast .*select=\{'contrast': 0\}"):
        read_ismrmrd(file)
    kspace = read_ismrmrd(file, select={"contrast": 1})
    np.testing.assert_array_equal(kspace.data[0], 2 * data)
    with pytest.raises(DataError, match="no readouts"):
        read_ismrmrd(file, select={"contrast": 5})
    with pytest.raises(DataError, match="cannot select by echo"):
        read_ismrmrd(file, select={"echo": 5})


def test_what_is_not_the_image_is_left_out(file):
    data = samples(COILS, NY, NX)
    others = [line for flag in (CALIBRATION, NAVIGATION) for line in lines(9 * data, flags=[flag])]
    kspace = read_ismrmrd(write(file, [*others, *lines(data)]))
    np.testing.assert_array_equal(kspace.data[0], data)
    file.unlink()
    embedded = lines(data)
    embedded[2] = lines(data, flags=[CALIBRATION])[2]
    kspace = read_ismrmrd(write(file, embedded, header(calibration="embedded")))
    assert kspace.mask.all()


def test_three_dimensions(file):
    data = samples(COILS, NZ, NY, NX)
    acquisitions = [line for kz in range(NZ) for line in
                    lines(data[:, kz], counters={"kspace_encode_step_2": kz})]
    kspace = read_ismrmrd(write(file, acquisitions, header(nz=NZ, fov_z=12)))
    np.testing.assert_array_equal(kspace.data[0], data)
    volume = kspace.volume(torch.zeros(NZ, NY, NX))
    assert volume.spacing_mm == (2.0, 3.0, 3.0)
    assert volume.world_mm((NX // 2, NY // 2, NZ // 2)) == (0.0, 0.0, 0.0)


def test_noise_scan_whitens_the_coils(file):
    """The noise was received at twice the dwell time, so with half of the power."""
    rng = np.random.default_rng(0)
    mixing = np.array([[2.0, 0.0], [1.5 + 1j, 0.5]])

    def noise(n):
        white = rng.normal(size=(COILS, n)) + 1j * rng.normal(size=(COILS, n))
        return (mixing @ white).astype(np.complex64)

    scan = readout(noise(6000) / np.sqrt(2).astype(np.float32), flags=(NOISE,),
                   sample_time_us=10.0)
    data = noise(NY * NX).reshape(COILS, NY, NX)
    kspace = read_ismrmrd(write(file, [scan, *lines(data)])).prewhitened()
    mixed = np.linalg.inv(mixing) @ data.reshape(COILS, -1)
    # The Cholesky factor of 6000 samples is that of the truth to about 2 %.
    np.testing.assert_allclose(kspace.data[0].reshape(COILS, -1), mixed, atol=0.3)
    assert kspace.data.real.std() == pytest.approx(1, abs=0.15)
    file.unlink()
    with pytest.raises(DataError, match="no noise scan"):
        read_ismrmrd(write(file, lines(data))).prewhitened()


@pytest.mark.parametrize("unit", ["fraction", "cycles"])
def test_radial(file, unit):
    """A spoke along x and one along y; the readout is oversampled twice, so k-space ends at 2."""
    t = (np.arange(NX) - NX // 2) / (NX if unit == "fraction" else 1)
    spokes = np.stack([np.stack([t, 0 * t], -1), np.stack([0 * t, 6 / 8 * t], -1)])
    data = samples(2, COILS, NX)
    kspace = read_ismrmrd(write(
        file, [readout(data[i], trajectory=spokes[i].astype(np.float32)) for i in range(2)],
        header(trajectory="radial"),
    ))
    assert isinstance(kspace, NonCartesianKSpace)
    np.testing.assert_array_equal(kspace.data[0], data.swapaxes(0, 1))
    assert kspace.shape == (1, 6, 4)
    # (ky, kx): along x 8 samples over the 16 mm encoded, in cycles per 8 mm.
    np.testing.assert_allclose(kspace.trajectory[0, :, 1], (np.arange(NX) - 4) / 2)
    assert kspace.trajectory[0, :, 0].abs().max() == 0
    assert kspace.trajectory[1, :, 1].abs().max() == 0
    assert kspace.trajectory[1, :, 0].abs().max() <= 3
    assert kspace.volume(torch.zeros(1, 6, 4)).world_mm((2, 3, 0)) == (0.0, 0.0, 0.0)


def test_trajectories_in_other_units(file):
    spoke = np.linspace(-300, 300, NX)[:, None] * np.ones(2)
    acquisition = readout(samples(COILS, NX), trajectory=spoke.astype(np.float32))
    with pytest.raises(DataError, match="times the edge of k-space"):
        read_ismrmrd(write(file, [acquisition], header(trajectory="radial")))


def test_lines_beyond_the_matrix(file):
    data = samples(COILS, NY + 1, NX)
    with pytest.raises(DataError, match="kspace_encode_step_1 goes from 0 to 6"):
        read_ismrmrd(write(file, lines(data)))
    file.unlink()
    with pytest.raises(DataError, match="does not fit the encoded matrix of 8"):
        read_ismrmrd(write(file, lines(samples(COILS, NY, NX + 2))))


def test_fuzz(file, tmp_path):
    t = (np.arange(NX) - NX // 2) / NX
    spoke = np.stack([t, t], -1).astype(np.float32)
    radial = write(tmp_path / "radial.h5", [readout(samples(COILS, NX), trajectory=spoke)],
                   header(trajectory="radial"))
    seeds = [write(file, lines(samples(COILS, NY, NX))).read_bytes(), radial.read_bytes()]
    assert_survives(read_ismrmrd, ".h5", seeds, 200, answer=(KSpace, NonCartesianKSpace))
