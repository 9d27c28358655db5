"""Filtered backprojection of circular cone beams.

Feldkamp, Davis and Kress (JOSA A 1 (1984), 612) treat the tilted rays of a detector row as a fan
beam in their own plane: with depth ``U`` of a point, distance ``D`` from the source to the flat
detector and columns and rows ``t, v`` in mm,

    x(r) = int  D / U^2  int  w p(theta, t, v(r)) rho cos(g - g0) c(t, v) h(t(r) - t) dt  dtheta

with the weights of the central plane (see `medinv.solvers.fan_fbp`) and ``c = sqrt(D^2 + t^2) /
sqrt(D^2 + t^2 + v^2)``, the cosine between a ray and its projection onto that plane. It is exact
in the central plane, and errs with the square of the cone angle outside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from medinv.errors import InputError
from medinv.operators.cone import ConeBeam
from medinv.operators.ct import FanBeam
from medinv.operators.ct_geometry import CTGeometry
from medinv.problem import Problem
from medinv.samplers import OnStep
from medinv.solvers.base import require
from medinv.solvers.fan_fbp import ray_weights, widened
from medinv.solvers.ramp import WINDOWS, filter_columns, ramp

_VOXELS = 2**22  # backprojected at a time, which bounds the memory beside the result


@dataclass(frozen=True)
class FDK:
    """Filtered backprojection of a circular cone beam on a flat detector, in 1/mm.

    Takes a full turn, or half a turn plus the fan angle (Parker's weights); in a full turn the
    detector may be shifted so that it sees one half of the object only (Wang's weights).

    Args:
        window: damping of the ramp towards Nyquist: ``"ram-lak"`` (none), ``"shepp-logan"`` or
            ``"hann"`` (least noise, least resolution).

    Example:
        >>> FDK(window="hann")
        FDK(window='hann')
    """

    window: Literal["ram-lak", "shepp-logan", "hann"] = "ram-lak"

    def __post_init__(self) -> None:
        require(self.window in WINDOWS, "FDK: window", f"one of {', '.join(WINDOWS)}",
                self.window)

    @torch.no_grad()
    def __call__(self, problem: Problem, *, on_step: OnStep | None = None) -> Tensor:
        """Reconstruct.

        Args:
            problem: y, line integrals, ``(*batch, view, row, col)``; A, a `ConeBeam` on a circle,
                with a flat detector.
            on_step: called once, with the result.

        Returns:
            Attenuation in 1/mm, ``(*batch, z, y, x)``.

        Raises:
            InputError: ``A`` is another operator, its scan is no circle, its detector is curved,
                or its views do not suffice; ``y`` has another shape or dtype than ``A`` gives, or
                is not finite.
        """
        y, A = problem.y, problem.linear
        if not isinstance(A, ConeBeam):
            raise InputError(f"FDK: expected a ConeBeam, got {type(A).__name__}; use FBP for "
                             "parallel and fan beams, CGLS or SIRT for other operators")
        circle = _circle(A.geometry)
        weights = ray_weights(y, circle.fan, "FDK")[:, None] * circle.cosines()
        weighted, fan = widened(y * weights.to(y), circle.fan)
        circle = replace(circle, fan=fan)
        filtered = filter_columns(weighted, ramp(fan.n_cols, fan.col_mm, self.window).to(y))
        projections = filtered.reshape(-1, *filtered.shape[-3:])
        volumes = y.new_zeros(len(projections), *A.domain.shape)
        for view, theta in enumerate(fan.angles.tolist()):
            _backproject(volumes, A.geometry, circle, theta, projections[:, view])
        x = volumes.reshape(*y.shape[:-3], *A.domain.shape)
        if on_step is not None:
            on_step(0, x)
        return x


@dataclass(frozen=True)
class _Circle:
    """A circular scan: the fan beam of its central plane, and its rows.

    ``source_z_mm`` is the height of the source, ``row_offset_mm`` the detector's above it.
    """

    fan: FanBeam
    n_rows: int
    row_mm: float
    row_offset_mm: float
    source_z_mm: float

    @property
    def distance_mm(self) -> float:
        """From the source to the detector."""
        return self.fan.source_mm + self.fan.detector_mm

    def cosines(self) -> Tensor:
        """Between each ray and its projection onto the central plane, ``(row, col)``."""
        col = (torch.arange(self.fan.n_cols).double() - (self.fan.n_cols - 1) / 2)
        row = (torch.arange(self.n_rows).double() - (self.n_rows - 1) / 2)
        across = col * self.fan.col_mm + self.fan.col_offset_mm
        up = row * self.row_mm + self.row_offset_mm
        in_plane = torch.hypot(across, across.new_tensor(self.distance_mm))
        return in_plane / torch.hypot(in_plane, up[:, None])


def _circle(geometry: CTGeometry) -> _Circle:
    """The circle that a geometry describes; `InputError` if it is none."""
    if geometry.parallel or geometry.curved or geometry.angles is None:
        raise InputError(f"FDK: expected a circular scan with a flat detector, got a "
                         f"{str(geometry).splitlines()[0]}; use CGLS, SIRT, SART or TV")
    cos, sin, zero = geometry.angles.cos(), geometry.angles.sin(), geometry.angles * 0
    frame = torch.stack([torch.stack([cos, sin, zero], 1), torch.stack([-sin, cos, zero], 1),
                         torch.stack([zero, zero, zero + 1], 1)], 1)
    local = [torch.einsum("vik,vk->vi", frame, vectors) for vectors in (
        geometry.sources, geometry.detectors - geometry.sources, geometry.col_axes,
        geometry.row_axes)]
    source, ray, col, row = (vectors[0].tolist() for vectors in local)
    expected = (source, ray, [col[0], 0.0, 0.0], [0.0, 0.0, row[2]])
    off = max(float((vectors - vectors.new_tensor(target)).abs().max())
              for vectors, target in zip(local, expected, strict=True))
    if off > 1e-6 * abs(ray[1]):
        raise InputError(f"FDK: expected a source on a circle around z and a detector at right "
                         f"angles to it, got positions that are off by up to {off:.3g} mm (a "
                         "helix?); use CGLS, SIRT, SART or TV")
    fan = FanBeam(geometry.shape[1:], geometry.angles, max(geometry.voxel_mm[1:]), -source[1],
                  ray[1] + source[1], geometry.n_cols, col[0], col_offset_mm=ray[0],
                  axis_offset_mm=-source[0])
    return _Circle(fan, geometry.n_rows, row[2], ray[2], source[2])


def _backproject(volumes: Tensor, geometry: CTGeometry, circle: _Circle, theta: float,
                 view: Tensor) -> None:
    """Add one filtered view ``(n, row, col)`` to the volumes ``(n, z, y, x)``."""
    z, y, x = (mm * (torch.arange(n, device=view.device, dtype=torch.float64) - (n - 1) / 2)
               for n, mm in zip(geometry.shape, geometry.voxel_mm, strict=True))
    cos, sin = math.cos(theta), math.sin(theta)
    fan, distance = circle.fan, circle.distance_mm
    depth = fan.source_mm - x * sin + y[:, None] * cos
    lateral = fan.axis_offset_mm + x * cos + y[:, None] * sin
    across = distance * lateral / depth
    col = _grid((across - fan.col_offset_mm) / fan.col_mm, fan.n_cols).to(view)
    magnification, weight = (distance / depth).to(view), (distance / depth**2).to(view)
    step = max(1, _VOXELS // col.numel())
    for start in range(0, len(z), step):
        heights = (z[start: start + step] - circle.source_z_mm).to(view)[:, None, None]
        up = (heights * magnification - circle.row_offset_mm) / circle.row_mm
        grid = torch.stack([col.expand_as(up), _grid(up, circle.n_rows)], -1)
        values = grid_sample(view[None], grid.flatten(0, 1)[None], align_corners=False)
        volumes[:, start: start + step] += weight * values[0].reshape(len(view), *up.shape)


def _grid(steps: Tensor, n: int) -> Tensor:
    """Steps from the middle of ``n`` pixels in `grid_sample`'s units: 2 from edge to edge."""
    return 2 / n * steps
