"""How rays that were measured more than once share their weight in filtered backprojection.

A direction may come back: at the end of a full turn, in every further turn, and for parallel beams
after half a turn from the other side. Its views share the angle that the direction stands for. A
detector whose rotation axis lies towards one side sees the rays of its long side once in a turn
and those around the axis twice; there each ray and its twin get Wang's weights (Med. Phys. 29
(2002), 1634), which sum to 1. Synchrotrons call that half acquisition, laboratories half fan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.errors import InputError
from medinv.operators.ct_detector import cut_side

_SAME = 1e-3  # radians; directions nearer than this, and than a tenth of their mean distance
_CENTRED = 0.95  # of the long side: above this, both sides of a detector count as equal


@dataclass(frozen=True, eq=False)
class Directions:
    """The distinct directions of a scan, on a circle of ``period`` radians.

    Attributes:
        period: pi where opposite rays are the same, else 2 pi.
        places: from the first direction after the widest gap, ascending, ``(direction,)``.
        of_view: which direction a view has, ``(view,)``.
    """

    period: float
    places: Tensor
    of_view: Tensor

    @classmethod
    def of(cls, angles: Tensor, period: float) -> Directions:
        """Of view angles in radians, ``(view,)``, in any order.

        >>> scan = Directions.of(torch.arange(5) * torch.pi / 2, torch.pi)
        >>> [round(share / torch.pi, 3) for share in scan.shares().tolist()]
        [0.167, 0.25, 0.167, 0.25, 0.167]
        """
        theta, order = torch.sort(angles.detach().to("cpu", torch.float64).remainder(period))
        gaps = torch.diff(theta, append=theta[:1] + period)
        first = (int(gaps.argmax()) + 1) % len(theta)
        theta, order = (theta.roll(-first) - theta[first]).remainder(period), order.roll(-first)
        same = min(_SAME, 0.1 * period / len(theta))
        is_new = torch.diff(theta, prepend=theta[:1] - period) > same
        group = is_new.cumsum(0) - 1
        of_view = torch.empty_like(order)
        of_view[order] = group
        return cls(period, theta[is_new], of_view)

    @property
    def gaps(self) -> Tensor:
        """From each direction to the next; the widest is the last."""
        return torch.diff(self.places, append=self.places[:1] + self.period)

    @property
    def most(self) -> float:
        """How wide a gap may be where the scan goes round."""
        return min(2 * self.period / len(self.places), self.period / 2)

    @property
    def go_round(self) -> bool:
        """Whether no gap is too wide."""
        return float(self.gaps[-1]) <= self.most + 1e-6

    def shares(self) -> Tensor:
        """The angle that each view stands for, ``(view,)``; they sum to the period."""
        return self.divided((self.gaps + self.gaps.roll(1)) / 2)

    def divided(self, arcs: Tensor) -> Tensor:
        """The arcs ``(direction,)``, shared by the views of each direction: ``(view,)``."""
        counts = torch.bincount(self.of_view, minlength=len(self.places))
        return (arcs / counts)[self.of_view]


@dataclass(frozen=True)
class Sides:
    """How far a detector reaches to either side of the axis, in any unit.

    Attributes:
        low: towards smaller columns.
        high: towards larger columns.
        step: between columns.
    """

    low: float
    high: float
    step: float

    @classmethod
    def of(cls, positions: Tensor) -> Sides:
        """From where the columns lie relative to the axis, ascending, ``(col,)``."""
        n = max(len(positions) - 1, 1)
        low, high = float(positions[0]), float(positions[-1])
        return cls(-low, high, (high - low) / n)

    def are_even(self, needed: float = math.inf) -> bool:
        """Whether both see as much, or as much as ``needed``."""
        return min(self.low, self.high) >= min(needed, _CENTRED * max(self.low, self.high))

    def shares(self, positions: Tensor, name: str) -> Tensor:
        """Wang's share of each column, ``(col,)``: twins sum to 1.

        Raises:
            InputError: no column reaches the axis.
        """
        short = min(self.low, self.high)
        if short < -(0.5 + 1e-6) * self.step:
            raise InputError(
                f"{name}: expected a detector that reaches the rotation axis, got one that begins "
                f"{-short / self.step:.3g} columns beside it; correct the offset (col_offset_mm), "
                "or use TV, SIRT or CGLS")
        towards_long = positions if self.high > self.low else -positions
        ratio = (towards_long / max(short, 1e-9)).clamp(-1, 1)
        return (1 + torch.sin(math.pi / 2 * ratio)) / 2

    def require_whole(self, y: Tensor, name: str) -> None:
        """Refuse data ``(..., col)`` of an object that goes on beyond the short side only.

        Raises:
            InputError: it does; without a full turn nothing measured what is missing.
        """
        if cut_side(y) == (-1 if self.high > self.low else 1):
            raise InputError(
                f"{name}: expected views over 360 degrees, since the detector sees the object on "
                "one side of the axis only (half acquisition), got fewer; or correct the offset "
                "of the detector, or use TV, SIRT or CGLS")
