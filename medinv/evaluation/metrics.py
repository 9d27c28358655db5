"""Image quality with one convention, so that numbers of different methods and runs compare.

- The data range is the maximum of the reference *volume*, never of a slice and never max - min.
- Images are not rescaled, shifted or clipped before they are compared; complex ones are compared
  by magnitude. CT is compared in attenuation (1/mm), where air is 0, not in HU.
- The region of interest is an argument; without one, every voxel counts.
- SSIM is that of Wang et al. 2004 on 2D slices, averaged over the volume: 7 x 7 uniform window,
  sample covariance, K1 = 0.01, K2 = 0.03, windows wholly inside the slice (as fastMRI does).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from medinv.errors import InputError, ShapeError
from medinv.operators import LinearOperator

_WINDOW = 7


def psnr(
    image: Tensor, reference: Tensor, roi: Bool[Tensor, "*region"] | None = None
) -> float:
    """Peak signal-to-noise ratio in dB: ``10 log10(max(reference)^2 / mean((x - reference)^2))``.

    Infinite where the images are equal.

    Args:
        image: the image under test, of any shape, real or complex.
        reference: the truth, of the same shape.
        roi: voxels to count. The data range stays that of the whole reference.

    Raises:
        ShapeError: shapes differ.
        InputError: the reference has no positive voxel, the region is empty, or NaN or Inf.

    >>> reference = torch.tensor([0.0, 1.0, 2.0])
    >>> round(psnr(reference + 0.2, reference), 3)
    20.0
    """
    image, reference, roi = _prepare(image, reference, roi)
    mean_square = (image - reference)[roi].square().mean().item()
    peak = reference.max().item()
    return math.inf if mean_square == 0 else 10 * math.log10(peak**2 / mean_square)


def nrmse(
    image: Tensor, reference: Tensor, roi: Bool[Tensor, "*region"] | None = None
) -> float:
    """Relative error ``||x - reference|| / ||reference||`` over the region of interest.

    Args and errors as for `psnr`; the reference must not vanish on the region.

    >>> nrmse(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0])) == 0.2**0.5
    True
    """
    image, reference, roi = _prepare(image, reference, roi)
    norm = torch.linalg.vector_norm(reference[roi])
    if norm == 0:
        raise InputError("nrmse: the reference is zero on the region; choose one with signal")
    return float(torch.linalg.vector_norm((image - reference)[roi]) / norm)


def ssim(
    image: Tensor, reference: Tensor, roi: Bool[Tensor, "*region"] | None = None
) -> float:
    """Structural similarity, slice by slice, averaged over all windows of the volume.

    Args:
        image: the image under test, (*batch, y, x), real or complex.
        reference: the truth, of the same shape.
        roi: a window counts where its centre lies in the region.

    Raises:
        ShapeError: shapes differ, or a slice is smaller than the window.
        InputError: as for `psnr`, or no window has its centre in the region.

    >>> reference = torch.rand(2, 16, 16)
    >>> ssim(reference, reference)
    1.0
    """
    if image.ndim < 2 or min(image.shape[-2:]) < _WINDOW:
        raise ShapeError(
            f"ssim: expected slices of at least {_WINDOW} x {_WINDOW}, got {tuple(image.shape)}"
        )
    image, reference, roi = _prepare(image, reference, roi)
    peak = reference.max().item()
    size, edge = image.shape[-2:], _WINDOW // 2
    slices = zip(
        image.reshape(-1, *size), reference.reshape(-1, *size), roi.reshape(-1, *size), strict=True
    )
    total, count = 0.0, 0
    for x, y, inside in slices:
        centres = inside[edge:-edge, edge:-edge]
        total += _ssim_map(x, y, peak)[centres].sum().item()
        count += int(centres.sum())
    if not count:
        raise InputError("ssim: no window has its centre in the region; choose a larger region")
    return total / count


def measurement_residual(x: Tensor, y: Tensor, A: LinearOperator) -> float:
    """``||A x - y|| / ||y||``: how far the image is from explaining the data.

    Near the relative noise level for a faithful reconstruction; far above it, data are ignored.

    Args:
        x: (*domain.shape), in the domain of ``A``.
        y: (*codomain.shape), the measurement.
        A: the operator.

    Raises:
        ShapeError: ``x`` or ``y`` does not fit ``A``.
        InputError: the measurement is zero.
    """
    A.codomain.check(y, "measurement_residual: y")
    norm = torch.linalg.vector_norm(y)
    if norm == 0:
        raise InputError("measurement_residual: y is zero; there is nothing to explain")
    with torch.no_grad():
        return float(torch.linalg.vector_norm(A(x) - y) / norm)


def _prepare(
    image: Tensor, reference: Tensor, roi: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 magnitudes (or real values) and the region, checked."""
    if image.shape != reference.shape or (roi is not None and roi.shape != reference.shape):
        region = "" if roi is None else f", roi {tuple(roi.shape)}"
        raise ShapeError(
            f"metrics: image {tuple(image.shape)}, reference {tuple(reference.shape)}{region} "
            "must have one shape; crop or resample first"
        )
    if image.is_complex() or reference.is_complex():
        image, reference = image.abs(), reference.abs()
    image, reference = image.detach().double(), reference.detach().double()
    if not bool(image.isfinite().all() and reference.isfinite().all()):
        raise InputError("metrics: expected finite images, found NaN or Inf")
    if not reference.numel() or reference.max() <= 0:
        raise InputError(
            "metrics: the maximum of the reference is the data range and must be positive; "
            "compare CT in attenuation (1/mm), not in HU"
        )
    roi = torch.ones_like(reference, dtype=torch.bool) if roi is None else roi
    if not bool(roi.any()):
        raise InputError("metrics: the region of interest is empty")
    return image, reference, roi


def _ssim_map(x: Tensor, y: Tensor, peak: float) -> Tensor:
    """SSIM of every window inside two (y, x) slices."""
    n = _WINDOW**2
    moments = torch.stack([x, y, x * x, y * y, x * y])[:, None]
    mx, my, mxx, myy, mxy = F.avg_pool2d(moments, _WINDOW, stride=1)[:, 0].unbind()
    unbiased = n / (n - 1)
    vx, vy = unbiased * (mxx - mx * mx), unbiased * (myy - my * my)
    vxy = unbiased * (mxy - mx * my)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    luminance: Tensor = (2 * mx * my + c1) / (mx * mx + my * my + c1)
    return luminance * (2 * vxy + c2) / (vx + vy + c2)
