"""Filtered backprojection of fan beams, full turn or short scan.

A column at fan angle ``g`` from the line through the source at right angles to the detector
measures the ray at distance ``s = rho sin(g - g0)`` from the rotation axis, which the source sees
at ``g0`` from a distance ``rho``. Parallel-beam filtered backprojection in these coordinates
is, with depth ``U`` and distance ``L`` of a point from the source and ``D`` from the source to the
detector (Kak and Slaney, "Principles of computerized tomographic imaging" (1988), 3.4; with ``g0``
after Gullberg et al., IEEE Trans. Med. Imaging 5 (1986), 23)

    flat      x(r) = int  D / U^2  int w p(theta, t) rho cos(g - g0) h(t(r) - t) dt        dtheta
    curved    x(r) = int  1 / L^2  int w p(theta, g) rho cos(g - g0) h'(g(r) - g) dg       dtheta

where ``h'`` is the equiangular ramp. The weights ``w`` of a ray and of its twin from the other
side sum to 1: 1/2 over a full turn, or Wang's (Med. Phys. 29 (2002), 1634) where a shifted
detector sees half of the object only; in a short scan Parker's (Med. Phys. 9 (1982), 254), which
need an arc of 180 degrees plus the fan angle and with Silver's virtual fan angle (Med. Phys. 27
(2000), 773) use all of a longer one. The ray ``(theta, g)`` has its twin at ``(theta + pi - 2 (g -
g0), 2 g0 - g)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medinv.errors import InputError
from medinv.operators.ct import FanBeam
from medinv.solvers.ramp import filter_columns, ramp
from medinv.solvers.redundancy import Directions, Sides


def fan_fbp(y: Tensor, A: FanBeam, window: str) -> Tensor:
    """Reconstruct ``(*batch, view, col)``; see `medinv.solvers.FBP`.

    Example:
        >>> from medinv.operators import FanBeam
        >>> A = FanBeam((8, 8), torch.arange(30) * torch.pi / 15, 1.0, 50, 50, 30, 1.0)
        >>> fan_fbp(torch.zeros(30, 30), A, "hann").shape
        torch.Size([8, 8])
    """
    weighted, A = widened(y * ray_weights(y, A, "FBP").to(y), A)
    step = A.col_mm / (A.source_mm + A.detector_mm) if A.curved else A.col_mm
    filtered = filter_columns(weighted, ramp(A.n_cols, step, window, equiangular=A.curved).to(y))
    sinograms = filtered.reshape(-1, *A.codomain.shape)
    images = y.new_zeros(len(sinograms), *A.domain.shape)
    for theta, view in zip(A.angles.tolist(), sinograms.unbind(1), strict=True):
        images += _backproject(A, theta, view)
    return images.reshape(*y.shape[:-2], *A.domain.shape)


def widened(y: Tensor, A: FanBeam) -> tuple[Tensor, FanBeam]:
    """Weighted data on a detector that reaches as far on its short side as on its long one.

    Filtering spreads the data of a shifted detector beyond its short side, into columns that
    backprojection needs.

    Args:
        y: ``(..., col)``, already multiplied by `ray_weights`.
        A: the fan beam.

    Example:
        >>> A = FanBeam((8, 8), torch.zeros(1), 1.0, 50, 50, 10, 2.0, col_offset_mm=4.0)
        >>> y, B = widened(torch.ones(1, 10), A)
        >>> y.tolist(), B.col_offset_mm
        ([[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]], 0.0)
    """
    slope = A.axis_offset_mm / A.source_mm
    axis_mm = (A.source_mm + A.detector_mm) * (math.atan(slope) if A.curved else slope)
    shift = 2 * (A.col_offset_mm - axis_mm) / A.col_mm
    n = min(math.ceil(abs(shift) - 1e-6), A.n_cols)
    left, right = (n, 0) if shift > 0 else (0, n)
    wide = FanBeam(A.geometry.shape[1:], A.angles, A.pixel_mm, A.source_mm, A.detector_mm,
                   A.n_cols + n, A.col_mm, curved=A.curved,
                   col_offset_mm=A.col_offset_mm + (right - left) / 2 * A.col_mm,
                   axis_offset_mm=A.axis_offset_mm, dtype=A.domain.dtype)
    return torch.nn.functional.pad(y, (left, right)), wide


def ray_weights(y: Tensor, A: FanBeam, name: str) -> Tensor:
    """``w rho cos(g - g0)`` times the arc that each view stands for: ``(view, col)``.

    Args:
        y: ``(..., col)``, what was measured.
        A: the fan beam; for FDK the central plane of the cone.
        name: of the solver, for the error message.

    Raises:
        InputError: the views do not cover half a turn and the fan angle, or leave gaps, or the
            detector sees one half of the object in less than a full turn.

    Example:
        >>> A = FanBeam((8, 8), torch.arange(4) * torch.pi / 2, 1.0, 50, 50, 3, 9.0)
        >>> weights = ray_weights(torch.zeros(4, 3), A, "FBP")
        >>> round(weights[0, 1].item() / 50, 4)  # 1/2 of a quarter turn
        0.7854
    """
    fan_angles = _fan_angles(A)
    largest, sides = _largest_fan_angle(A, fan_angles), Sides.of(fan_angles)
    turn = Directions.of(A.angles, 2 * math.pi)
    if turn.go_round and sides.are_even(largest):
        share = turn.shares()[:, None] / 2
    elif turn.go_round:
        share = turn.shares()[:, None] * sides.shares(fan_angles, name)
    else:
        if not sides.are_even(largest):
            sides.require_whole(y, name)
        share = _short_scan(turn, fan_angles, largest, name)
    return share * math.hypot(A.source_mm, A.axis_offset_mm) * fan_angles.cos()


def _fan_angles(A: FanBeam) -> Tensor:
    """``g - g0`` of each column, ``(col,)``."""
    radius = A.source_mm + A.detector_mm
    index = torch.arange(A.n_cols, dtype=torch.float64) - (A.n_cols - 1) / 2
    position = (index * A.col_mm + A.col_offset_mm) / radius
    axis = math.atan2(A.axis_offset_mm, A.source_mm)
    return (position if A.curved else position.atan()) - axis


def _largest_fan_angle(A: FanBeam, fan_angles: Tensor) -> float:
    """Of a ray that meets the detector and the circle around the image."""
    distance = math.hypot(A.source_mm, A.axis_offset_mm)
    reach = math.hypot(*A.domain.shape) * A.pixel_mm / 2
    image = math.asin(min(1.0, reach / distance))
    return min(image, float(fan_angles.abs().max()))


def _short_scan(turn: Directions, fan_angles: Tensor, largest: float, name: str) -> Tensor:
    """Parker's share of each ray, times the arc that its view stands for: ``(view, col)``."""
    gaps, theta = turn.gaps, turn.places
    step = float(theta[-1]) / max(len(theta) - 1, 1)
    arc = float(theta[-1]) + step
    _check_arc(gaps[:-1], step, arc, largest, name)
    arcs = (gaps + gaps.roll(1)) / 2
    arcs[[0, -1]] += (step - gaps[-1]) / 2
    share = _parker(theta[:, None] + step / 2, fan_angles, arc)
    return share[turn.of_view] * turn.divided(arcs)[:, None]


