"""The noise of measured k-space without a noise scan, from the samples farthest from its centre.

Signal is left there too, the more the sharper the edges of the body. But in k-space signal is
smooth: coil maps and a body smaller than the field of view tie each sample to its neighbours along
the readout, in all coils, and noise does not. So the part of the outermost tenth that a linear
prediction from the neighbours leaves is noise, and never less than the noise, also where the noise
of coils is correlated. What remains (`benchmarks/noise.py`, a disc of jagged edges, R = 2): where
the corners hold 5 times the noise, the estimate of 8 coils is 1.2 times the truth, of 2 coils
(10 times) 1.9, of one coil (15 times) 2.4; on spokes a third of the excess goes. Where no
neighbours were measured (points scattered as by Poisson discs), all signal of the corners stays.
"""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor

from medinv.data import KSpace, NonCartesianKSpace

_FRACTION = 0.1
_HALF_WIDTHS = (3, 2, 1)  # neighbours on each side, fewer where there are few windows
_WINDOWS_PER_NEIGHBOUR = 4
_MOST_SLICES, _MOST_WINDOWS = 8, 4096
_RAYLEIGH_MEDIAN = math.sqrt(2 * math.log(2))  # of the magnitude of unit noise


def estimate_noise(y: Tensor, mask: Tensor) -> float:
    """Std of each real component of the noise, root mean square over the coils.

    Args:
        y: (slice, coil, *grid).
        mask: grid or (slice, *grid).
    """
    grid = tuple(y.shape[2:])
    outer = mask & _outermost(grid_radius(grid), mask, _FRACTION)
    return _std(y, mask.expand(len(y), *grid), outer.expand(len(y), *grid))


def estimate_trajectory_noise(y: Tensor, trajectory: Tensor, grid: tuple[int, ...]) -> float:
    """As `estimate_noise`, of samples (slice, coil, *samples) on a trajectory (*samples, axis)."""
    mask, outer = _outer_samples(trajectory, grid)
    return _std(y, mask.expand(len(y), *mask.shape), outer.expand(len(y), *mask.shape))


def corner_noise(kspace: KSpace | NonCartesianKSpace) -> Tensor:
    """(coil, sample): what neighbours do not predict of the outermost samples."""
    n = len(kspace.data)
    if isinstance(kspace, NonCartesianKSpace):
        mask, outer = _outer_samples(kspace.trajectory, kspace.grid)
    else:
        mask = kspace.mask
        outer = mask & _outermost(grid_radius(kspace.grid), mask, _FRACTION)
    grid = kspace.data.shape[2:]
    return _unpredicted(kspace.data, mask.expand(n, *grid), outer.expand(n, *grid))


def grid_radius(grid: tuple[int, ...]) -> Tensor:
    """Distance of each point of a grid from the zero frequency, in its width.

    >>> grid_radius((1, 4)).tolist()
    [[0.5, 0.25, 0.0, 0.25]]
    """
    axes = [(torch.arange(n) - n // 2) / n for n in grid]
    return reduce(torch.hypot, torch.meshgrid(*axes, indexing="ij"))


def _outer_samples(trajectory: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    radius = (trajectory / torch.tensor(grid)).norm(dim=-1)
    mask = torch.ones_like(radius) > 0
    return mask, _outermost(radius, mask, _FRACTION)


def _outermost(radius: Tensor, mask: Tensor, fraction: float) -> Tensor:
    """The ``fraction`` of the measured points that lies farthest out, as a mask of all points."""
    measured = radius.expand(mask.shape)[mask]
    inner = max(1, round((1 - fraction) * measured.numel()))
    return radius >= measured.kthvalue(inner).values


def _std(y: Tensor, mask: Tensor, outer: Tensor) -> float:
    """Of the median magnitude, which few bright samples leave alone, and the prediction's rest."""
    medians = y.movedim(1, 0)[:, outer].abs().median(1).values / _RAYLEIGH_MEDIAN
    left = _unpredicted(y, mask, outer)
    rest = (left.abs().square().mean(1) / 2).sqrt()
    return float(torch.minimum(medians.to(rest), rest).square().mean().sqrt())


def _unpredicted(y: Tensor, mask: Tensor, outer: Tensor) -> Tensor:
    """(coil, sample) of the outer samples, without what their neighbours predict, slice by slice.

    Args:
        y: (slice, coil, *grid).
        mask: (slice, *grid), what was measured.
        outer: (slice, *grid), what to predict.
    """
    step = -(-len(y) // _MOST_SLICES)
    return torch.cat([_innovation(*item) for item in zip(y[::step], mask[::step], outer[::step],
                                                         strict=True)], 1)


def _innovation(y: Tensor, mask: Tensor, outer: Tensor) -> Tensor:
    """As `_unpredicted`, of one slice (coil, *grid); the loss of degrees of freedom is made up."""
    for half in _HALF_WIDTHS:
        windows = _windows(y, mask, outer, half)
        n, unknowns = windows.shape[1], len(y) * 2 * half
        if n >= _WINDOWS_PER_NEIGHBOUR * unknowns:
            sides = torch.cat([windows[..., :half], windows[..., half + 1:]], -1)
            neighbours = sides.movedim(1, 0).flatten(1)
            samples = windows[..., half].T
            rest: Tensor = samples - neighbours @ torch.linalg.lstsq(neighbours, samples).solution
            return rest.T * math.sqrt(n / (n - unknowns))
    return y[:, outer].to(torch.complex128)


def _windows(y: Tensor, mask: Tensor, outer: Tensor, half: int) -> Tensor:
    """(coil, sample, 2 half + 1): outer samples between neighbours that were all measured.

    Neighbours lie along the axis on which most samples have them: the readout.
    """
    width = 2 * half + 1
    best, found = y.new_empty(len(y), 0, width, dtype=torch.complex128), 0
    for axis in range(-mask.ndim, 0):
        if mask.shape[axis] < width:
            continue
        inside = outer.narrow(axis, half, mask.shape[axis] - 2 * half)
        places = (mask.unfold(axis, width, 1).all(-1) & inside).nonzero()
        if len(places) > found:
            found = len(places)
            index = places[::-(-found // _MOST_WINDOWS)].T
            best = y.unfold(axis, width, 1)[(slice(None), *index)].to(torch.complex128)
    return best
