"""View angles whose unit a file may not state: told from how far they turn, or asked for."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from medinv.errors import DataError

AngleUnit = Literal["degrees", "radians"]

_LONGEST_RADIANS = 2.1 * math.pi  # beyond a turn in radians, no scan is that short in degrees
_NEAR = 0.02  # of half a turn: how far from it scans end


def in_radians(angles: Tensor, unit: str | None, name: str) -> tuple[Tensor, str | None]:
    """View angles in radians.

    Angles without a unit are radians if they span half a turn or a whole one in those, and degrees
    if they span more than a turn in radians has, unless that is several turns. No scan over 3 or 6
    degrees is likely, but limited angles in radians look like a tomosynthesis in degrees: the
    caller has to say.

    Args:
        angles: as stored, ``(view,)``, finite.
        unit: as the file or the caller states it; None if nobody does.
        name: of the file, for messages.

    Returns:
        Radians, and a note if they were recognised by their span.

    Raises:
        DataError: an unknown unit, or angles that could be either.

    >>> in_radians(torch.tensor([0.0, 90.0]), None, "scan")[0].tolist() == [0.0, torch.pi / 2]
    True
    >>> in_radians(torch.linspace(0, 2, 9), None, "scan.h5")
    Traceback (most recent call last):
    medinv.errors.DataError: scan.h5: its angles run from 0 to 2 without a unit, which could be \
degrees or radians; say which, with angle_unit: degrees or angle_unit: radians
    """
    radians = angles.to(torch.float64)
    stated = (unit or "").strip().lower()
    if stated.startswith("rad"):
        return radians, None
    if stated.startswith("deg") or stated == "\N{DEGREE SIGN}":
        return torch.deg2rad(radians), None
    if stated:
        raise DataError(f"{name}: expected angles in degrees or radians, found the unit "
                        f"{stated[:20]!r}; say which, with angle_unit: degrees or radians")
    if not len(radians):
        return radians, None
    low, high = float(radians.min()), float(radians.max())
    span, step = high - low, (high - low) / max(len(radians) - 1, 1)
    turns = [min(abs(span - k * math.pi), abs(span + step - k * math.pi)) <= _NEAR * math.pi
             for k in range(1, 7)]  # with both ends, or without the second
    if span and any(turns[:2]):
        return radians, (f"angles without a unit, from {low:.4g} to {high:.4g}, were taken as "
                         "radians (angle_unit says otherwise)")
    if span == 0 or (span > _LONGEST_RADIANS and not any(turns)):
        return torch.deg2rad(radians), None
    raise DataError(f"{name}: its angles run from {low:.4g} to {high:.4g} without a unit, which "
                    "could be degrees or radians; say which, with angle_unit: degrees or "
                    "angle_unit: radians")


def noted(note: str | None) -> dict[str, object]:
    """The note as metadata.

    >>> noted(None), noted("told")
    ({}, {'notes': ('told',)})
    """
    return {} if note is None else {"notes": (note,)}
