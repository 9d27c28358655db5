"""Small files that unpack to much: every reader of compressed data refuses them by one limit.

The limit's free part is lowered to 1 MiB here, so that 16 MiB of zeros, 1000 times smaller when
they are packed, make a bomb.
"""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, RLELossless
from scipy.io import savemat

from medinv.data import (
    expansion,
    read_array,
    read_dicom,
    read_fastmri,
    read_nifti,
    read_sinogram,
    write_nifti,
)
from medinv.data.describe import describe
from medinv.data.volume import Volume
from medinv.errors import DataError, InputError
from tests.data.dicom.dicom_phantom import slices

ZEROS = np.zeros((4, 1024, 1024), np.complex64)  # 32 MiB


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch):
    monkeypatch.setattr(expansion, "FREE_BYTES", 2**20)
    monkeypatch.delenv(expansion.VARIABLE, raising=False)


def nifti_of_zeros(path: Path) -> None:
    import torch

    write_nifti(Volume(torch.zeros(64, 256, 256), torch.eye(4).double()), path)


def nifti_that_declares(path: Path) -> None:
    """A header of 1000^3 voxels, and nothing after it."""
    small = path.with_name("small.nii.gz")
    nifti_of_zeros(small)
    content = bytearray(gzip.decompress(small.read_bytes())[:352])
    struct.pack_into("<3h", content, 42, 1000, 1000, 1000)
    path.write_bytes(gzip.compress(bytes(content)))


def npz_of_zeros(path: Path) -> None:
    np.savez_compressed(path, kspace=ZEROS)


def hdf5_of_zeros(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=ZEROS[None], chunks=(1, *ZEROS.shape),
                            compression="gzip")


def hdf5_of_a_large_chunk(path: Path) -> None:
    """64 numbers in a chunk that declares 32 MiB."""
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=ZEROS[None, :1, :8, :8], chunks=(1, *ZEROS.shape),
                            maxshape=(1, *ZEROS.shape), compression="gzip")


def hdf5_of_a_false_chunk(path: Path) -> None:
    """A chunk that declares 8 KiB and holds 32 MiB."""
    with h5py.File(path, "w") as file:
        kspace = file.create_dataset("kspace", (1, 1, 32, 32), np.complex64, chunks=True,
                                     compression="gzip")
        kspace.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(ZEROS.tobytes()))


def hdf5_packed_twice(path: Path) -> None:
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((1, 1, 8, 8))
        properties.set_deflate(9)
        properties.set_filter(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FLAG_MANDATORY, (9,))
        kind = h5py.h5t.py_create(np.dtype(np.complex64))
        h5py.h5d.create(file.id, b"kspace", kind, h5py.h5s.create_simple((1, 1, 8, 8)), properties)
        file["kspace"][:] = 1


def mat_of_zeros(path: Path) -> None:
    savemat(path, {"kspace": ZEROS}, do_compression=True)


def mat_of_a_false_variable(path: Path) -> None:
    """A variable that declares 64 bytes and unpacks to 32 MiB."""
    savemat(path, {"kspace": ZEROS[:, :2, :2]}, do_compression=True)
    content = path.read_bytes()
    packed = zlib.compress(struct.pack("<II", 14, 64) + ZEROS.tobytes())
    path.write_bytes(content[:128] + struct.pack("<II", 15, len(packed)) + packed)


def struct_of_zeros(path: Path) -> None:
    savemat(path, {"CtDataFull": {"sinogram": ZEROS.real}}, do_compression=True)


def nrrd_of_zeros(path: Path) -> None:
    itk = pytest.importorskip("SimpleITK")
    itk.WriteImage(itk.GetImageFromArray(ZEROS.real), str(path), useCompression=True)


