"""NRRD and MetaImage beside NIfTI: the same voxels at the same places."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import SimpleITK as itk
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medinv.data import Volume, read_itk, read_nifti, read_volume
from medinv.data.describe import describe
from medinv.errors import DataError, DependencyError
from tests.data.fuzzing import assert_survives

angle = st.floats(-3.0, 3.0)


def rotation(a: float, b: float, c: float) -> np.ndarray:
    def about(axis: int, t: float) -> np.ndarray:
        matrix = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        matrix[[i, i, j, j], [i, j, i, j]] = np.cos(t), -np.sin(t), np.sin(t), np.cos(t)
        return matrix
    return about(0, a) @ about(1, b) @ about(2, c)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@settings(max_examples=15, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(angles=st.tuples(angle, angle, angle), flip=st.booleans(),
       spacing=st.tuples(*[st.floats(0.3, 5.0)] * 3),
       origin=st.tuples(*[st.floats(-200.0, 200.0)] * 3))
def test_as_nifti(tmp_path, suffix, angles, flip, spacing, origin):
    """SimpleITK writes what medinv wrote as NIfTI, oblique, flipped and anisotropic."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(*angles) * np.array(spacing) * [1, 1, -1 if flip else 1]
    affine[:3, 3] = origin
    volume = Volume(torch.arange(24.0).reshape(2, 3, 4), torch.from_numpy(affine))
    volume.to_nifti(tmp_path / "image.nii")
    itk.WriteImage(itk.ReadImage(str(tmp_path / "image.nii")), str(tmp_path / f"image{suffix}"))
    found, expected = read_volume(tmp_path / f"image{suffix}"), read_nifti(tmp_path / "image.nii")
    assert torch.equal(found.data, expected.data)
    # NIfTI keeps the affine in single precision, at up to 200 mm.
    torch.testing.assert_close(found.affine, expected.affine, rtol=0, atol=2e-4)


@pytest.fixture
def nrrd(tmp_path):
    image = itk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    itk.WriteImage(image, str(tmp_path / "image.nrrd"))
    return tmp_path / "image.nrrd"


def test_describe(nrrd):
    assert describe(nrrd)["shape (z, y, x)"] == [2, 3, 4]
    assert describe(nrrd)["orientation (x, y, z)"] == "LPS"


def test_what_is_refused(nrrd, tmp_path, monkeypatch):
    itk.WriteImage(itk.ReadImage(str(nrrd)), str(tmp_path / "pair.mhd"))
    (tmp_path / "pair.mhd").rename(tmp_path / "pair.mha")
    with pytest.raises(DataError, match="points to another file"):
        read_itk(tmp_path / "pair.mha")
    nrrd.write_bytes(nrrd.read_bytes().replace(b"encoding:", b"data file: other.raw\nencoding:"))
    with pytest.raises(DataError, match="points to another file"):
        read_itk(nrrd)
    flat = itk.GetImageFromArray(np.zeros((3, 4), np.float32))
    itk.WriteImage(flat, str(tmp_path / "flat.nrrd"))
    with pytest.raises(DataError, match=r"found 1 in \(4, 3\)"):
        read_itk(tmp_path / "flat.nrrd")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(DependencyError, match=r"medinv\[itk\]"):
        read_itk(tmp_path / "flat.nrrd")


def test_fuzz(nrrd):
    seed = nrrd.read_bytes()
    assert_survives(read_itk, ".nrrd", [seed], 60)
