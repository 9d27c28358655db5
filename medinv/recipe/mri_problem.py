"""From a prepared scan to ``y``, its operator, and the place of its image.

A 3D scan that is sampled alike along one axis is solved slice by slice: the inverse Fourier
transform along that axis is exact: the noise stays white, and slices share nothing. Samples on a
trajectory come as ``W^(1/2) y`` and its operator, with the density weights ``W``; the noise is
then that of the weighted samples, root mean square.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from medinv.data import KSpace, NonCartesianKSpace, Volume, crop
from medinv.errors import InputError
from medinv.operators import fourier
from medinv.operators.base import LinearOperator
from medinv.operators.density import pipe_menon, radial_ramp
from medinv.operators.mri import CartesianMRI
from medinv.operators.noncartesian import NonCartesianMRI, StackOfStars
from medinv.operators.weighted import Weighted
from medinv.recipe.blocks import Density, Interval, MRIFile
from medinv.recipe.measurement import check_slices
from medinv.recipe.mri_maps import cartesian_centre, estimate_maps
from medinv.recipe.mri_noise import estimate_noise, estimate_trajectory_noise
from medinv.recipe.mri_scan import Scan, is_volume

_ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class Problem:
    """What a solver needs, and where its image ``x`` belongs.

    Attributes:
        y: ``(*batch, *A.codomain.shape)``.
        A: the operator.
        noise_std: std of each real component of the noise in ``y``, estimated.
        to_volume: ``x`` as a volume.
        kind: of the sampling, for people.
    """

    y: Tensor
    A: LinearOperator
    noise_std: float
    to_volume: Callable[[Tensor], Volume]
    kind: str


def make_problem(scan: Scan, recipe: MRIFile) -> Problem:
    """The problem of a scan: 2D wherever that is exact.

    Raises:
        DataError: slices that the scan lacks.
        InputError: slices of a volume that cannot be split, or no maps can be estimated.
        ShapeError: maps of another size.
    """
    kspace = scan.kspace
    if isinstance(kspace, KSpace):
        axis = _common_axis(kspace) if is_volume(kspace) and recipe.split else None
        if axis is not None:
            return _cartesian(*_split(scan, kspace, axis, recipe.slices), recipe)
        _check_whole(kspace, recipe)
        return _cartesian(scan, kspace.volume, recipe)
    order = _partitions(kspace) if is_volume(kspace) else None
    if order is not None and recipe.split and _is_full_stack(kspace, order):
        return _non_cartesian(*_unstacked(scan, kspace, order, recipe.slices), recipe)
    _check_whole(kspace, recipe)
    if order is not None:
        return _stack_of_stars(scan, kspace, order, recipe)
    return _non_cartesian(scan, kspace.volume, recipe)


def density(trajectory: Tensor, grid: tuple[int, ...], kind: Density) -> Tensor:
    """Weights (*samples) of a trajectory (*samples, axis): the exact ones where it has spokes."""
    if kind == "none":
        return torch.ones(trajectory.shape[:-1], dtype=torch.float64)
    if kind == "pipe-menon":
        return pipe_menon(trajectory, grid)
    try:
        return radial_ramp(trajectory)
    except InputError:
        if kind == "radial":
            raise
        return pipe_menon(trajectory, grid)


def rms(weights: Tensor) -> float:
    """Noise of ``W^(1/2) n`` over that of ``n``."""
    return math.sqrt(float(weights.mean()))


def _cartesian(scan: Scan, to_volume: Callable[[Tensor], Volume], recipe: MRIFile) -> Problem:
    kspace = scan.kspace
    if not isinstance(kspace, KSpace):
        raise TypeError(type(kspace))
    ndim = len(kspace.grid)
    y = torch.where(kspace.mask.unsqueeze(-ndim - 1), kspace.data, 0)
    noise_std = estimate_noise(y, kspace.mask)
    mask, maps = kspace.mask, scan.maps
    if ndim == 3:
        y, mask = y[0], mask.reshape(kspace.grid)
    if maps is None:
        maps = estimate_maps(y, recipe.estimate_maps, recipe.calibration_width, ndim)
    A = CartesianMRI(maps.expand(y.shape) if ndim == 2 else maps.reshape(y.shape), mask, ndim=ndim)
    return Problem(y, A, noise_std, to_volume, "Cartesian")


def _non_cartesian(scan: Scan, to_volume: Callable[[Tensor], Volume], recipe: MRIFile) -> Problem:
    kspace = scan.kspace
    if not isinstance(kspace, NonCartesianKSpace):
        raise TypeError(type(kspace))
    maps = _trajectory_maps(scan, kspace, recipe)
    weights = density(kspace.trajectory, kspace.grid, recipe.density)
    noise_std = estimate_trajectory_noise(kspace.data, kspace.trajectory, kspace.grid)
    data = kspace.data
    if is_volume(kspace):
        maps, data = maps[0], data[0]
    else:
        maps = maps.expand(len(data), *maps.shape[1:])
    A = NonCartesianMRI(maps, kspace.trajectory, weights=weights)
    y = data * weights.sqrt().to(data.real.dtype)
    return Problem(y, A, noise_std * rms(weights), to_volume, _name(kspace))


def _stack_of_stars(scan: Scan, kspace: NonCartesianKSpace, order: Tensor,
                    recipe: MRIFile) -> Problem:
    maps = _trajectory_maps(scan, kspace, recipe)[0]
    trajectory = kspace.trajectory[order].clone()
    trajectory[..., 0] = trajectory[..., 0].round()
    weights = torch.stack([density(star, kspace.grid[1:], recipe.density)
                           for star in trajectory[..., 1:]])
    y = kspace.data[0][:, order]
    A = Weighted(StackOfStars(maps, trajectory), weights.expand(y.shape))
    noise_std = estimate_trajectory_noise(kspace.data, kspace.trajectory, kspace.grid)
    y = y * weights.sqrt().to(y.real.dtype)
    return Problem(y, A, noise_std * rms(weights), kspace.volume, f"{_name(kspace)}, stacked")


def _trajectory_maps(scan: Scan, kspace: NonCartesianKSpace, recipe: MRIFile) -> Tensor:
    """(slice or 1, coil, *grid)."""
    if scan.maps is not None:
        return scan.maps
    calibration = cartesian_centre(kspace.data, kspace.trajectory, kspace.grid,
                                   recipe.calibration_width)
    ndim = len(kspace.grid)
    if ndim == 2:
        return estimate_maps(calibration, recipe.estimate_maps, recipe.calibration_width, 2)
    return estimate_maps(calibration[0], recipe.estimate_maps, recipe.calibration_width, 3)[None]


def _name(kspace: NonCartesianKSpace) -> str:
    return str(kspace.metadata.get("trajectory", "non-Cartesian"))


def _check_whole(kspace: KSpace | NonCartesianKSpace, recipe: MRIFile) -> None:
    if is_volume(kspace) and recipe.slices is not None:
        why = "no axis is sampled alike" if recipe.split else "`split` is false"
        raise InputError(f"measurement.slices: the 3D scan is reconstructed as a whole, as {why}; "
                         "leave `slices` out")


def _common_axis(kspace: KSpace) -> int | None:
    """An axis along which the mask does not change, the readout's if it is one."""
    for axis in (kspace.readout_axis, -1, -2, -3):
        if bool((kspace.mask == kspace.mask.narrow(axis, 0, 1)).all()):
            return axis
    return None


