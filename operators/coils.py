"""Coil maps from calibration data."""

from __future__ import annotations

import torch
from torch import Tensor

from medinv.errors import InputError, ShapeError

_KERNEL_WIDTH = 6
_USUAL_WIDTH = 24


def espirit(kspace: Tensor, *, calibration_width: int | None = None,
            threshold: float = 0.02, crop: float = 0.95, ndim: int = 2) -> Tensor:
    """ESPIRiT coil maps, one set, by sigpy; each slice on its own.

    Args:
        kspace: ``(*slices, coil, ky, kx)``, or ``(coil, kz, ky, kx)`` with ``ndim=3``; zero where
            not sampled, and fully sampled around its centre.
        calibration_width: side of the central square (cube) to calibrate on; by default the
            largest that is fully sampled in every slice, at most 24.
        threshold: singular values of the calibration matrix below ``threshold`` times the
            largest are taken for noise.
        crop: maps are 0 where the eigenvalue is below; raise it for a tighter support.
        ndim: number of Fourier axes, 2 or 3.

    Returns:
        Maps shaped like ``kspace``: ``sum_c |S_c|^2`` is 1 inside the support and 0 outside; the
        first coil is real.

    Raises:
        ShapeError: k-space that is not complex or lacks axes.
        InputError: a calibration region that is too small or not fully sampled.

    Source:
        Uecker et al., "ESPIRiT", Magn. Reson. Med. 71 (2014), 990.

    Example:
        >>> kspace = torch.randn(4, 32, 32, dtype=torch.complex64)
        >>> espirit(kspace, calibration_width=12).shape
        torch.Size([4, 32, 32])
    """
    if not kspace.is_complex() or kspace.ndim < ndim + 1:
        raise ShapeError(f"espirit: k-space is {tuple(kspace.shape)}, {kspace.dtype}; pass a "
                         f"complex tensor (*slices, coil{', kz' * (ndim == 3)}, ky, kx).")
    slices = kspace.reshape(-1, *kspace.shape[-ndim - 1:])
    width = _calibration_width(slices, calibration_width)
    maps = [_espirit(item, width, threshold, crop) for item in slices]
    return torch.stack(maps).reshape(kspace.shape)


def _calibration_width(slices: Tensor, requested: int | None) -> int:
    largest = _sampled_width(slices)
    width = min(largest, _USUAL_WIDTH) if requested is None else requested
    if not _KERNEL_WIDTH <= width <= largest:
        raise InputError(
            f"espirit: calibration_width is {width}, but the fully sampled centre of k-space is "
            f"{largest} wide and the kernel {_KERNEL_WIDTH}; pass a width between the two, or "
            "maps from another scan."
        )
    return width


def _sampled_width(slices: Tensor) -> int:
    """Largest ``w`` so that the central ``w`` samples along every axis are sampled."""
    sampled = (slices != 0).any(1).all(0)
    width = 0
    while width < min(sampled.shape) and bool(_centre(sampled, width + 1).all()):
        width += 1
    return width


def _centre(x: Tensor, width: int) -> Tensor:
    for axis, n in enumerate(x.shape):
        x = x.narrow(axis, n // 2 - width // 2, width)
    return x


def _espirit(kspace: Tensor, width: int, threshold: float, crop: float) -> Tensor:
    import numpy as np
    from sigpy.mri.app import EspiritCalib

    device: object = -1
    data = kspace.resolve_conj()
    if kspace.is_cuda:
        import cupy

        device, array = kspace.device.index, cupy.from_dlpack(data.contiguous())
    else:
        array = data.numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        maps = EspiritCalib(array, calib_width=width, thresh=threshold, crop=crop, device=device,
                            kernel_width=_KERNEL_WIDTH, show_pbar=False).run()
    result = torch.as_tensor(maps, device=kspace.device).to(kspace.dtype).nan_to_num()
    norm = torch.linalg.vector_norm(result, dim=0)
    return result / torch.where(norm > 0, norm, 1)
