"""k-space from .npy, .npz and fastMRI HDF5, and each way such a file can be wrong."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from medinv.data import KSpace, NonCartesianKSpace, read_kspace, read_maps
from medinv.errors import DataError, ShapeError

SLICES, COILS, ROWS, COLUMNS = 3, 2, 8, 6
HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <encoding>
    <encodedSpace>
      <matrixSize><x>{readout}</x><y>6</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>440</x><y>220</y><z>4.5</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace>
      <matrixSize><x>4</x><y>4</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>220</x><y>146.7</y><z>4.5</z></fieldOfView_mm>
    </reconSpace>
    <trajectory>cartesian</trajectory>
  </encoding>
</ismrmrdHeader>"""
HEADER_OF_8_ROWS = HEADER.format(readout=8)


def samples(shape: tuple[int, ...] = (SLICES, COILS, ROWS, COLUMNS)) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def write_fastmri(path, kspace=None, *, mask=None, header=HEADER_OF_8_ROWS):
    """A file in the layout of the fastMRI multi-coil test set."""
    with h5py.File(path, "w") as file:
        file["kspace"] = samples() if kspace is None else kspace
        if header is not None:
            file["ismrmrd_header"] = np.bytes_(header)
        if mask is not None:
            file["mask"] = mask
        file["reconstruction_rss"] = np.zeros((SLICES, 4, 4), np.float32)
        file.attrs["acquisition"] = "AXT2"
        file.attrs["max"] = 0.5
        file.attrs["patient_id"] = "0123456789abcdef"
    return path


def test_fastmri(tmp_path):
    mask = np.array([1, 0, 1, 1, 0, 1], dtype=np.uint8)
    path = write_fastmri(tmp_path / "scan.h5", samples() * mask, mask=mask)
    kspace = read_kspace(path)
    np.testing.assert_array_equal(kspace.data.numpy(), samples() * mask)
    assert kspace.mask.shape == (ROWS, COLUMNS)
    assert kspace.acceleration == pytest.approx(1.5)
    assert kspace.n_coils == COILS
    # Readout (x of the header) runs along the rows: 440 mm / 8, 220 mm / 6.
    assert kspace.voxel_mm == pytest.approx((4.5, 55.0, 220 / 6))
    assert kspace.metadata["recon_shape"] == (1, 4, 4)
    assert kspace.metadata["acquisition"] == "AXT2"
    assert "0123456789abcdef" not in str(kspace.metadata)


def test_fastmri_reads_only_the_wanted_slices(tmp_path):
    path = write_fastmri(tmp_path / "scan.h5")
    kspace = read_kspace(path, slices=slice(1, 2))
    np.testing.assert_array_equal(kspace.data.numpy(), samples()[1:2])
    assert kspace.metadata["n_slices"] == SLICES
    with pytest.raises(DataError, match="select none of the 3 slices"):
        read_kspace(path, slices=slice(7, 9))


def test_fastmri_fully_sampled_without_header(tmp_path):
    kspace = read_kspace(write_fastmri(tmp_path / "scan.h5", header=None))
    assert kspace.mask.all()
    assert kspace.voxel_mm is None


def test_fastmri_mask_of_another_size(tmp_path):
    path = write_fastmri(tmp_path / "scan.h5", mask=np.ones(COLUMNS + 1))
    with pytest.raises(ShapeError, match=r"mask is .* but k-space is"):
        read_kspace(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("<ismrmrdHeader>", "not valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        (HEADER.format(readout="eight"), "encodedSpace/matrixSize/x"),
        (HEADER.format(readout="-8"), "positive"),
        ("<a/>", "expected an encoding"),
        ("<a><encoding/></a>", "encodedSpace/matrixSize/x"),
    ],
)
def test_fastmri_bad_header(tmp_path, header, message):
    path = write_fastmri(tmp_path / "scan.h5", header=header)
    with pytest.raises(DataError, match=message):
        read_kspace(path)


def test_fastmri_wrong_key(tmp_path):
    path = write_fastmri(tmp_path / "scan.h5")
    with pytest.raises(DataError, match=r"no data set 'raw'; it holds .*kspace"):
        read_kspace(path, "raw")


def test_not_hdf5(tmp_path):
    (tmp_path / "scan.h5").write_text("hello")
    with pytest.raises(DataError, match="expected an HDF5 file"):
        read_kspace(tmp_path / "scan.h5")


@pytest.mark.parametrize("name", ["none.h5", "none.npy", "none.npz"])
def test_missing_file(tmp_path, name):
    with pytest.raises(DataError, match="found no file"):
        read_kspace(tmp_path / name)


def test_unknown_suffix(tmp_path):
    with pytest.raises(DataError, match=r"expected k-space as \.npy"):
        read_kspace(tmp_path / "scan.dat")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_nan_or_inf(tmp_path, suffix, value):
    data = samples()
    data[2, 1, 4, 3] = value
    path = tmp_path / f"scan{suffix}"
    if suffix == ".npy":
        np.save(path, data)
    else:
        write_fastmri(path, data)
    with pytest.raises(DataError, match=r"1 NaN or Inf samples.*\(2, 1, 4, 3\)"):
        read_kspace(path)