def _split(scan: Scan, kspace: KSpace, axis: int,
           slices: Interval | None) -> tuple[Scan, Callable[[Tensor], Volume]]:
    """Slices across ``axis`` of a volume, and the way back."""
    n = kspace.grid[axis]
    first, stop = _within(slices, n)
    images = fourier.ifft(kspace.data[0], [axis]).movedim(axis, 0)[first:stop].contiguous()
    maps = None if scan.maps is None else scan.maps[0].movedim(axis, 0)[first:stop]
    part = replace(kspace, data=images, mask=kspace.mask.reshape(kspace.grid).select(axis, 0))
    return Scan(part, maps), _from_slices(kspace, axis, first)


def _unstacked(scan: Scan, kspace: NonCartesianKSpace, order: Tensor,
               slices: Interval | None) -> tuple[Scan, Callable[[Tensor], Volume]]:
    """Slices along z of a fully sampled stack."""
    first, stop = _within(slices, len(order))
    hybrid = fourier.ifft(kspace.data[0][:, order], [1]).movedim(1, 0)[first:stop].contiguous()
    maps = None if scan.maps is None else scan.maps[0].movedim(-3, 0)[first:stop]
    part = replace(kspace, data=hybrid, trajectory=kspace.trajectory[order[0], :, 1:])
    return Scan(part, maps), _from_slices(kspace, -3, first)


def _within(slices: Interval | None, n: int) -> Interval:
    if slices is None:
        return 0, n
    check_slices(slices, n)
    return slices


def _from_slices(kspace: KSpace | NonCartesianKSpace, axis: int,
                 first: int) -> Callable[[Tensor], Volume]:
    """From (slice, *plane) across ``axis`` to the volume (z, y, x), or its part from ``first``."""
    def to_volume(x: Tensor) -> Volume:
        image = x.movedim(0, axis)
        whole = kspace.volume(image.new_zeros(()).expand(kspace.grid))
        index = [slice(None)] * 3
        index[axis] = slice(first, first + len(x))
        return crop(whole, (index[0], index[1], index[2])).with_data(image)

    return to_volume


def _partitions(kspace: NonCartesianKSpace) -> Tensor | None:
    """(partition, shot): shots by their whole number kz, then by where they end; or None."""
    kz = kspace.trajectory[..., 0]
    number = kz[:, 0].round()
    if bool(((kz - number[:, None]).abs() > _ROUNDING).any()):
        return None
    numbers, counts = np.unique(number.numpy(), return_counts=True)
    if len(numbers) < 2 or (counts != counts[0]).any():
        return None
    ends = (kspace.trajectory[:, -1, 1:] / _ROUNDING).round()
    order = np.lexsort((ends[:, 1].numpy(), ends[:, 0].numpy(), number.numpy()))
    return torch.from_numpy(order).reshape(len(numbers), -1)


def _is_full_stack(kspace: NonCartesianKSpace, order: Tensor) -> bool:
    """Whether every kz of the grid is sampled, and by the same star."""
    n = kspace.grid[0]
    points = kspace.trajectory[order]
    numbers = points[:, 0, 0, 0].round()
    stars = points[..., 1:]
    return (torch.equal(numbers, torch.arange(n).to(numbers) - n // 2)
            and bool(((stars - stars[:1]).abs() < _ROUNDING).all()))
