"""Filtered backprojection for parallel and fan beams.

``x(r) = int_0^pi (p_theta * h)(s = r . theta) dtheta`` with the ramp ``h`` (see
`medinv.solvers.ramp`). Each ray counts with the angle it stands for, shared with the rays that
measure the same again (see `medinv.solvers.redundancy`). For parallel beams,
backprojection is the operator's adjoint; for a projector that conserves mass its columns sum to
``pixel_mm^2 / col_mm`` per view, which fixes the scale. Fan beams need a weight at each depth and
have a backprojection of their own (`medinv.solvers.fan_fbp`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medinv.errors import InputError
from medinv.operators.ct import FanBeam, ParallelBeam
from medinv.problem import Problem
from medinv.samplers import OnStep
from medinv.solvers.base import require
from medinv.solvers.fan_fbp import fan_fbp
from medinv.solvers.ramp import WINDOWS, filter_columns, ramp
from medinv.solvers.redundancy import Directions, Sides


def _parallel_fbp(y: Tensor, A: ParallelBeam, window: str) -> Tensor:
    weights, is_half = _ray_weights(y, A)
    weighted = y * (weights * A.col_mm / A.pixel_mm**2).to(y)
    if is_half:
        weighted, A = _widened(weighted, A)
    return A.adjoint(filter_columns(weighted, ramp(A.n_cols, A.col_mm, window).to(y)))


def _ray_weights(y: Tensor, A: ParallelBeam) -> tuple[Tensor, bool]:
    """The angle that each ray stands for, and whether the detector sees one half per view.

    Returns:
        ``(view, 1)``, or ``(view, col)`` where each half turn sees another half of the object.

    Raises:
        InputError: the views leave a gap of more than twice their mean distance, or see one half
            of the object only.
    """
    index = torch.arange(A.n_cols, dtype=torch.float64) - (A.n_cols - 1) / 2
    positions = index * A.col_mm + A.col_offset_mm
    sides, turn = Sides.of(positions), Directions.of(A.angles, 2 * math.pi)
    if not sides.are_even() and turn.go_round:
        return turn.shares()[:, None] * sides.shares(positions, "FBP"), True
    half_turn = Directions.of(A.angles, math.pi)
    if not half_turn.go_round:
        raise InputError(
            "FBP: expected views over 180 degrees, at most "
            f"{math.degrees(half_turn.most):.3g} degrees apart for {len(half_turn.places)} "
            f"directions, got a gap of {math.degrees(half_turn.gaps[-1]):.3g} degrees; use TV, "
            "SIRT or CGLS for limited angles")
    if not sides.are_even():
        sides.require_whole(y, "FBP")
    return half_turn.shares()[:, None], False


def _widened(y: Tensor, A: ParallelBeam) -> tuple[Tensor, ParallelBeam]:
    """Weighted data on a detector that reaches as far on its short side as on its long one.

    Filtering spreads them beyond the short side, into columns that backprojection needs.
    """
    n = min(math.ceil(2 * abs(A.col_offset_mm) / A.col_mm - 1e-6), A.n_cols)
    left, right = (n, 0) if A.col_offset_mm > 0 else (0, n)
    wide = ParallelBeam(A.geometry.shape[1:], A.angles, A.pixel_mm, A.n_cols + n, A.col_mm,
                        col_offset_mm=A.col_offset_mm + (right - left) / 2 * A.col_mm,
                        dtype=A.domain.dtype, memory_gib=A.memory_gib)
    return torch.nn.functional.pad(y, (left, right)), wide


@dataclass(frozen=True)
class FBP:
    """Filtered backprojection, in 1/mm.

    Parallel beams need views over 180 degrees (or 360), fan beams over 360 degrees, or over 180
    plus the fan angle (short scan). Turns may overlap or repeat. Over 360 degrees the detector may
    see one half of the object only (half acquisition).

    Args:
        window: damping of the ramp towards Nyquist: ``"ram-lak"`` (none), ``"shepp-logan"`` or
            ``"hann"`` (least noise, least resolution).

    Example:
        >>> FBP(window="hann")
        FBP(window='hann')
    """

    window: Literal["ram-lak", "shepp-logan", "hann"] = "ram-lak"

    def __post_init__(self) -> None:
        require(self.window in WINDOWS, "FBP: window", f"one of {', '.join(WINDOWS)}",
                self.window)

    @torch.no_grad()
    def __call__(self, problem: Problem, *, on_step: OnStep | None = None) -> Tensor:
        """Reconstruct.

        Args:
            problem: y, line integrals, ``(*batch, view, col)``; A, a `ParallelBeam` or `FanBeam`.
            on_step: called once, with the result.

        Returns:
            Attenuation in 1/mm, ``(*batch, y, x)``.

        Raises:
            InputError: ``A`` is another operator or its views do not suffice; ``y`` has another
                shape or dtype than ``A`` gives, is not finite, or goes on beyond the detector
                where no view measures it.
        """
        y, A = problem.y, problem.linear
        if not isinstance(A, ParallelBeam | FanBeam):
            raise InputError(f"FBP: expected a ParallelBeam or FanBeam, got {type(A).__name__}; "
                             "use CGLS, SIRT or TV for other operators")
        if isinstance(A, ParallelBeam):
            x = _parallel_fbp(y, A, self.window)
        else:
            x = fan_fbp(y, A, self.window)
        if on_step is not None:
            on_step(0, x)
        return x
