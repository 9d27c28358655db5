"""Checks of a CT geometry at construction, and where its volume falls on the detector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medinv.errors import ShapeError

if TYPE_CHECKING:
    from medinv.operators.ct_geometry import CTGeometry


def validate(geometry: CTGeometry) -> None:
    """Raise `ShapeError` unless the geometry can be scanned (see `CTGeometry`)."""
    _check_sizes(geometry)
    _check_axes(geometry)
    _check_position(geometry)


def check_angles(name: str, angles: Tensor) -> None:
    """Raise `ShapeError` unless ``angles`` is ``(view,)``, finite, and plausibly in radians.

    Beyond two turns, values that are all multiples of 0.5, or a long arc that is one of 10, give
    degrees away.

    Example:
        >>> check_angles("scan", torch.arange(180) * torch.pi / 180)
    """
    if not isinstance(angles, Tensor):
        raise ShapeError(f"{name}: angles are a {type(angles).__name__}; pass a tensor in "
                         "radians, torch.as_tensor(angles).")
    if angles.ndim != 1 or len(angles) == 0 or not bool(angles.isfinite().all()):
        raise ShapeError(f"{name}: angles are {tuple(angles.shape)}; pass one finite angle "
                         "in radians per view, (view,).")
    values = angles.detach().to("cpu", torch.float64)
    span = float(values.max() - values.min())
    if span <= 4 * math.pi:
        return
    step = float(torch.diff(values.sort().values).median())
    long_and_round = span > 80 and (_round(span, 10) or _round(span + step, 10))
    if long_and_round or all(_round(value, 0.5) for value in values.tolist()):
        raise ShapeError(f"{name}: angles run from {float(values.min()):g} to "
                         f"{float(values.max()):g} and look like degrees; pass radians, "
                         "torch.deg2rad(angles).")


def _round(value: float, unit: float) -> bool:
    return abs(value / unit - round(value / unit)) * unit < 1e-4


def vectors(name: str, value: Tensor) -> Tensor:
    """``value`` as float64 on the CPU; `ShapeError` unless finite ``(view, 3)``."""
    vectors = value.detach().to("cpu", torch.float64)
    if vectors.ndim != 2 or vectors.shape[1] != 3 or len(vectors) == 0:
        raise ShapeError(f"CTGeometry: {name} is {tuple(value.shape)}; pass one (x, y, z) in mm "
                         "per view, (view, 3).")
    if not bool(vectors.isfinite().all()):
        raise ShapeError(f"CTGeometry: {name} has NaN or Inf in view "
                         f"{int((~vectors.isfinite()).any(1).nonzero()[0])}; pass finite mm.")
    return vectors.contiguous()


def _check_sizes(geometry: CTGeometry) -> None:
    if len(geometry.shape) != 3 or min(geometry.shape) < 1:
        raise ShapeError(f"CTGeometry: shape is {tuple(geometry.shape)}; pass (z, y, x) of the "
                         "volume, each at least 1.")
    if len(geometry.voxel_mm) != 3 or not all(0 < mm < math.inf for mm in geometry.voxel_mm):
        raise ShapeError(f"CTGeometry: voxel_mm is {tuple(geometry.voxel_mm)}; pass three "
                         "positive sizes (z, y, x) in mm.")
    if min(geometry.n_rows, geometry.n_cols) < 1:
        raise ShapeError(f"CTGeometry: the detector has {geometry.n_rows} rows and "
                         f"{geometry.n_cols} columns; pass at least 1 of each.")
    lengths = {name: len(getattr(geometry, name))
               for name in ("sources", "detectors", "col_axes", "row_axes")}
    if geometry.angles is not None:
        check_angles("CTGeometry", geometry.angles)
        lengths["angles"] = len(geometry.angles)
    if len(set(lengths.values())) > 1:
        raise ShapeError("CTGeometry: expected as many rows in each, one per view, got "
                         + ", ".join(f"{name} {n}" for name, n in lengths.items()) + ".")


def _check_axes(geometry: CTGeometry) -> None:
    normals = torch.linalg.cross(geometry.col_axes, geometry.row_axes)
    area = torch.linalg.vector_norm(normals, dim=1)
    lengths = [torch.linalg.vector_norm(axis, dim=1)
               for axis in (geometry.col_axes, geometry.row_axes)]
    flat = ~(area > 1e-6 * lengths[0] * lengths[1])
    _refuse_views(flat, "col_axes and row_axes are zero or parallel",
                  "pass two steps in mm that span the detector")
    rays = geometry.sources if geometry.parallel else geometry.detectors - geometry.sources
    length = torch.linalg.vector_norm(rays, dim=1)
    edge_on = ~((normals * rays).sum(1).abs() > 1e-6 * area * length)
    _refuse_views(edge_on, "the detector is seen edge-on or the source lies in it",
                  "check the order (x, y, z) of sources, detectors and axes")
    if geometry.parallel:
        _refuse_views((length - 1).abs() > 1e-6, "parallel beams need unit ray directions",
                      "divide each row of sources by its length")
    if geometry.curved:
        _check_curved(geometry, rays / length[:, None])


def _check_curved(geometry: CTGeometry, rays: Tensor) -> None:
    if geometry.parallel:
        raise ShapeError("CTGeometry: a curved detector is bent around the source, and parallel "
                         "beams have none; pass curved=False.")
    axes = [axis / torch.linalg.vector_norm(axis, dim=1, keepdim=True)
            for axis in (geometry.col_axes, geometry.row_axes)]
    skew = torch.maximum((axes[0] * axes[1]).sum(1).abs(), (axes[0] * rays).sum(1).abs())
    _refuse_views(skew > 1e-6, "a curved detector's col_axes are not at right angles to row_axes "
                  "and to the line from the source to the detector's centre",
                  "pass the tangent at the detector's centre")


def _check_position(geometry: CTGeometry) -> None:
    half = torch.tensor(geometry.extent_mm[::-1], dtype=torch.float64) / 2
    if not geometry.parallel:
        _refuse_views((geometry.sources.abs() < half).all(1), "the source is inside the volume",
                      "check source_mm against shape times voxel_mm, both in mm")
    if not bool(sees_volume(geometry).any()):
        raise ShapeError("CTGeometry: no view sees the volume, it misses the detector in all of "
                         f"{geometry.n_views} views; check the units (mm), the detector's "
                         "position and offsets, and the order (x, y, z).")


def footprint(geometry: CTGeometry) -> tuple[Tensor, Tensor]:
    """The box on the detector that the volume's corners fill.

    Returns:
        Its lowest and highest (row, column), ``(view, 2)`` each; all of the plane
        where the volume reaches behind the source, and ``inf, inf`` where it lies behind.
    """
    half = torch.tensor(geometry.extent_mm[::-1], dtype=torch.float64) / 2
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    corners = geometry.project(signs * half)
    behind = corners.isinf().any(-1)
    partly = behind.any(1) & ~behind.all(1)
    low = torch.where(partly[:, None], -torch.inf, corners.amin(1))
    return low, torch.where(partly[:, None], torch.inf, corners.amax(1))


def sees_volume(geometry: CTGeometry) -> Tensor:
    """Whether the volume's footprint touches the detector, ``(view,)``."""
    low, high = footprint(geometry)
    size = torch.tensor([geometry.n_rows, geometry.n_cols], dtype=torch.float64)
    return ((low < size - 0.5) & (high > -0.5)).all(1)


def _refuse_views(wrong: Tensor, problem: str, fix: str) -> None:
    if bool(wrong.any()):
        raise ShapeError(f"CTGeometry: {problem} in {int(wrong.sum())} of {len(wrong)} views, "
                         f"first in view {int(wrong.nonzero()[0])}; {fix}.")
