"""Compare two volumes on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from medinv.data import Volume, hu_to_mu, read_volume
from medinv.data.geometry import turned
from medinv.data.mri.arrays import read_array
from medinv.errors import DataError
from medinv.evaluation.metrics import nrmse, psnr, ssim

_AIR_HU = -500
_ARRAYS = (".npy", ".npz")


def evaluate_files(
    reconstruction: str | Path,
    reference: str | Path,
    mask: str | Path | None = None,
    *,
    hu: bool = False,
) -> dict[str, float]:
    """PSNR, SSIM and NRMSE of a volume against another (see `medinv.evaluation.metrics`).

    Each is NIfTI, NRRD, MetaImage, DICOM (folder, zip or file), or a NumPy array (z, y, x), which
    has no place in the patient: its shape alone is compared. Axes are flipped and swapped as the
    reference's, so that medinv's own DICOM fits the NIfTI that it came from.

    Args:
        reconstruction: the volume under test.
        reference: the truth.
        mask: voxels above 0 count; all of them if None.
        hu: both are CT in HU; attenuations are compared, in which air is 0.

    Raises:
        DataError: a file that is missing or broken, another grid, or HU without ``hu``.
        InputError: the reference or the mask is empty.
    """
    truth = _read(reference)
    image = _on_grid(truth, reconstruction)
    region = None if mask is None else _on_grid(truth, mask) > 0
    target = _voxels(truth)
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


def _read(path: str | Path) -> Volume | Tensor:
    """A volume, or an array (z, y, x) without a place."""
    if Path(path).suffix.lower() not in _ARRAYS:
        return read_volume(path)
    array = read_array(path)
    if array.ndim not in (2, 3):
        raise DataError(f"{path}: expected an array (z, y, x) or (y, x), found "
                        f"{tuple(array.shape)}; save one volume")
    kept = array if array.is_complex() or array.is_floating_point() else array.float()
    return kept if kept.ndim == 3 else kept[None]


def _voxels(found: Volume | Tensor) -> Tensor:
    return found.data if isinstance(found, Volume) else found


def _on_grid(truth: Volume | Tensor, path: str | Path) -> Tensor:
    """The voxels of a file that lies on the grid of ``truth``."""
    found, expected = _read(path), tuple(_voxels(truth).shape)
    if isinstance(found, Volume) and isinstance(truth, Volume):
        found = turned(found, truth.orientation)
    voxels = _voxels(found)
    if tuple(voxels.shape) != expected:
        raise DataError(
            f"{path}: expected the reference's shape (z, y, x) = {expected}, found "
            f"{tuple(voxels.shape)}; crop or resample it"
        )
    if isinstance(found, Volume) and isinstance(truth, Volume) and not torch.allclose(
            found.affine, truth.affine, rtol=0, atol=1e-2):
        raise DataError(
            f"{path}: same shape as the reference, but another place in the patient (affine "
            f"{found.affine.tolist()} against {truth.affine.tolist()}); resample it"
        )
    return voxels