def _check_arc(gaps: Tensor, step: float, arc: float, largest: float, name: str) -> None:
    needed = math.pi + 2 * largest
    widest = float(gaps.max()) if len(gaps) else math.inf
    if arc < needed - 1e-6 or widest > 2 * step + 1e-6:
        raise InputError(
            f"{name}: expected views over 360 degrees, or over 180 plus the fan angle, "
            f"{math.degrees(needed):.4g}, evenly apart; got {math.degrees(arc):.4g} degrees with "
            f"gaps of up to {math.degrees(widest):.3g}; use TV, SIRT or CGLS for limited angles"
        )


def _parker(theta: Tensor, fan_angles: Tensor, arc: float) -> Tensor:
    """Parker's weights at angles ``theta`` from the start of the arc: ``(view, col)``."""
    excess = (arc - math.pi) / 2
    tiny = 1e-9
    rise = theta / (excess + fan_angles).clamp(min=tiny)
    fall = (arc - theta) / (excess - fan_angles).clamp(min=tiny)
    return torch.sin(math.pi / 4 * torch.minimum(rise, fall).clamp(0, 2)) ** 2


def _backproject(A: FanBeam, theta: float, view: Tensor) -> Tensor:
    """One filtered view ``(n, col)`` to the image, ``(n, y, x)``."""
    y, x = (A.pixel_mm * (torch.arange(n, device=view.device) - (n - 1) / 2)
            for n in A.domain.shape)
    cos, sin = math.cos(theta), math.sin(theta)
    depth = A.source_mm - x * sin + y[:, None] * cos
    lateral = A.axis_offset_mm + x * cos + y[:, None] * sin
    radius = A.source_mm + A.detector_mm
    if A.curved:
        position, weight = radius * torch.atan2(lateral, depth), 1 / (depth**2 + lateral**2)
    else:
        position, weight = radius * lateral / depth, radius / depth**2
    index = (position - A.col_offset_mm) / A.col_mm + (A.n_cols - 1) / 2
    return weight.to(view) * _interpolate(view, index)


def _interpolate(view: Tensor, index: Tensor) -> Tensor:
    """``(n, col)`` at fractional columns ``(y, x)``; 0 outside."""
    below = index.floor()
    fraction = (index - below).to(view)
    padded = torch.nn.functional.pad(view, (1, 1))
    column = (below.long() + 1).clamp(-1, view.shape[1] + 1)
    outside = (column < 0) | (column > view.shape[1])
    column = column.clamp(0, view.shape[1])
    left, right = padded[:, column], padded[:, column + 1]
    return torch.where(outside, 0.0, torch.lerp(left, right, fraction))
