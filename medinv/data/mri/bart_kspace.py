"""k-space from BART's files: readouts on a grid, or samples on a trajectory.

On a grid the dimensions are readout, phase 1, phase 2, coil; the image of ``1 x ny x nz`` (a 2D
slice of a 3D scan) is ``ny x nz``, as ``bart pics`` has it. Off the grid they are 1, sample,
spoke, coil, and a second file ``3 x sample x spoke`` holds (kx, ky, kz) in cycles per field of
view. The two look alike, but spokes all have their brightest sample at the same place.
"""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from medinv.data.mri.arrays import check_finite, check_kspace
from medinv.data.mri.bart import cfl_base, cfl_sizes, read_cfl
from medinv.data.mri.kspace import KSpace, measured_points
from medinv.data.mri.noncartesian import NonCartesianKSpace
from medinv.errors import DataError

_ALIKE, _NEAR, _MOST = 0.3, 2, 0.9  # peaks of spokes: within this factor, samples, part of them


def read_bart_kspace(path: str | Path, trajectory: str | Path | None = None,
                     ) -> KSpace | NonCartesianKSpace:
    """k-space from a BART file with readout, phase encodings, coils and slices.

    Args:
        path: ``name.cfl``, or ``name``.
        trajectory: the file of the trajectory, where the samples are on one; the image is as large
            as BART takes it, twice the largest coordinate.

    Raises:
        DataError: as for `read_cfl`; NaN or Inf, or only zeros; a trajectory of another size, or
            samples on a trajectory that is not given.

    >>> import tempfile
    >>> import torch
    >>> from medinv.data.mri.bart import write_cfl
    >>> name = Path(tempfile.mkdtemp(), "scan.cfl")
    >>> write_cfl(torch.ones(8, 64, 48) + 0j, name, "coil ky kx")
    >>> read_bart_kspace(name).n_coils
    8
    """
    path = Path(path)
    data = read_cfl(path, "slice coil kz ky kx")
    check_finite(data, path, "k-space")
    if trajectory is not None:
        return _on_trajectory(data, path, Path(trajectory))
    if data.shape[-1] == 1:
        _refuse_spokes(data[..., 0], path)
    data = planar(data)
    if data.ndim == 4:
        data = check_kspace(data, path)
    return KSpace(data, measured_points(data), readout_axis=-1)


def planar(data: Tensor) -> Tensor:
    """(slice, coil, z, y, x) as (slice, coil, y, x) where the last three have a size of 1.

    >>> import torch
    >>> planar(torch.zeros(1, 8, 96, 64, 1)).shape
    torch.Size([1, 8, 96, 64])
    """
    for axis in (-3, -1, -2):
        if data.shape[axis] == 1:
            return data.squeeze(axis)
    return data


def _refuse_spokes(data: Tensor, path: Path) -> None:
    """Refuse what looks like samples on a trajectory, (slice, coil, spoke, sample)."""
    spokes, samples = data.shape[-2:]
    beside = _trajectories_beside(path, samples, spokes)
    size = data.abs().amax((0, 1))
    peak, place = size.max(-1)
    measured = peak > 0
    peak, place = peak[measured], place[measured]
    middle = place.median() if len(place) else place
    near = (place - middle).abs() <= _NEAR
    alike = len(peak) > 1 and float(near.float().mean()) > _MOST and bool(
        peak.min() > _ALIKE * peak.max())
    if not beside and not alike:
        return
    why = (f"{beside[0]} beside it has the sizes of its trajectory" if beside
           else "all of its lines are brightest at the same sample")
    raise DataError(
        f"{path}: 1 x {samples} x {spokes} samples look like {spokes} spokes, not a grid: {why}; "
        f"pass the trajectory, as in trajectory={beside[0] if beside else 'traj.cfl'!s} "
        "(kspace.trajectory in a recipe); if they are on a grid, pass them as a NumPy array "
        "with axes='coil ky kx'" + (", or move the trajectory away" if beside else "")
    )


def _trajectories_beside(path: Path, samples: int, spokes: int) -> list[str]:
    """Names of the files in the same folder that are a trajectory of these sizes."""
    found = []
    for header in sorted(cfl_base(path).parent.glob("*.hdr"))[:100]:
        try:
            sizes = cfl_sizes(header)
        except DataError:
            continue
        if (sizes["x"], sizes["y"], sizes["z"], sizes["coil"]) == (3, samples, spokes, 1):
            found.append(header.with_suffix("").name)
    return found


def _on_trajectory(data: Tensor, path: Path, trajectory: Path) -> NonCartesianKSpace:
    points = read_cfl(trajectory, "kz ky kx")
    check_finite(points, trajectory, "trajectory")
    spokes, samples = data.shape[2:4]
    if data.shape[-1] != 1 or tuple(points.shape) != (spokes, samples, 3):
        sizes = " x ".join(map(str, reversed(points.shape)))
        raise DataError(
            f"{path}: expected k-space 1 x sample x spoke x coil and a trajectory 3 x sample x "
            f"spoke, found {' x '.join(map(str, reversed(data.shape[2:])))} and {sizes}")
    positions = points.real.double().flip(-1)
    used = positions if bool((positions[..., 0] != 0).any()) else positions[..., 1:]
    grid = [2 * math.ceil(float(axis.abs().max())) or 1 for axis in used.unbind(-1)]
    if min(grid) < 2:
        raise DataError(f"{trajectory}: expected cycles per field of view, up to half of the "
                        f"matrix, found at most {float(used.abs().max()):g}; multiply it by the "
                        "matrix (bart scale)")
    shape = (grid[0], grid[1], grid[2]) if len(grid) == 3 else (len(data), grid[0], grid[1])
    return NonCartesianKSpace(data[..., 0], used, shape, {"trajectory": "BART"})
