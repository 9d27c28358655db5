"""Compare two volumes on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from medinv.data import Volume, hu_to_mu, read_nifti
from medinv.errors import DataError
from medinv.evaluation.metrics import nrmse, psnr, ssim

_AIR_HU = -500


def evaluate_files(
    reconstruction: str | Path,
    reference: str | Path,
    mask: str | Path | None = None,
    *,
    hu: bool = False,
) -> dict[str, float]:
    """PSNR, SSIM and NRMSE of a NIfTI file against another (see `medinv.evaluation.metrics`).

    Args:
        reconstruction: the volume under test.
        reference: the truth.
        mask: voxels above 0 count; all of them if None.
        hu: both are CT in HU; attenuations are compared, in which air is 0.

    Raises:
        DataError: a file that is missing or broken, another grid, or HU without ``hu``.
        InputError: the reference or the mask is empty.
    """
    truth = read_nifti(reference)
    image = _on_grid(truth, reconstruction)
    region = None if mask is None else _on_grid(truth, mask) > 0
    target = truth.data
    if hu:
        image, target = hu_to_mu(image), hu_to_mu(target)
    elif not target.is_complex() and float(target.min()) < _AIR_HU:
        raise DataError(
            f"{reference}: the smallest voxel is {float(target.min()):.4g}, as in CT; pass --hu "
            "to compare attenuations, as the metrics need a background of 0"
        )
    return {
        "PSNR (dB)": psnr(image, target, region),
        "SSIM": ssim(image, target, region),
        "NRMSE": nrmse(image, target, region),
    }


def _on_grid(truth: Volume, path: str | Path) -> Tensor:
    """The voxels of a file that lies on the grid of ``truth``."""
    volume = read_nifti(path)
    if volume.data.shape != truth.data.shape:
        raise DataError(
            f"{path}: expected the reference's shape (z, y, x) = {tuple(truth.data.shape)}, found "
            f"{tuple(volume.data.shape)}; crop or resample it"
        )
    if not torch.allclose(volume.affine, truth.affine, rtol=0, atol=1e-2):
        raise DataError(
            f"{path}: same shape as the reference, but another place in the patient (affine "
            f"{volume.affine.tolist()} against {truth.affine.tolist()}); resample it"
        )
    return volume.data
