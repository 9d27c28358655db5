"""Where a volume's slices lie: one affine, or an error that says why there is none.

The distance between slices comes from their positions, never from SliceThickness. The affine keeps
the first and the last position exactly, so that rounded headers do not add up along the stack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medinv.data.dicom.frames import Frame
from medinv.data.dicom.volumes import places
from medinv.errors import DataError

Array = np.ndarray[Any, np.dtype[np.float64]]

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TILT_PIXELS = 0.5  # how far the last slice may lie beside the first one's normal
_STRAY_PIXELS = 0.25  # how far a slice may lie beside the line from first to last
_UNEVEN = 0.1  # of the usual distance between slices: rounded headers stay below


@dataclass(frozen=True, repr=False)
class Stack:
    """Slices in order of their position.

    Attributes:
        frames: one per place, along the normal.
        repeats: (slice kept, slice left out) where two lie at one place.
        distances: of each slice along the normal, mm.
        shifts: (slice, 2), how far each lies along row and col from the first one's normal, mm.
        step_mm: the usual distance between slices.
    """

    frames: list[Frame]
    repeats: list[tuple[Frame, Frame]]
    distances: Array
    shifts: Array
    step_mm: float

    @property
    def affine(self) -> Array:
        """Voxel index (x, y, z) to RAS+ mm, of the slices as they are."""
        first, last = self.frames[0], self.frames[-1]
        steps = len(self.frames) - 1
        step = (last.position - first.position) / steps if steps else self.normal_step
        return self._affine(first.position, step)

    @property
    def upright_affine(self) -> Array:
        """The same, of a grid whose slices follow the normal exactly."""
        first = self.frames[0]
        dy, dx = first.spacing
        corner = self.shifts.min(axis=0)
        origin = first.position + corner[0] * first.row + corner[1] * first.col
        return self._affine(origin, self.normal_step)

    @property
    def normal_step(self) -> Array:
        """From a slice to the next along the normal, LPS mm."""
        return self.step_mm * self.frames[0].normal

    def _affine(self, origin: Array, step: Array) -> Array:
        first = self.frames[0]
        dy, dx = first.spacing
        affine = np.eye(4)
        affine[:3] = np.stack([first.row * dx, first.col * dy, step, origin], axis=1)
        result: Array = _LPS_TO_RAS @ affine + 0.0
        return result

    @property
    def problem(self) -> str | None:
        """Why the slices are not a regular grid; None where they are."""
        if len(self.frames) < 2:
            return None
        return self._uneven() or self._tilted()

    def _uneven(self) -> str | None:
        gaps = np.diff(self.distances)
        worst = int(np.abs(gaps - self.step_mm).argmax())
        gap = float(gaps[worst])
        if abs(gap - self.step_mm) <= _UNEVEN * self.step_mm:
            return None
        n_missing = round(gap / self.step_mm) - 1
        even = abs(gap / self.step_mm - n_missing - 1) < 2 * _UNEVEN
        reason = f"; {n_missing} missing slices there" if n_missing > 0 and even else ""
        return (f"expected slices {self.step_mm:.4g} mm apart, found {gap:.4g} mm between slices "
                f"{worst + 1} and {worst + 2} of {len(self.frames)}{reason}")

    def _tilted(self) -> str | None:
        pixel = np.array(self.frames[0].spacing[::-1])
        drift = self.shifts[-1]
        along = self.distances - self.distances[0]
        stray = np.abs(self.shifts - np.outer(along / along[-1], drift)) / pixel
        if stray.max() > _STRAY_PIXELS:
            return (f"expected slices in a line, found slice {int(stray.max(axis=1).argmax()) + 1}"
                    f" of {len(self.frames)} {stray.max():.3g} pixels beside it")
        if (np.abs(drift) / pixel).max() <= _TILT_PIXELS:
            return None
        angle = math.degrees(math.atan2(float(np.linalg.norm(drift)), float(along[-1])))
        return ("expected slices stacked along their normal, found a gantry tilt of "
                f"{angle:.3g} degrees")


def stack_slices(frames: Sequence[Frame]) -> Stack:
    """Order the slices of one volume along their normal.

    Raises:
        DataError: a slice that is alone states no thickness.
    """
    stacks = places(frames)
    kept = [stack[0] for stack in stacks]
    repeats = [(stack[0], other) for stack in stacks for other in stack[1:]]
    first = kept[0]
    offsets = np.stack([frame.position for frame in kept]) - first.position
    distances = offsets @ first.normal
    shifts = offsets @ np.stack([first.row, first.col], axis=1)
    step = float(np.median(np.diff(distances))) if len(kept) > 1 else first.thickness
    if not step or step < 0:
        raise DataError(f"{first.header.name}: one slice without a thickness has no extent along "
                        "its normal; a volume needs SliceThickness or a second slice")
    return Stack(kept, repeats, distances, shifts, step)