def zip_of_zeros(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.dcm", ZEROS.tobytes())


def dicom_that_declares(path: Path, syntax: str) -> None:
    """A few packed pixels of an image that declares 16384^2 of them."""
    image = slices(np.arange(1024, dtype=np.int16).reshape(1, 32, 32))[0]
    image.compress(syntax, generate_instance_uid=False)
    image.Rows = image.Columns = 16384
    image.save_as(path, enforce_file_format=True)


def jpeg2000_of_another_size(path: Path) -> None:
    """Packed pixels that declare 30000^2 themselves, in an image of 32 x 32."""
    image = slices(np.arange(1024, dtype=np.int16).reshape(1, 32, 32))[0]
    image.compress(JPEG2000Lossless, generate_instance_uid=False)
    frame = bytearray(next(generate_frames(image.PixelData, number_of_frames=1)))
    at = frame.index(b"\xff\x4f\xff\x51")
    for place in (8, 24):  # of the image, of its tile
        struct.pack_into(">II", frame, at + place, 30000, 30000)
    image.PixelData = encapsulate([bytes(frame)])
    image.save_as(path, enforce_file_format=True)


def rle_that_declares(path: Path) -> None:
    dicom_that_declares(path, RLELossless)


def jpeg2000_that_declares(path: Path) -> None:
    dicom_that_declares(path, JPEG2000Lossless)


BOMBS = [
    (nifti_of_zeros, ".nii.gz", read_nifti), (nifti_that_declares, ".nii.gz", read_nifti),
    (npz_of_zeros, ".npz", read_array), (hdf5_of_zeros, ".h5", read_fastmri),
    (hdf5_of_a_large_chunk, ".h5", read_fastmri), (hdf5_of_a_false_chunk, ".h5", read_fastmri),
    (hdf5_packed_twice, ".h5", read_fastmri), (mat_of_zeros, ".mat", read_array),
    (mat_of_a_false_variable, ".mat", read_array), (mat_of_a_false_variable, ".mat", describe),
    (struct_of_zeros, ".mat", read_sinogram), (nrrd_of_zeros, ".nrrd", describe),
    (zip_of_zeros, ".zip", read_dicom), (rle_that_declares, ".dcm", read_dicom),
    (jpeg2000_that_declares, ".dcm", read_dicom),
    (jpeg2000_of_another_size, ".dcm", read_dicom),
]


@pytest.mark.parametrize(("make", "suffix", "read"), BOMBS)
def test_bombs_are_refused(tmp_path, make, suffix, read):
    path = tmp_path / f"bomb{suffix}"
    make(path)
    assert path.stat().st_size < 2**19
    with pytest.raises(DataError, match="unpack to at most 250 times|more than the .* bytes|"
                                        "compressed 2 times|frame declares"):
        read(path)


def test_the_limit_can_be_raised(tmp_path, monkeypatch):
    monkeypatch.setenv(expansion.VARIABLE, "2000")
    for make, suffix, read in ((npz_of_zeros, ".npz", read_array),
                               (nifti_of_zeros, ".nii.gz", read_nifti),
                               (hdf5_of_a_large_chunk, ".h5", read_fastmri)):
        make(tmp_path / f"sound{suffix}")
        if read is read_fastmri:
            with pytest.raises(DataError, match="only zeros"):
                read(tmp_path / f"sound{suffix}")
        else:
            read(tmp_path / f"sound{suffix}")


@pytest.mark.parametrize("text", ["much", "0", "nan", "-1", ""])
def test_a_wrong_limit(monkeypatch, text):
    monkeypatch.setenv(expansion.VARIABLE, text)
    with pytest.raises(InputError, match="MEDINV_MAX_EXPANSION: expected a number"):
        expansion.check_expansion("scan.h5", 1, 1)


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"fletcher32": True},
                                     {"shuffle": True, "fletcher32": True}])
def test_sound_chunks_are_read_in_parts(tmp_path, options):
    """Numbers that barely compress, of which the chunks are looked into before they are read."""
    rng = np.random.default_rng(0)
    kspace = rng.normal(size=(4, 2, 96, 80)).astype(np.complex64)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("kspace", data=kspace, chunks=(1, 2, 64, 80), compression="gzip",
                            **options)
    found = read_fastmri(tmp_path / "scan.h5", slices=slice(1, 3)).data
    np.testing.assert_array_equal(found, kspace[1:3])


def test_a_false_chunk_elsewhere_is_not_touched(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        kspace = file.create_dataset("kspace", (2, 1, 32, 32), np.complex64, chunks=(1, 1, 32, 32),
                                     compression="gzip")
        kspace[0] = 1
        kspace.id.write_direct_chunk((1, 0, 0, 0), zlib.compress(ZEROS.tobytes()))
    assert read_fastmri(tmp_path / "scan.h5", slices=slice(0, 1)).data.shape == (1, 1, 32, 32)
    with pytest.raises(DataError, match="holds more than"):
        read_fastmri(tmp_path / "scan.h5", slices=slice(1, 2))


def test_groups_without_end(tmp_path):
    """3000 groups into each other, on which HDF5's own visit takes a minute."""
    with h5py.File(tmp_path / "deep.h5", "w") as file:
        group = file
        for _ in range(3000):
            group = group.create_group("g")
        file["first/scan"] = np.zeros(3)
        file["first/circle"] = file["first"]
    assert describe(tmp_path / "deep.h5")["arrays"]["first/scan"] == "(3,) float64"


def test_a_broken_mat_is_described_by_an_error(tmp_path):
    mat_of_zeros(tmp_path / "scan.mat")
    content = bytearray((tmp_path / "scan.mat").read_bytes())
    content[140:180] = b"\xff" * 40
    (tmp_path / "scan.mat").write_bytes(content)
    with pytest.raises(DataError, match="expected a MATLAB file"):
        describe(tmp_path / "scan.mat")
