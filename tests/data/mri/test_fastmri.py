"""fastMRI files: knee and brain, single-coil, masked; lazily; and hostile HDF5."""

from __future__ import annotations

import multiprocessing
import pickle

import h5py
import numpy as np
import pytest
import torch

from medinv.data import FastMRIFile, KSpace, Volume, read_fastmri, write_fastmri_reconstruction
from medinv.data.describe import describe
from medinv.errors import DataError, MedinvWarning
from medinv.operators import fourier
from tests.data.fuzzing import assert_survives

SLICES, COILS, READOUT, COLUMNS = 3, 2, 16, 10
HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <subjectInformation><patientName>Doe</patientName><patientID>7</patientID></subjectInformation>
  <acquisitionSystemInformation>
    <systemVendor>SIEMENS</systemVendor><systemModel>Aera</systemModel>
    <systemFieldStrength_T>1.494</systemFieldStrength_T>
  </acquisitionSystemInformation>
  <experimentalConditions>
    <H1resonanceFrequency_Hz>63646216</H1resonanceFrequency_Hz>
  </experimentalConditions>
  <encoding>
    <encodedSpace>
      <matrixSize><x>16</x><y>10</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>320</x><y>100</y><z>4.5</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>8</x><y>8</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>160</x><y>80</y><z>4.5</z></fieldOfView_mm>
    </reconSpace>
    <encodingLimits>
      <kspace_encoding_step_1>
        <minimum>0</minimum><maximum>6</maximum><center>4</center>
      </kspace_encoding_step_1>
    </encodingLimits>
    <trajectory>cartesian</trajectory>
  </encoding>
  <sequenceParameters>
    <TR>2750</TR><TE>32</TE><TI>100</TI><flipAngle_deg>140</flipAngle_deg>
    <sequence_type>TurboSpinEcho</sequence_type>
  </sequenceParameters>
</ismrmrdHeader>"""


def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SLICES, COILS, READOUT, COLUMNS, dtype=torch.complex64, generator=generator)


def write(path, *, data=None, mask=None, acquisition="CORPDFS_FBK", reference="reconstruction_rss",
          header=HEADER):
    """A synthetic file in fastMRI's layout."""
    with h5py.File(path, "w") as file:
        file["kspace"] = fourier.fft(images(), (-2, -1)).numpy() if data is None else data
        file["ismrmrd_header"] = header
        if mask is not None:
            file["mask"] = mask
        if reference:
            file[reference] = np.ones((SLICES, 8, 8), np.float32)
        file.attrs.update({"acquisition": acquisition, "max": 0.5, "norm": 12.0,
                           "patient_id": "0123456789abcdef"})
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "scan.h5")


def test_header_gives_the_acquisition(path):
    kspace = read_fastmri(path)
    assert kspace.acquisition.known() == {
        "modality": "MR", "manufacturer": "SIEMENS", "model": "Aera", "field_strength_t": 1.494,
        "anatomy": "knee", "sequence": "TurboSpinEcho", "contrast": "PDwFS", "tr_ms": 2750.0,
        "te_ms": 32.0, "ti_ms": 100.0, "flip_angle_deg": 140.0, "plane": "coronal",
    }
    assert (kspace.recon_shape, kspace.recon_fov_mm) == ((1, 8, 8), (4.5, 160.0, 80.0))
    assert kspace.voxel_mm == (4.5, 20.0, 10.0)
    assert kspace.metadata["max"], kspace.metadata["norm"] == (0.5, 12.0)
    assert not any(word in str(kspace) for word in ("Doe", "0123456789abcdef"))


def test_field_strength_from_the_proton_frequency(tmp_path):
    header = HEADER.replace("<systemFieldStrength_T>1.494</systemFieldStrength_T>", "")
    kspace = read_fastmri(write(tmp_path / "scan.h5", header=header))
    assert kspace.acquisition.field_strength_t == pytest.approx(1.495, abs=1e-3)


@pytest.mark.parametrize(("name", "anatomy", "contrast", "plane"), [
    ("AXT1POST", "brain", "T1w", "axial"), ("AXFLAIR", "brain", "FLAIR", "axial"),
    ("CORPD_FBK", "knee", "PDw", "coronal"), ("something", None, None, None),
])
def test_the_names_of_the_protocols(tmp_path, name, anatomy, contrast, plane):
    with FastMRIFile(write(tmp_path / "scan.h5", acquisition=name)) as file:
        found = file.acquisition
    assert (found.anatomy, found.contrast, found.plane) == (anatomy, contrast, plane)


