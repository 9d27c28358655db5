"""Coil maps for a recipe: estimated from Cartesian k-space, or from the centre of a trajectory."""

from __future__ import annotations

import torch
from torch import Tensor

from medinv.operators import fourier
from medinv.operators.base import Space
from medinv.operators.calibration import Width, centre_block, per_axis
from medinv.operators.coils import espirit, jsense, low_resolution_maps, walsh
from medinv.operators.density import pipe_menon
from medinv.operators.kspace_grid import CentreCrop
from medinv.operators.noncartesian import NonCartesianMRI
from medinv.recipe.blocks import ESPIRiTMaps, LowResolutionMaps, MapEstimate, WalshMaps

_USUAL_WIDTH = 24
_MARGIN = 8  # the fit at the border of the block lacks its neighbours beyond
_FIT_ITERATIONS = 15


def estimate_maps(kspace: Tensor, recipe: MapEstimate, width: Width, ndim: int) -> Tensor:
    """Coil maps of ``kspace``, shaped like it; 1 for a single coil, which needs none.

    Args:
        kspace: (slice, coil, ky, kx) with ``ndim=2``, (coil, kz, ky, kx) with 3; 0 where it was
            not sampled.
        recipe: the method and its settings.
        width: of the calibration region, see `espirit`.
        ndim: number of Fourier axes.

    Raises:
        InputError: the centre of k-space cannot calibrate this method.
    """
    if kspace.shape[-ndim - 1] == 1:
        return torch.ones_like(kspace)
    if isinstance(recipe, ESPIRiTMaps):
        return espirit(kspace, calibration_width=width, threshold=recipe.threshold,
                       crop=recipe.crop, ndim=ndim)
    if isinstance(recipe, WalshMaps):
        return walsh(kspace, calibration_width=width, window=recipe.window,
                     support=recipe.support, ndim=ndim)
    if isinstance(recipe, LowResolutionMaps):
        return low_resolution_maps(kspace, calibration_width=width, support=recipe.support,
                                   ndim=ndim)
    items = kspace.reshape(-1, *kspace.shape[-ndim - 1:])
    maps = [jsense(item, (item != 0).any(0), kernel_width=recipe.kernel_width, ndim=ndim,
                   calibration_width=width, max_iter=recipe.max_iter,
                   regularisation=recipe.regularisation) for item in items]
    return torch.stack(maps).reshape(kspace.shape)


def cartesian_centre(data: Tensor, trajectory: Tensor, grid: tuple[int, ...],
                     width: Width) -> Tensor:
    """The centre of k-space on the Cartesian grid, fitted to the samples near it, coil by coil.

    Args:
        data: (slice, coil, *samples).
        trajectory: (*samples, 2 or 3), cycles per field of view.
        grid: pixels of the image.
        width: of the central block to fit, 24 if None, at most the grid's.

    Returns:
        (slice, coil, *grid), 0 outside the block.
    """
    asked = per_axis("cartesian_centre", width or _USUAL_WIDTH, len(grid))
    widths = tuple(min(w, n) for w, n in zip(asked, grid, strict=True))
    sizes = tuple(min(n, w + _MARGIN) for n, w in zip(grid, widths, strict=True))
    inside = (trajectory.abs() <= torch.tensor(sizes) / 2).all(-1)
    points = trajectory[inside]
    weights = pipe_menon(points, sizes)
    A = NonCartesianMRI(data.new_ones(1, *sizes), points, weights=weights)
    samples = data[..., inside].unsqueeze(2) * weights.sqrt().to(data.real.dtype)
    fitted = fourier.fft(A.solve(samples, max_iter=_FIT_ITERATIONS), range(-len(grid), 0))
    fitted = centre_block(fitted, widths)
    whole = Space((*data.shape[:2], *grid), data.dtype)
    return CentreCrop(whole, widths).adjoint(fitted)
