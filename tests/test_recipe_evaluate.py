"""Volumes on disk are compared where they lie, whatever their format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import medinv
from medinv.data import Metadata, write_dicom
from medinv.data.geometry import turned
from medinv.errors import DataError
from medinv.recipe.evaluate import evaluate_files
from tests import tiny


def test_evaluate_checks_grid_unit_and_region(tmp_path):
    truth = tiny.ct_volume()
    moved = medinv.Volume(truth.data, truth.affine + torch.eye(4, dtype=torch.float64).flip(1))
    names = ("truth", "moved", "small", "mask", "off")
    truth_file, moved_file, small, mask, off = (tmp_path / f"{name}.nii.gz" for name in names)
    truth.to_nifti(truth_file)
    moved.to_nifti(moved_file)
    tiny.ct_volume((4, 24, 30)).to_nifti(small)
    truth.with_data((truth.data == 0).float()).to_nifti(mask)
    truth.with_data(truth.data + 100 * (truth.data == 0)).to_nifti(off)
    assert evaluate_files(truth_file, truth_file, hu=True)["SSIM"] == pytest.approx(1)
    # On the water alone the error is 100 HU of a peak of 1500 HU above air.
    psnr = evaluate_files(off, truth_file, mask, hu=True)["PSNR (dB)"]
    assert psnr == pytest.approx(20 * np.log10(15), abs=1e-3)
    with pytest.raises(DataError, match="pass --hu"):
        evaluate_files(truth_file, truth_file)
    with pytest.raises(DataError, match="another place in the patient"):
        evaluate_files(moved_file, truth_file, hu=True)
    with pytest.raises(DataError, match=r"expected the reference's shape .* found \(4, 24, 30\)"):
        evaluate_files(small, truth_file, hu=True)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "ASR"])
def test_evaluate_takes_dicom_and_arrays(tmp_path, orientation):
    """medinv's own DICOM has other axes than its NIfTI, at the same places."""
    truth = turned(tiny.ct_volume((8, 24, 32)), orientation)
    truth.to_nifti(tmp_path / "truth.nii.gz")
    off = truth.with_data(truth.data + 100 * (truth.data == 0))
    write_dicom(replace(off, metadata={"unit": "HU"}, acquisition=Metadata(modality="CT")),
                tmp_path / "dicom")
    np.save(tmp_path / "off.npy", off.data.numpy())
    np.save(tmp_path / "mask.npy", (truth.data == 0).numpy())
    for name in ("dicom", "off.npy"):
        found = evaluate_files(tmp_path / name, tmp_path / "truth.nii.gz", tmp_path / "mask.npy",
                               hu=True)
        assert found["PSNR (dB)"] == pytest.approx(20 * np.log10(15), abs=1e-2)  # 1 HU steps
    same = evaluate_files(tmp_path / "truth.nii.gz", tmp_path / "dicom", hu=True)
    assert same["NRMSE"] > 0
    np.save(tmp_path / "flat.npy", np.zeros((2, 3, 4, 5), np.float32))
    with pytest.raises(DataError, match=r"expected an array \(z, y, x\)"):
        evaluate_files(tmp_path / "flat.npy", tmp_path / "truth.nii.gz", hu=True)
    np.save(tmp_path / "flat.npy", np.zeros((5, 5), np.float32))
    with pytest.raises(DataError, match="expected the reference's shape"):
        evaluate_files(tmp_path / "flat.npy", tmp_path / "truth.nii.gz", hu=True)
