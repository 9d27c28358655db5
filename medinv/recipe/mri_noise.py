"""The noise of measured k-space, from the samples farthest from its centre."""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from torch import Tensor

from medinv.data import KSpace, NonCartesianKSpace


def estimate_noise(y: Tensor, mask: Tensor) -> float:
    """Std of each real component of the noise, from the outermost tenth of the samples.

    The median of the magnitudes there, over that of unit noise (a Rayleigh distribution's). What
    signal the corners of k-space hold makes the estimate too high rather than too low.

    Args:
        y: (slice, coil, *grid).
        mask: grid or (slice, *grid).
    """
    outer = (mask & _outermost(grid_radius(tuple(y.shape[2:])), mask, 0.1)).unsqueeze(-y.ndim + 1)
    return _std(y[outer.expand(y.shape)])


def estimate_trajectory_noise(y: Tensor, trajectory: Tensor, grid: tuple[int, ...]) -> float:
    """As `estimate_noise`, of samples (slice, coil, *samples) on a trajectory (*samples, axis)."""
    radius = (trajectory / torch.tensor(grid)).norm(dim=-1)
    return _std(y[..., _outermost(radius, torch.ones_like(radius) > 0, 0.1)])


def corner_noise(kspace: KSpace | NonCartesianKSpace, fraction: float = 0.05) -> Tensor:
    """(coil, sample): the outermost samples, where noise outweighs the signal."""
    if isinstance(kspace, NonCartesianKSpace):
        radius = (kspace.trajectory / torch.tensor(kspace.grid)).norm(dim=-1)
        outer = _outermost(radius, torch.ones_like(radius) > 0, fraction)
        outer = outer.expand(len(kspace.data), *outer.shape)
    else:
        outer = kspace.mask & _outermost(grid_radius(kspace.grid), kspace.mask, fraction)
        outer = outer.expand(len(kspace.data), *kspace.grid)
    return kspace.data.movedim(1, 0)[:, outer]


def grid_radius(grid: tuple[int, ...]) -> Tensor:
    """Distance of each point of a grid from the zero frequency, in its width.

    >>> grid_radius((1, 4)).tolist()
    [[0.5, 0.25, 0.0, 0.25]]
    """
    axes = [(torch.arange(n) - n // 2) / n for n in grid]
    return reduce(torch.hypot, torch.meshgrid(*axes, indexing="ij"))


def _outermost(radius: Tensor, mask: Tensor, fraction: float) -> Tensor:
    """The ``fraction`` of the measured points that lies farthest out, as a mask of all points."""
    measured = radius.expand(mask.shape)[mask]
    inner = max(1, round((1 - fraction) * measured.numel()))
    return radius >= measured.kthvalue(inner).values


def _std(samples: Tensor) -> float:
    return float(samples.abs().median()) / float(np.sqrt(2 * np.log(2)))
