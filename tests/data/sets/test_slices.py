"""Slices for training: every plane, many volumes, any number of workers, nothing stale."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from medinv.data import Volume, orientation_affine, to_ras
from medinv.data.sets import kspace_slices
from medinv.data.sets.kspace_slices import KSpaceSlices
from medinv.data.sets.slices import PLANES, PlaneOf, SliceStack, VolumeSlices
from medinv.errors import DataError, InputError
from medinv.operators.coils import espirit
from tests import tiny


@pytest.fixture
def volumes(tmp_path) -> list[Path]:
    """Three volumes whose axes are stored in different orders."""
    files = []
    for n, orientation in enumerate(("RAS", "LPS", "SRA")):
        rng = torch.Generator().manual_seed(n)
        data = torch.rand(3 + n, 4, 5, generator=rng)
        affine = orientation_affine(orientation, (1, 2, 3), (5, 4, 3 + n))
        files.append(tmp_path / f"{n}.nii.gz")
        Volume(data, affine).to_nifti(files[-1])
    return files


@pytest.mark.parametrize("plane", PLANES)
def test_planes_are_anatomical_whatever_the_order_of_axes(volumes, tmp_path, plane):
    slices = VolumeSlices(volumes, plane, tmp_path / "cache")
    axis = PLANES.index(plane)
    expected = [image for file in volumes
                for image in to_ras(Volume.from_nifti(file)).data.unbind(axis)]
    assert len(slices) == len(expected)
    for image, wanted in zip(slices, expected, strict=True):
        assert torch.equal(image, wanted)
    assert slices.stacks[0].shape == (len(slices.stacks[0]), *expected[0].shape)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_see_the_same_slices(volumes, tmp_path, workers):
    slices = VolumeSlices(volumes[:1], "axial", tmp_path / "cache", transform=torch.neg)
    loader = DataLoader(slices, batch_size=2, num_workers=workers)
    assert torch.equal(torch.cat(list(loader)), -to_ras(Volume.from_nifti(volumes[0])).data)


def test_a_volume_is_decoded_once_and_a_changed_file_again(volumes, tmp_path):
    cache = tmp_path / "cache"
    first = SliceStack(volumes[0], PlaneOf("axial"), cache)
    assert len(first) == 3
    entry = next(cache.iterdir())
    written = entry.stat().st_mtime_ns
    copy = pickle.loads(pickle.dumps(first))
    assert torch.equal(copy[1], first[1])
    assert entry.stat().st_mtime_ns == written
    volumes[0].write_bytes(volumes[1].read_bytes())
    assert len(SliceStack(volumes[0], PlaneOf("axial"), cache)) == 4
    assert len(list(cache.iterdir())) == 2


def test_volumes_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="at least one volume"):
        VolumeSlices([])
    with pytest.raises(DataError, match="found no file"):
        VolumeSlices([tmp_path / "none.nii"], folder=tmp_path)
    (tmp_path / "flat").touch()
    with pytest.raises(DataError, match=r"expected slices \(n, y, x\)"):
        len(SliceStack(tmp_path / "flat", _flat, tmp_path / "cache"))


def _flat(_: Path) -> torch.Tensor:
    return torch.zeros(3)


@pytest.fixture
def scans(tmp_path) -> list[Path]:
    """Two files of fully sampled discs, with different numbers of slices and coils."""
    files = []
    for n, n_coils in enumerate((4, 5)):
        kspace = torch.stack([tiny.disc_kspace(n_coils) * (1 + n + s) for s in range(2 + n)])
        files.append(tmp_path / f"scan{n}.h5")
        with h5py.File(files[-1], "w") as file:
            file["kspace"] = kspace.numpy()
    return files


def multicoil(scans: list[Path], tmp_path: Path) -> KSpaceSlices:
    return KSpaceSlices(scans, calibration_width=12, folder=tmp_path / "maps")


@pytest.mark.parametrize("workers", [0, 2])
def test_multicoil_slices_with_maps(scans, tmp_path, workers):
    slices = multicoil(scans, tmp_path)
    assert slices[0].file == 0  # leaves an open handle in this process
    loader = DataLoader(slices, batch_size=None, num_workers=workers)
    items = list(loader)
    assert [(item.file, item.slice) for item in items] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    for item in items:
        with h5py.File(scans[item.file]) as file:
            stored = torch.from_numpy(file["kspace"][item.slice])
        assert torch.equal(item.kspace, stored)
        # a worker has one thread, which rounds otherwise
        torch.testing.assert_close(item.maps, espirit(stored, calibration_width=12),
                                   rtol=1e-4, atol=1e-5)


def test_maps_are_estimated_once(scans, tmp_path, monkeypatch):
    slices = multicoil(scans, tmp_path)
    first = [slices[i].maps for i in range(len(slices))]
    monkeypatch.setattr(kspace_slices, "espirit", lambda *_, **__: pytest.fail("estimated again"))
    again = pickle.loads(pickle.dumps(slices))
    assert all(torch.equal(again[i].maps, maps) for i, maps in enumerate(first))
    other = KSpaceSlices(scans, calibration_width=10, folder=tmp_path / "maps")
    with pytest.raises(pytest.fail.Exception, match="estimated again"):
        other[0]


def test_few_files_stay_open(scans, tmp_path, monkeypatch):
    monkeypatch.setattr(kspace_slices, "_OPEN_FILES", 1)
    slices = multicoil(scans, tmp_path)
    for i in (0, 2, 1, 3):
        assert slices[i].kspace.shape[0] == (4 if i < 2 else 5)
        assert len(slices._open) == 1


def test_kspace_that_cannot_serve(scans, tmp_path):
    with pytest.raises(DataError, match="at least one file"):
        KSpaceSlices([])
    with pytest.raises(DataError, match="found no file"):
        multicoil([tmp_path / "none.h5"], tmp_path)
    with pytest.raises(DataError, match=r"expected k \(slice, coil, ky, kx\), found no such"):
        KSpaceSlices(scans, "k")
    with pytest.raises(InputError, match="calibration_width is 24"):
        KSpaceSlices(scans, calibration_width=24, folder=tmp_path / "maps")[0]
    slices = multicoil(scans, tmp_path)
    with h5py.File(scans[0], "w") as file:
        file["other"] = np.zeros(1)
    with pytest.raises(DataError, match="no data set 'kspace'"):
        slices[0]
    with h5py.File(scans[1], "w") as file:
        file["kspace"] = np.zeros((3, 5, 32, 32), np.float32)
    with pytest.raises(DataError, match="expected complex kspace"):
        slices[2]
    (tmp_path / "text.h5").write_bytes(b"not HDF5")
    with pytest.raises(DataError, match="expected an HDF5 file"):
        multicoil([tmp_path / "text.h5"], tmp_path)
    with pytest.raises(IndexError):
        slices[5]
