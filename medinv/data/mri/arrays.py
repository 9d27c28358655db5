"""k-space and masks from ``.npy``, ``.npz`` and ``.mat``; nothing is unpickled."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medinv.data.expansion import check_expansion
from medinv.data.mri.kspace import KSpace, measured_points
from medinv.data.mri.matlab import read_mat
from medinv.data.safety import check_memory
from medinv.errors import DataError, MedinvError

Array = np.ndarray[Any, np.dtype[Any]]
_AXES = ("slice", "coil", "kz", "ky", "kx")
_LARGEST = {"c": 16}  # bytes of a number; torch has no longer ones


def read_array(path: str | Path, key: str | None = None) -> Tensor:
    """The array of an ``.npy`` file, or the array ``key`` of an ``.npz`` or ``.mat`` file.

    MATLAB's arrays keep the order of their axes, of version 7.3 too.

    Raises:
        DataError: no such file or key, the file is damaged or holds Python objects, ``key`` is
            missing and the file holds several arrays, or more than the memory holds.

    >>> import tempfile
    >>> name = Path(tempfile.mkdtemp(), "arrays.npz")
    >>> np.savez(name, image=np.arange(3.0), mask=np.ones(3))
    >>> read_array(name, "image")
    tensor([0., 1., 2.], dtype=torch.float64)
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected an .npy, .npz or .mat file, found no file; check the "
                        "path")
    if path.suffix == ".mat":
        array = read_mat(path, lambda names: _choose_key(path, names, key))
    else:
        array = _read_numpy(path, key)
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > _LARGEST.get(array.dtype.kind, 8):
        raise DataError(f"{path}: expected numbers, found an array of {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))


def numpy_arrays(path: str | Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of the arrays of an ``.npy`` (named ``""``) or ``.npz`` file.

    Only headers are read.

    Raises:
        DataError: damaged, cut off, or of Python objects.

    >>> import tempfile
    >>> name = Path(tempfile.mkdtemp(), "arrays.npz")
    >>> np.savez(name, image=np.arange(3.0))
    >>> numpy_arrays(name)
    {'image': ((3,), 'float64')}
    """
    path = Path(path)
    with _numpy_errors(path):
        if path.suffix != ".npz":
            with path.open("rb") as file:
                shape, _, dtype = _npy_header(file, path.stat().st_size)
            return {"": (shape, str(dtype))}
        found = {}
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    shape, _, dtype = _npy_header(file, member.file_size)
                found[member.filename.removesuffix(".npy")] = shape, str(dtype)
        return found


def _read_numpy(path: Path, key: str | None) -> Array:
    """An array whose header was checked before its memory is taken; nothing is unpickled."""
    with _numpy_errors(path):
        if path.suffix != ".npz":
            with path.open("rb") as file:
                return _read_npy(path, file, path.stat().st_size)
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            member = archive.getinfo(f"{_choose_key(path, names, key)}.npy")
            check_expansion(path, member.file_size, member.compress_size)
            with archive.open(member) as file:
                return _read_npy(path, file, member.file_size)


@contextmanager
def _numpy_errors(path: Path) -> Iterator[None]:
    """Turn what NumPy and zipfile raise on a damaged file into a `DataError`."""
    try:
        yield
    except MedinvError:
        raise
    except (ValueError, OSError, EOFError, KeyError, TypeError, SyntaxError, RuntimeError,
            NotImplementedError, OverflowError, MemoryError, struct.error, tokenize.TokenError,
            zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: expected NumPy arrays of numbers, but it cannot be read: {error}"
        ) from error


def _read_npy(path: Path, file: Any, n_bytes: int) -> Array:  # noqa: ANN401
    """The array of a file, or of a zip's member, of ``n_bytes``."""
    shape, is_fortran, dtype = _npy_header(file, n_bytes)
    if shape:
        check_memory(path, shape, 2 * dtype.itemsize)
    content = bytearray(math.prod(shape) * dtype.itemsize)
    if file.readinto(content) != len(content):
        raise ValueError(f"it is cut off: the header declares {shape} of {dtype}")
    array: Array = np.frombuffer(content, dtype)
    return array.reshape(shape, order="F" if is_fortran else "C")


def _npy_header(file: Any, n_bytes: int  # noqa: ANN401  (a file, or a zip's member)
                ) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype of an array that ``n_bytes`` can hold."""
    from numpy.lib import format as npy

    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the format is not known")
    shape, is_fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded")
    if math.prod(shape) * dtype.itemsize > n_bytes:
        raise ValueError(f"it is cut off: the header declares {shape} of {dtype}")
    return shape, is_fortran, dtype


def read_array_kspace(path: str | Path, key: str | None = None,
                      axes: str | None = None) -> KSpace:
    """k-space from ``.npy``, ``.npz`` or ``.mat``.

    An array ``mask`` beside it in an ``.npz`` is the sampling mask, (ky, kx); otherwise a point
    counts as measured where any coil is nonzero.

    Args:
        path: the file.
        key: the array, where the file holds several.
        axes: names of the array's axes in their order, out of ``slice``, ``coil``, ``kz``, ``ky``
            and ``kx``, such as ``"kx ky coil"``. A ``.mat`` file needs them; of the others,
            (coil, ky, kx) or (slice, coil, ky, kx) is taken where they are not given.

    Raises:
        DataError: what `read_array` raises; real numbers, other axes, NaN or Inf, or only zeros.
        ShapeError: the mask has another size than k-space.

    >>> import tempfile
    >>> name = Path(tempfile.mkdtemp(), "scan.npy")
    >>> np.save(name, np.ones((64, 48, 8), np.complex64))
    >>> tuple(read_array_kspace(name, axes="kx ky coil").data.shape)
    (1, 8, 48, 64)
    """
    path = Path(path)
    data = read_array(path, key)
    if axes is None and path.suffix == ".mat":
        raise DataError(f"{path}: a .mat file {tuple(data.shape)} does not say what its axes are; "
                        "declare them, as in axes='kx ky coil'")
    if axes is not None:
        data = ordered(data, axes, path)
    data = check_kspace(data, path)
    if path.suffix == ".npz" and "mask" in _names(path):
        return KSpace(data, read_array(path, "mask") != 0)
    return KSpace(data, measured_points(data))


def ordered(data: Tensor, axes: str, path: Path) -> Tensor:
    """k-space with declared axes as (slice, coil, [kz,] ky, kx).

    Raises:
        DataError: unknown, doubled or missing names, or not one for each axis.

    >>> tuple(ordered(torch.zeros(5, 4, 2), "kx ky coil", Path("scan.npy")).shape)
    (1, 2, 4, 5)
    """
    names = axes.split()
    if (len(names) != data.ndim or len(set(names)) != len(names) or not set(names) <= set(_AXES)
            or not {"ky", "kx"} <= set(names)):
        raise DataError(f"{path}: expected a name for each axis of {tuple(data.shape)}, out of "
                        f"{', '.join(_AXES)}, with ky and kx; got axes={axes!r}")
    wanted = [name for name in _AXES if name in names]
    data = data.permute([names.index(name) for name in wanted])
    for place, name in enumerate(("slice", "coil")):
        if name not in names:
            data = data.unsqueeze(place)
    return data


def _names(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def check_kspace(data: Tensor, path: Path) -> Tensor:
    """``data`` as (slice, coil, ky, kx) complex64, refused where it cannot be k-space.

    Raises:
        DataError: see `read_array_kspace`.
    """
    check_complex_finite(data, path, "k-space")
    if data.ndim not in (3, 4, 5):
        raise DataError(
            f"{path}: expected k-space (coil, ky, kx) or (slice, coil, ky, kx), found shape "
            f"{tuple(data.shape)}; declare the axes, as in axes='ky kx coil'"
        )
    if not bool((data != 0).any()):
        raise DataError(f"{path}: expected measured samples, found only zeros; check the export")
    return (data[None] if data.ndim == 3 else data).to(torch.complex64)


def check_complex_finite(data: Tensor, path: Path, name: str) -> None:
    """Refuse real numbers, NaN and Inf.

    Raises:
        DataError: see above.
    """
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
    parts = torch.view_as_real(data.resolve_conj()) if data.is_complex() else data
    flat = parts.detach().cpu().resolve_neg().numpy().reshape(-1)
    with np.errstate(all="ignore"):
        if np.isfinite(flat @ flat):  # one fast pass; NaN and Inf survive a sum of squares
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
