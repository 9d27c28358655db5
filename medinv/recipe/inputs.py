"""What a recipe may be run on: a file, or data that are in memory already.

A recipe of measured k-space takes a `KSpace` or `NonCartesianKSpace`, one of projections a
`Sinogram`, one that simulates its measurement a `Volume`. An array stands for

- k-space: complex, with the recipe's ``kspace.axes``, or (coil, ky, kx) or (slice, coil, ky, kx);
  zeros were not measured, voxels are of unknown size;
- a volume: real, (z, y, x), in HU for CT, of 1 mm voxels, axial as radiologists see it;
- projections: never, as an array does not say where its rays ran.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medinv.data import KSpace, NonCartesianKSpace, Sinogram, Volume, measured_points
from medinv.data.geometry import placed
from medinv.data.metadata import Metadata
from medinv.data.mri.arrays import check_kspace, ordered
from medinv.errors import InputError
from medinv.recipe.blocks import CTFile, Measurement, MRIFile

Array = np.ndarray[Any, np.dtype[Any]]
Data = Volume | KSpace | NonCartesianKSpace | Sinogram
Input = str | Path | Data | Tensor | Array
Given = Path | Data

_ARRAY = Path("the array")  # where messages name a file
_NOTE = "the array says neither the size of a voxel nor its place: 1 mm, axial, is assumed"


def given(input: Input | None, block: Measurement) -> Given | None:  # noqa: A002
    """What a caller passed as what the recipe's measurement takes.

    Args:
        input: a path, data, or an array; None for the recipe's own data.
        block: the recipe's measurement.

    Raises:
        InputError: data of another kind than the recipe measures, or an array that cannot be it.

    >>> from medinv.recipe import load_recipe
    >>> given(torch.zeros(2, 8, 8), load_recipe("demo-chest-ct").measurement)
    Volume(2 x 8 x 8 float32 voxels (z, y, x), 1 x 1 x 1 mm (x, y, z), LPS)
    """
    if input is None or isinstance(input, Path):
        return input
    if isinstance(input, str):
        return Path(input)
    if isinstance(input, np.ndarray):
        input = _tensor(input)  # noqa: A001
    data = _from_tensor(input.detach().cpu(), block) if isinstance(input, Tensor) else input
    wanted = _wanted(block)
    if not isinstance(data, wanted):
        names = " or ".join(kind.__name__ for kind in wanted)
        raise InputError(f"input: expected a path, {names}, or an array for a recipe of kind "
                         f"{block.kind}, got {type(input).__name__}; choose another recipe "
                         "(`medinv recipes`), or convert it")
    if not bool(data.data.isfinite().all()):
        raise InputError(f"input: expected finite numbers, found NaN or Inf in {data!r}; correct "
                         "them")
    return data


def _wanted(block: Measurement) -> tuple[type[Data], ...]:
    if isinstance(block, MRIFile):
        return KSpace, NonCartesianKSpace
    return (Sinogram,) if isinstance(block, CTFile) else (Volume,)


def _tensor(array: Array) -> Tensor:
    if array.dtype.kind not in "biufc":
        raise InputError(f"input: expected numbers, got an array of {array.dtype}")
    kind = np.complex64 if array.dtype.kind == "c" else np.float32
    return torch.from_numpy(array.astype(kind))


def _from_tensor(data: Tensor, block: Measurement) -> Data:
    if isinstance(block, CTFile):
        raise InputError("input: an array does not say where the rays of its projections ran; "
                         "pass medinv.Sinogram(data, geometry)")
    if isinstance(block, MRIFile):
        axes = block.kspace.axes
        samples = check_kspace(ordered(data, axes, _ARRAY) if axes else data, _ARRAY)
        return KSpace(samples, measured_points(samples))
    if data.ndim != 3 or data.is_complex() or 0 in data.shape:
        raise InputError(f"input: expected a real array (z, y, x) to simulate from, got "
                         f"{data.dtype} {tuple(data.shape)}; pass the magnitude, or a "
                         "medinv.Volume")
    n_z, n_y, n_x = data.shape
    volume = placed(data.float(), (n_z, n_y, n_x), None, None, {}, Metadata())
    return replace(volume, metadata={**volume.metadata, "notes": (_NOTE,)})
