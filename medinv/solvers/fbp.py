"""Filtered backprojection for parallel and fan beams.

``x(r) = int_0^pi (p_theta * h)(s = r . theta) dtheta`` with the ramp ``h`` (see
`medinv.solvers.ramp`). Each view counts with the angle it stands for. For parallel beams,
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
from medinv.operators.base import LinearOperator
from medinv.operators.ct import FanBeam, ParallelBeam
from medinv.solvers.base import OnStep, check_measurement, require
from medinv.solvers.fan_fbp import fan_fbp
from medinv.solvers.ramp import WINDOWS, filter_columns, ramp


def _view_angles(angles: Tensor) -> Tensor:
    """The part of the half circle that each view stands for, in radians; they sum to pi.

    Args:
        angles: view angles in radians, ``(view,)``, in any order.

    Raises:
        InputError: the views leave a gap of more than twice their mean distance.
    """
    directions, order = torch.sort(angles.to(torch.float64).remainder(math.pi))
    gaps = torch.diff(directions, append=directions[:1] + math.pi)
    mean = math.pi / len(angles)
    if gaps.max() > 2 * mean + 1e-6:
        raise InputError(
            f"FBP: expected views over 180 degrees, at most {math.degrees(2 * mean):.3g} degrees "
            f"apart for {len(angles)} views, got a gap of {math.degrees(gaps.max()):.3g} degrees; "
            "use TV, SIRT or CGLS for limited angles"
        )
    weights = torch.empty_like(gaps)
    weights[order] = (gaps + gaps.roll(1)) / 2
    return weights


def _parallel_fbp(y: Tensor, A: ParallelBeam, window: str) -> Tensor:
    weights = _view_angles(A.angles) * A.col_mm / A.pixel_mm**2
    filtered = filter_columns(y, ramp(A.n_cols, A.col_mm, window).to(y))
    return A.adjoint(filtered.mul_(weights.to(y)[:, None]))


@dataclass(frozen=True)
class FBP:
    """Filtered backprojection, in 1/mm.

    Parallel beams need views over 180 degrees (or 360), fan beams over 360 degrees, or over 180
    plus the fan angle (short scan).

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
    def __call__(self, y: Tensor, A: LinearOperator, *, on_step: OnStep | None = None) -> Tensor:
        """Reconstruct.

        Args:
            y: line integrals, ``(*batch, view, col)``.
            A: a `ParallelBeam` or `FanBeam`.
            on_step: called once, with the result.

        Returns:
            Attenuation in 1/mm, ``(*batch, y, x)``.

        Raises:
            InputError: ``A`` is another operator or its views do not suffice; ``y`` has another
                shape or dtype than ``A`` gives, or is not finite.
        """
        if not isinstance(A, ParallelBeam | FanBeam):
            raise InputError(f"FBP: expected a ParallelBeam or FanBeam, got {type(A).__name__}; "
                             "use CGLS, SIRT or TV for other operators")
        check_measurement(y, A)
        if isinstance(A, ParallelBeam):
            x = _parallel_fbp(y, A, self.window)
        else:
            x = fan_fbp(y, A, self.window)
        if on_step is not None:
            on_step(0, x)
        return x
