"""The rays of a slice, in the form that Joseph's projector steps through.

A ray that is steeper along y crosses row ``i`` of the image at the fractional column ``start +
slope i``; one that is steeper along x crosses column ``i`` at a fractional row. Everything is
differentiable in the geometry's offsets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.operators.ct_detector import curved_frame
from medinv.operators.ct_geometry import CTGeometry


@dataclass(frozen=True)
class Rays:
    """Rays through a slice of ``shape`` pixels; tensors are ``(view, col)``.

    Attributes:
        shape: ``(y, x)``.
        along_y: whether the ray steps from row to row, else from column to column.
        start: where it crosses line 0, in pixels.
        slope: pixels per line.
        length: mm from a line to the next.
    """

    shape: tuple[int, int]
    along_y: Tensor
    start: Tensor
    slope: Tensor
    length: Tensor

    def views(self, index: slice) -> Rays:
        """The rays of some views."""
        return Rays(self.shape, self.along_y[index], self.start[index], self.slope[index],
                    self.length[index])

    def fingerprint(self) -> tuple[object, ...]:
        """Equal for equal rays."""
        digest = hashlib.sha256()
        for part in (self.along_y, self.start, self.slope, self.length):
            digest.update(part.contiguous().numpy().tobytes())
        return (self.shape, tuple(self.start.shape), digest.digest())


def rays(geometry: CTGeometry, col_offset_mm: Tensor | None = None,
         axis_offset_mm: Tensor | None = None) -> Rays:
    """The rays of a planar scan around one slice.

    Args:
        geometry: parallel or fan beam with ``angles``.
        col_offset_mm: shift of the detector along its columns, beyond the geometry's own, ``()``
            or ``(view,)``.
        axis_offset_mm: shift of the rotation axis, likewise (see `ct_geometry.cone`).

    Returns:
        float64 rays, differentiable in the offsets.
    """
    assert geometry.angles is not None
    zero = torch.zeros((), dtype=torch.float64)
    across = torch.stack([geometry.angles.cos(), geometry.angles.sin()], 1)
    col_shift = _per_view(zero if col_offset_mm is None else col_offset_mm)
    axis_shift = _per_view(zero if axis_offset_mm is None else axis_offset_mm)
    index = torch.arange(geometry.n_cols, dtype=torch.float64) - (geometry.n_cols - 1) / 2
    if geometry.curved:
        points, directions = _curved(geometry, index, col_shift)
    else:
        points, directions = _flat(geometry, index, col_shift)
    points = points - (axis_shift * across)[:, None]
    return _through(points, directions, geometry.shape[1:], geometry.voxel_mm[2])


def _per_view(offset: Tensor) -> Tensor:
    """``()`` or ``(view,)`` to a column that broadcasts over (x, y)."""
    return offset.to("cpu", torch.float64).reshape(-1, 1)


def _flat(geometry: CTGeometry, index: Tensor, col_shift: Tensor) -> tuple[Tensor, Tensor]:
    """A point on each ray and its direction, ``(view, col, 2)``."""
    step = geometry.col_axes[:, :2]
    along = step / torch.linalg.vector_norm(step, dim=1, keepdim=True)
    centre = geometry.detectors[:, :2] + col_shift * along
    points = centre[:, None] + index[:, None] * step[:, None]
    sources = geometry.sources[:, None, :2]
    return points, sources.expand_as(points) if geometry.parallel else points - sources


def _curved(geometry: CTGeometry, index: Tensor, col_shift: Tensor) -> tuple[Tensor, Tensor]:
    """A point on each ray and its direction, ``(view, col, 2)``."""
    frame = curved_frame(geometry)
    angle = (index * frame.pitch[:, None] + col_shift / frame.radius[:, None])[..., None]
    directions = angle.cos() * frame.forward[:, None, :2] + angle.sin() * frame.across[:, None, :2]
    return geometry.sources[:, None, :2].expand_as(directions), directions


def _through(points: Tensor, directions: Tensor, shape: tuple[int, int],
             pixel_mm: float) -> Rays:
    """Rays through ``points`` along ``directions``, both ``(view, col, 2)`` as (x, y)."""
    x, y = (points / pixel_mm + (torch.tensor(shape[::-1]) - 1) / 2).unbind(-1)
    along_x, along_y = directions.unbind(-1)
    steps_y = along_y.abs() >= along_x.abs()
    slope = torch.where(steps_y, along_x, along_y) / torch.where(steps_y, along_y, along_x)
    line, pixel = torch.where(steps_y, y, x), torch.where(steps_y, x, y)
    return Rays(shape, steps_y, pixel - line * slope, slope,
                pixel_mm * torch.sqrt(1 + slope**2))
