"""k-space, masks and coil maps from NumPy's ``.npy`` and ``.npz`` files; nothing is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medinv.data.kspace import KSpace, measured_points
from medinv.errors import DataError, ShapeError


def read_array(path: str | Path, key: str | None = None) -> Tensor:
    """The array of an ``.npy`` file, or the array ``key`` of an ``.npz`` file.

    Raises:
        DataError: no such file or key, the file is damaged or holds Python objects, or ``key`` is
            missing and the file holds several arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected an .npy or .npz file, found no file; check the path")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            array = content
        else:
            with content:
                array = content[_choose_key(path, content.files, key)]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: expected NumPy arrays of numbers, but it cannot be read: {error}"
        ) from error
    if array.dtype.kind not in "biufc":
        raise DataError(f"{path}: expected numbers, found an array of {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))


def read_array_kspace(path: str | Path, key: str | None = None) -> KSpace:
    """k-space (coil, ky, kx) or (slice, coil, ky, kx), complex, from ``.npy`` or ``.npz``.

    An array ``mask`` beside it in an ``.npz`` is the sampling mask; otherwise a point counts as
    measured where any coil is nonzero.

    Raises:
        DataError: what `read_array` raises; real numbers, other axes, NaN or Inf, or only zeros.
        ShapeError: the mask has another size than k-space.
    """
    path = Path(path)
    data = check_kspace(read_array(path, key), path)
    names = np.load(path, allow_pickle=False).files if path.suffix == ".npz" else []
    mask = read_array(path, "mask") != 0 if "mask" in names else measured_points(data)
    return KSpace(data, mask)


def read_maps(path: str | Path, kspace: KSpace, key: str | None = None) -> Tensor:
    """Coil sensitivity maps (coil, y, x) or (slice, coil, y, x) for ``kspace``, complex64.

    Raises:
        DataError: what `read_array` raises; real numbers, NaN or Inf.
        ShapeError: another number of coils or another grid than k-space has.
    """
    maps = read_array(path, key)
    _check_complex_finite(maps, Path(path), "maps")
    n_slices, *grid = kspace.data.shape
    if tuple(maps.shape) not in (tuple(grid), (n_slices, *grid)):
        raise ShapeError(
            f"{path}: maps are {tuple(maps.shape)} but k-space has (coil, ky, kx) = {tuple(grid)} "
            f"in {n_slices} slice(s); estimate the maps from this k-space, or pass its own"
        )
    return maps.to(torch.complex64)


def check_kspace(data: Tensor, path: Path) -> Tensor:
    """``data`` as (slice, coil, ky, kx) complex64, refused where it cannot be k-space.

    Raises:
        DataError: see `read_array_kspace`.
    """
    _check_complex_finite(data, path, "k-space")
    if data.ndim not in (3, 4):
        raise DataError(
            f"{path}: expected k-space (coil, ky, kx) or (slice, coil, ky, kx), found shape "
            f"{tuple(data.shape)}; reorder or add the axes"
        )
    if not bool((data != 0).any()):
        raise DataError(f"{path}: expected measured samples, found only zeros; check the export")
    return (data[None] if data.ndim == 3 else data).to(torch.complex64)


def _check_complex_finite(data: Tensor, path: Path, name: str) -> None:
    if not data.is_complex():
        raise DataError(
            f"{path}: expected complex {name}, found {data.dtype} {tuple(data.shape)}; "
            "join real and imaginary parts (a + 1j * b) before saving"
        )
    check_finite(data, path, name)


def check_finite(data: Tensor, path: Path, name: str) -> None:
    """Refuse NaN and Inf.

    Raises:
        DataError: see above.
    """
    parts = torch.view_as_real(data) if data.is_complex() else data
    if bool(parts.sum().isfinite()):  # one pass; NaN and Inf survive a sum
        return
    bad = ~data.isfinite()
    if bool(bad.any()):
        first = tuple(bad.nonzero()[0].tolist())
        raise DataError(
            f"{path}: expected finite {name}, found {int(bad.sum())} NaN or Inf samples, the "
            f"first at index {first}; repair the export, or set them to 0 and mask them out"
        )


def _choose_key(path: Path, names: list[str], key: str | None) -> str:
    if key is not None:
        if key not in names:
            raise DataError(f"{path}: no array {key!r}; it holds {', '.join(sorted(names))}")
        return key
    candidates = [name for name in names if name != "mask"]
    if len(candidates) != 1:
        raise DataError(
            f"{path}: expected one array, found {', '.join(sorted(names)) or 'none'}; "
            "name one with `key`"
        )
    return candidates[0]
