"""Where the image of ISMRMRD readouts lies in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medinv.data.mri.ismrmrd_header import Encoding
from medinv.errors import DataError

_Array = np.ndarray[Any, np.dtype[Any]]
_TOLERANCE = 1e-2
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Place:
    """The grid of an image.

    Attributes:
        grid: (z, y, x).
        slices: counters of the slices, in the order of their places along ``slice_dir``.
        voxel_mm: (z, y, x).
        affine: index (x, y, z) to RAS+ mm; None where the file holds no directions.
    """

    grid: tuple[int, int, int]
    slices: tuple[int, ...]
    voxel_mm: tuple[float, float, float]
    affine: Tensor | None


def find_place(heads: _Array, encoding: Encoding, path: Path, *,
               grid: tuple[int, int, int] | None = None,
               field: tuple[float, float, float] | None = None) -> Place:
    """The grid of the image of some readouts.

    Args:
        heads: their headers.
        encoding: their encoding.
        path: the file, for messages.
        grid: matrix (x, y, z) of the image; the encoded one if None.
        field: its field of view (x, y, z) in mm; the encoded one if None.

    Raises:
        DataError: directions that are not at right angles, or slices that are not parallel and
            equidistant.
    """
    shape = grid or encoding.encoded_shape
    x_mm, y_mm, z_mm = (f / n for f, n in zip(field or encoding.encoded_fov_mm, shape,
                                              strict=True))
    counters = np.unique(heads["idx"]["slice"])
    first = np.array([np.flatnonzero(heads["idx"]["slice"] == i)[0] for i in counters])
    axes = [heads[name][first].astype(np.float64) for name in ("read_dir", "phase_dir",
                                                               "slice_dir")]
    positions = heads["position"][first].astype(np.float64)
    n_z = len(counters) if shape[2] == 1 else shape[2]
    if shape[2] > 1 and len(counters) > 1:
        raise DataError(f"{path}: expected one slab of a 3D scan, found {len(counters)}; choose "
                        "one with select={'slice': 0}")
    order = np.arange(len(counters))
    affine = None
    if any(np.abs(axis).max() > 0 for axis in axes):
        directions = _directions(axes, path)
        along = positions @ directions[:, 2]
        order = np.argsort(along, kind="stable")
        if len(counters) > 1:
            z_mm = _spacing(positions[order], directions[:, 2], path)
        affine = _affine(directions, (x_mm, y_mm, z_mm), positions[order[0]], shape)
    return Place((n_z, shape[1], shape[0]), tuple(int(i) for i in counters[order]),
                 (z_mm, y_mm, x_mm), affine)


def _directions(axes: Sequence[_Array], path: Path) -> _Array:
    """(3, 3), the columns read, phase and slice."""
    directions = np.stack([axis[0] for axis in axes], axis=1)
    parallel = all(np.allclose(axis, axis[:1], atol=_TOLERANCE) for axis in axes)
    if not parallel or not np.isfinite(directions).all():
        raise DataError(f"{path}: expected parallel slices; choose one with select={{'slice': 0}}")
    if not np.allclose(directions.T @ directions, np.eye(3), atol=_TOLERANCE):
        raise DataError(f"{path}: expected read_dir, phase_dir and slice_dir of length 1 at right "
                        f"angles, found {directions.T.tolist()}; correct the headers")
    return directions


def _spacing(positions: _Array, normal: _Array, path: Path) -> float:
    steps = np.diff(positions, axis=0)
    mean: _Array = steps.mean(0)
    distance = float(mean @ normal)
    if not distance > 0 or np.abs(steps - distance * normal).max() > _TOLERANCE * distance:
        raise DataError(f"{path}: expected equidistant slices along slice_dir, found steps from "
                        f"{(steps @ normal).min():.4g} to {(steps @ normal).max():.4g} mm; choose "
                        "one with select={'slice': 0}")
    return distance


def _affine(directions: _Array, voxel: tuple[float, float, float], position: _Array,
            shape: tuple[int, int, int]) -> Tensor:
    middle = np.array([n // 2 for n in shape])
    columns = _LPS_TO_RAS[:, None] * directions * np.array(voxel)
    affine = np.eye(4)
    affine[:3, :3] = columns
    affine[:3, 3] = _LPS_TO_RAS * position - columns @ middle
    return torch.from_numpy(affine + 0.0)
