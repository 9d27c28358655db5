"""Coil maps from a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from medinv.data.mri.arrays import check_complex_finite, read_array
from medinv.data.mri.bart import is_cfl, read_cfl
from medinv.data.mri.bart_kspace import planar
from medinv.data.mri.kspace import KSpace
from medinv.data.mri.noncartesian import NonCartesianKSpace
from medinv.errors import ShapeError


def read_maps(path: str | Path, kspace: KSpace | NonCartesianKSpace,
              key: str | None = None) -> Tensor:
    """Coil sensitivity maps for ``kspace``, from ``.npy``, ``.npz``, ``.mat`` or BART's ``.cfl``.

    Args:
        path: the file; of BART's, one set of maps.
        kspace: what they are for.
        key: the array, where the file holds several.

    Returns:
        (coil, [z,] y, x) or (slice, coil, [z,] y, x), complex64.

    Raises:
        DataError: what `read_array` or `read_cfl` raises; real numbers, NaN or Inf.
        ShapeError: another number of coils or another grid than k-space has.

    >>> import numpy as np, tempfile
    >>> name = Path(tempfile.mkdtemp(), "maps.npy")
    >>> np.save(name, np.ones((2, 6, 4), np.complex64))
    >>> kspace = KSpace(torch.zeros(5, 2, 6, 4, dtype=torch.complex64), torch.ones(6, 4) > 0)
    >>> tuple(read_maps(name, kspace).shape)
    (2, 6, 4)
    """
    if is_cfl(path):
        maps = planar(read_cfl(path, "slice coil z y x")).squeeze(0)
    else:
        maps = read_array(path, key)
    check_complex_finite(maps, Path(path), "maps")
    grid = (kspace.n_coils, *kspace.grid)
    n_slices = len(kspace.data)
    if tuple(maps.shape) not in (grid, (n_slices, *grid)):
        raise ShapeError(
            f"{path}: maps are {tuple(maps.shape)} but k-space needs (coil, *grid) = {grid} "
            f"in {n_slices} slice(s); estimate the maps from this k-space, or pass its own"
        )
    return maps.to(torch.complex64)
