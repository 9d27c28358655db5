"""What must hold of the maps, the trajectory and the weights of a non-Cartesian operator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medinv.errors import InputError, ShapeError

# Values up to 0.5 or pi that cover less than this part of k-space are taken for other units.
_LEAST_COVER = 0.1
# Trajectories computed in single precision may pass the edge by a little.
_SLACK = 1e-5


def check_maps(name: str, maps: Tensor, ndim: int) -> None:
    """Raise `ShapeError` unless ``maps`` are finite, complex, and fit ``ndim`` Fourier axes."""
    if ndim not in (2, 3):
        raise ShapeError(f"{name}: the trajectory's last axis is {ndim}; it holds (ky, kx) or "
                         "(kz, ky, kx), so pass (*samples, 2) or (*samples, 3).")
    if not maps.is_complex():
        raise ShapeError(f"{name}: maps are {maps.dtype}; pass complex64 or complex128.")
    if maps.ndim < ndim + 1 or (ndim == 3 and maps.ndim > 4):
        expected = "(*slices, coil, y, x)" if ndim == 2 else "(coil, z, y, x)"
        raise ShapeError(f"{name}: maps are {tuple(maps.shape)} but a trajectory of {ndim} axes "
                         f"needs {expected}; add the missing axis or drop the extra.")
    if not bool(maps.isfinite().all()):
        raise ShapeError(f"{name}: maps hold NaN or infinity; use `maps.nan_to_num()` where the "
                         "coils see nothing.")


def check_trajectory(name: str, trajectory: Tensor, grid: Sequence[int],
                     shift: Sequence[float] = ()) -> Tensor:
    """``trajectory + shift`` in float64, or an error that says how to repair its units.

    Args:
        name: the operator, for messages.
        trajectory: ``(*samples, axis)``.
        grid: pixels along each axis.
        shift: one number per axis, or none.

    Raises:
        ShapeError: no sample, or not real numbers.
        InputError: not finite, outside the grid, or in other units; a shift of another length.
    """
    if (trajectory.ndim < 2 or trajectory.numel() == 0 or not trajectory.is_floating_point()
            or trajectory.shape[-1] != len(grid)):
        raise ShapeError(f"{name}: the trajectory is {tuple(trajectory.shape)} of "
                         f"{trajectory.dtype}; pass real (*samples, {len(grid)}), one or more.")
    points = trajectory.double()
    if not bool(points.isfinite().all()):
        raise InputError(f"{name}: the trajectory holds NaN or infinity; drop those samples.")
    _check_units(name, points.abs().flatten(0, -2).amax(0), points.new_tensor(grid) / 2)
    if len(shift) not in (0, len(grid)) or not all(map(math.isfinite, shift)):
        raise InputError(f"{name}: shift is {tuple(shift)}; pass one finite number per axis, "
                         f"{len(grid)} of them, in cycles per field of view.")
    return points + points.new_tensor(shift) if len(shift) else points


def _check_units(name: str, highest: Tensor, edge: Tensor) -> None:
    """The highest frequency along each axis against the edge of k-space."""
    found = ", ".join(f"{value:.4g}" for value in highest.tolist())
    limits = ", ".join(f"{value:g}" for value in edge.tolist())
    expected = f"{name}: expected cycles per field of view, up to {limits} along the axes"
    if bool((highest > edge * (1 + _SLACK)).any()):
        raise InputError(f"{expected}; the trajectory reaches {found}. Multiply 1/m by the "
                         "field of view in m, order the last axis as (kz, ky, kx), or pass maps "
                         "of a finer grid.")
    if float((highest / edge).max()) >= _LEAST_COVER:
        return
    for largest, units, factor in ((0.5, "cycles per pixel", "n"),
                                   (math.pi, "radians per pixel", "n / (2 pi)")):
        if bool((highest <= largest * (1 + _SLACK)).all()) and float(highest.max()) > 0:
            raise InputError(f"{expected}; the trajectory reaches only {found}, which looks like "
                             f"{units}. Multiply each axis by {factor}, its pixels n, or pass "
                             "maps of a coarser grid.")


def fit_weights(name: str, weights: Tensor | None, samples: tuple[int, ...],
                maps: Tensor) -> Tensor | None:
    """Square roots of ``weights``, ``(*samples)``, in the precision of the maps."""
    if weights is None:
        return None
    if weights.is_complex() or not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ShapeError(f"{name}: weights are complex, negative or not finite; pass real numbers "
                         "of at least 0.")
    try:
        fitted = weights.to(maps.device, maps.dtype.to_real()).expand(samples)
    except RuntimeError:
        raise ShapeError(f"{name}: weights are {tuple(weights.shape)} but the samples are "
                         f"{samples}; pass one weight per sample.") from None
    return torch.sqrt(fitted)