def test_npy_of_one_slice(tmp_path):
    data = samples((COILS, ROWS, COLUMNS))
    data[:, :, 2] = 0
    np.save(tmp_path / "scan.npy", data.astype(np.complex128))
    kspace = read_kspace(tmp_path / "scan.npy")
    assert kspace.data.shape == (1, COILS, ROWS, COLUMNS)
    assert kspace.data.dtype == torch.complex64
    assert kspace.mask.sum() == ROWS * (COLUMNS - 1)


def test_slices_may_have_their_own_masks(tmp_path):
    data = samples()
    data[1, :, :, 0] = 0
    np.save(tmp_path / "scan.npy", data)
    assert read_kspace(tmp_path / "scan.npy").mask.shape == (SLICES, ROWS, COLUMNS)
    assert read_kspace(tmp_path / "scan.npy", slices=slice(1, 2)).mask.shape == (1, ROWS, COLUMNS)


def test_big_endian_npy(tmp_path):
    np.save(tmp_path / "scan.npy", samples().astype(">c8"))
    np.testing.assert_array_equal(read_kspace(tmp_path / "scan.npy").data.numpy(), samples())


def test_npz(tmp_path):
    mask = np.ones((ROWS, COLUMNS), bool)
    np.savez(tmp_path / "scan.npz", raw=samples(), mask=mask)
    assert read_kspace(tmp_path / "scan.npz").mask.all()
    np.savez(tmp_path / "two.npz", raw=samples(), other=samples())
    assert read_kspace(tmp_path / "two.npz", "other").n_coils == COILS
    with pytest.raises(DataError, match="expected one array, found other, raw"):
        read_kspace(tmp_path / "two.npz")
    with pytest.raises(DataError, match="no array 'kspace'; it holds other, raw"):
        read_kspace(tmp_path / "two.npz", "kspace")


def test_npz_mask_of_another_size(tmp_path):
    np.savez(tmp_path / "scan.npz", raw=samples(), mask=np.ones((ROWS, COLUMNS + 1)))
    with pytest.raises(ShapeError, match="crop one of them"):
        read_kspace(tmp_path / "scan.npz")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 4, 4), np.float32), "expected complex k-space"),
        (np.ones((4, 4), np.complex64), r"\(coil, ky, kx\)"),
        (np.zeros((2, 4, 4), np.complex64), "only zeros"),
        (np.array(["text"]), "expected numbers"),
    ],
)
def test_npy_of_something_else(tmp_path, array, message):
    np.save(tmp_path / "scan.npy", array)
    with pytest.raises(DataError, match=message):
        read_kspace(tmp_path / "scan.npy")


def test_pickles_are_never_loaded(tmp_path):
    np.save(tmp_path / "scan.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        read_kspace(tmp_path / "scan.npy")


def test_maps(tmp_path):
    kspace = KSpace(torch.from_numpy(samples()), torch.ones(ROWS, COLUMNS, dtype=torch.bool))
    np.save(tmp_path / "maps.npy", samples((COILS, ROWS, COLUMNS)))
    assert read_maps(tmp_path / "maps.npy", kspace).shape == (COILS, ROWS, COLUMNS)
    np.save(tmp_path / "maps.npy", samples((COILS + 1, ROWS, COLUMNS)))
    with pytest.raises(ShapeError, match="estimate the maps from this k-space"):
        read_maps(tmp_path / "maps.npy", kspace)


def test_volume_of_a_reconstruction():
    kspace = KSpace(torch.from_numpy(samples()), torch.ones(ROWS, COLUMNS, dtype=torch.bool),
                    voxel_mm=(4.5, 2.0, 1.0))
    volume = kspace.volume(torch.zeros(SLICES, ROWS, COLUMNS))
    assert volume.spacing_mm == (1.0, 2.0, 4.5)
    assert volume.orientation == "LPS"
    assert "assumed" in str(volume.metadata["position"])


def test_real_brain(shared_data):
    """The measured k-space of the sigpy tutorial: 8 coils, 12.4 % of the points."""
    kspace = read_kspace(shared_data / "mri_brain_8coil_poisson8x" / "cartesian_ksp.npy")
    assert tuple(kspace.data.shape) == (1, 8, 230, 180)
    assert 1 / kspace.acceleration == pytest.approx(0.124, abs=5e-4)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (1, 0, 4, 4), (1, 2, 4, 0)])
def test_no_slice_coil_or_sample(shape):
    data = torch.zeros(shape, dtype=torch.complex64)
    with pytest.raises(ShapeError, match="expected at least one slice, one coil and one sample"):
        KSpace(data, torch.ones(shape[2:]) > 0)
    with pytest.raises(ShapeError, match="expected at least one along each axis"):
        NonCartesianKSpace(data, torch.zeros(*shape[2:], 2), (1, 4, 4))