def test_mask_ends_with_the_acquired_columns(tmp_path):
    """Steps 0 to 6 with centre 4 lie in columns 1 to 7 of 10; a test mask may exceed them."""
    kspace = read_fastmri(write(tmp_path / "scan.h5", mask=np.ones(COLUMNS, np.uint8)))
    assert kspace.mask.any(0).nonzero().flatten().tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_crop_readout_removes_the_oversampling_in_image_space(path):
    kspace = read_fastmri(path)
    cropped = kspace.crop_readout()
    assert cropped.data.shape == (SLICES, COILS, READOUT // 2, COLUMNS)
    assert cropped.mask.shape == cropped.data.shape[2:]
    image = fourier.ifft(cropped.data, (-2, -1))
    torch.testing.assert_close(image, images()[:, :, 4:12])


def test_crop_readout_of_an_asymmetric_echo(path):
    kspace = read_fastmri(path)
    mask = kspace.mask.clone()
    mask[:3] = False
    partial = KSpace(kspace.data, mask, voxel_mm=kspace.voxel_mm,
                     recon_fov_mm=kspace.recon_fov_mm)
    with pytest.raises(DataError, match="asymmetric echo"):
        partial.crop_readout()
    with pytest.raises(DataError, match="which part of the field"):
        KSpace(kspace.data, mask).crop_readout()


def test_crop_is_central_and_knows_its_place(path):
    kspace = read_fastmri(path)
    image = kspace.crop(images()[:, 0])
    torch.testing.assert_close(image, images()[:, 0, 4:12, 1:9])
    volume = kspace.volume(image)
    assert volume.spacing_mm == (10.0, 20.0, 4.5)
    assert volume.orientation == "LIP"  # coronal, as radiologists see it
    assert "coronal" in str(volume.metadata["position"])
    with pytest.raises(DataError, match="recon_shape"):
        KSpace(kspace.data, kspace.mask).crop(image)


def test_single_coil(tmp_path):
    data = fourier.fft(images()[:, 0], (-2, -1)).numpy()
    path = write(tmp_path / "scan.h5", data=data, reference="reconstruction_esc")
    with FastMRIFile(path) as file:
        assert file.shape == (SLICES, 1, READOUT, COLUMNS)
        np.testing.assert_array_equal(file.kspace().data[:, 0], data)
        assert file.reference().data.shape == (SLICES, 8, 8)


def test_reference(tmp_path, path):
    with FastMRIFile(path) as file:
        reference = file.reference(slice(1, 3))
        assert reference.data.shape == (2, 8, 8)
        assert reference.spacing_mm == (10.0, 20.0, 4.5)
    with (FastMRIFile(write(tmp_path / "test.h5", reference=None)) as file,
          pytest.raises(DataError, match="test files hold no reference")):
        file.reference()


def read_slice(file: FastMRIFile) -> float:
    return float(file.kspace(slice(1, 2)).data.abs().sum())


def test_pickled_and_forked(path):
    """Each process opens its own handle, after a pickle and after a fork."""
    with FastMRIFile(path) as file:
        expected = read_slice(file)
        assert read_slice(pickle.loads(pickle.dumps(file))) == expected
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply(read_slice, (file,)) == expected
        assert read_slice(file) == expected


def test_reconstruction_file(tmp_path):
    image = Volume(images()[:, 0], torch.eye(4, dtype=torch.float64))
    write_fastmri_reconstruction(tmp_path / "scan.h5", image)
    with h5py.File(tmp_path / "scan.h5") as file:
        np.testing.assert_array_equal(file["reconstruction"], images()[:, 0].abs())
    with pytest.raises(DataError, match=r"ends in \.h5"):
        write_fastmri_reconstruction(tmp_path / "scan.npy", image)


def test_two_axes(tmp_path):
    with pytest.raises(DataError, match=r"expected kspace \(slice, coil, ky, kx\)"):
        FastMRIFile(write(tmp_path / "scan.h5", data=np.ones((4, 4), np.complex64)))


def test_fuzz(path):
    assert_survives(read_fastmri, ".h5", [path.read_bytes()], 200, answer=KSpace)


def test_describe(path):
    facts = describe(path)
    assert {name: facts[name] for name in (
        "slices", "coils", "k-space (ky, kx)", "beside k-space", "te_ms",
        "encoded field of view (x, y, z), mm", "image matrix (x, y, z)")} == {
        "slices": SLICES, "coils": COILS, "k-space (ky, kx)": [READOUT, COLUMNS],
        "beside k-space": ["reconstruction_rss"], "te_ms": 32.0,
        "encoded field of view (x, y, z), mm": [320.0, 100.0, 4.5],
        "image matrix (x, y, z)": [8, 8, 1],
    }


def test_field_of_view_of_zero(tmp_path):
    header = HEADER.replace("<x>320</x>", "<x>0</x>").replace("<x>160</x>", "<x>0</x>")
    with pytest.warns(MedinvWarning, match="field of view along x is 0"):
        kspace = read_fastmri(write(tmp_path / "scan.h5", header=header))
    assert kspace.voxel_mm == (4.5, 1.0, 10.0)


@pytest.mark.parametrize("value", [
    h5py.Empty("f"), h5py.Empty(h5py.string_dtype()), np.zeros(0), np.ones(2),
    np.array([], h5py.string_dtype()), np.zeros(1, [("a", "f4")])], ids=str)
def test_attributes_that_are_no_number_or_text_are_left_out(path, value):
    with h5py.File(path, "a") as file:
        for name in ("acquisition", "max", "norm", "acceleration"):
            file.attrs[name] = value
    kspace = read_fastmri(path)
    assert not {"acquisition", "max", "norm", "acceleration"} & set(kspace.metadata)
    assert kspace.acquisition.te_ms == 32


def test_attributes_that_h5py_cannot_read(path, monkeypatch):
    def broken(*_: object) -> None:
        raise IndexError("index 0 is out of bounds")

    monkeypatch.setattr(h5py.AttributeManager, "__getitem__", broken)
    with pytest.raises(DataError, match="cannot be read .index 0 is out of bounds"):
        read_fastmri(path)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (1, 0, 4, 4), (1, 2, 0, 4), (0, 4, 4)])
def test_no_slice_coil_or_sample(tmp_path, shape):
    path = write(tmp_path / "empty.h5", data=np.zeros(shape, np.complex64), reference=None)
    with pytest.raises(DataError, match=r"select none of the 0|expected positive sizes"):
        read_fastmri(path)
