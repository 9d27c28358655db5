"""Interpolate tilted or unevenly spaced slices onto a grid at right angles."""

from __future__ import annotations

from typing import Any

import numpy as np

from medinv.data.dicom.stack import Array, Stack

Voxels = np.ndarray[Any, np.dtype[np.float32]]


def regrid(voxels: Voxels, stack: Stack) -> Voxels:
    """Linear interpolation onto the grid of `Stack.upright_affine`.

    Each slice moves within its plane to where its position says; the field of view grows to hold
    them all, filled with the smallest value of the volume. Slices at even distances are then
    interpolated between their neighbours.

    Args:
        voxels: (z, y, x), the slices as they are.
        stack: their positions.
    """
    pixel = np.array(stack.frames[0].spacing[::-1])
    moves = (stack.shifts - stack.shifts.min(axis=0)) / pixel  # x, y in voxels
    extra_x, extra_y = (int(n) for n in np.ceil(moves.max(axis=0) - 1e-6))
    shape = (len(voxels), voxels.shape[1] + extra_y, voxels.shape[2] + extra_x)
    moved: Voxels = np.full(shape, voxels.min(), np.float32)
    for out, image, (x, y) in zip(moved, voxels, moves, strict=True):
        _place(out, image, y, x)
    return _evenly(moved, stack.distances, stack.step_mm)


def _place(out: Voxels, image: Voxels, y: float, x: float) -> None:
    """Put an image at a fractional place of a larger one, in place."""
    background = out[0, 0]
    rows, cols = image.shape
    y0, x0 = (int(np.floor(value + 1e-6)) for value in (y, x))
    larger = np.full((rows + 2, cols + 2), background, np.float32)
    larger[1:-1, 1:-1] = image
    fy, fx = max(y - y0, 0.0), max(x - x0, 0.0)
    larger = (1 - fy) * larger[1:] + fy * larger[:-1]
    larger = (1 - fx) * larger[:, 1:] + fx * larger[:, :-1]
    part = out[y0 : y0 + rows + 1, x0 : x0 + cols + 1]
    part[...] = larger[: part.shape[0], : part.shape[1]]


def _evenly(voxels: Voxels, distances: Array, step_mm: float) -> Voxels:
    """Slices at multiples of the step, each between its two neighbours."""
    n_slices = int(np.floor(distances[-1] / step_mm + 0.05)) + 1
    wanted = np.minimum(np.arange(n_slices) * step_mm, distances[-1])
    if n_slices == len(voxels) and np.allclose(wanted, distances, atol=1e-3 * step_mm):
        return voxels
    upper = np.clip(np.searchsorted(distances, wanted), 1, len(distances) - 1)
    lower = upper - 1
    weight = (wanted - distances[lower]) / (distances[upper] - distances[lower])
    weight = weight.astype(np.float32)[:, None, None]
    result: Voxels = (1 - weight) * voxels[lower] + weight * voxels[upper]
    return result
