"""Arrays of MATLAB's ``.mat`` files: versions 4 to 7.2 through SciPy, 7.3 (HDF5) through h5py."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medinv.data.expansion import check_expansion, unpacks_beyond
from medinv.data.safety import check_memory, hdf5_array, hdf5_listing, open_hdf5
from medinv.errors import DataError, MedinvError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_NUMERIC = ("double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u")
                                           for bits in (8, 16, 32, 64)))
_HEADER, _TAG, _COMPRESSED = 128, 8, 15  # bytes before the first variable; type of a packed one
_CLASSES, _COMPLEX = (6, 15), 0x800  # in the flags of an array: of numbers, of two parts
_NUMBERS = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13)  # int8 to uint32, single, double, int64, uint64
_USER_BLOCK = 512  # MATLAB puts its own text before the HDF5 signature

Array = np.ndarray[Any, np.dtype[Any]]


def read_mat(path: Path, choose: Callable[[list[str]], str]) -> Array:
    """The array that ``choose`` picks from the names of a file, its axes as MATLAB has them.

    Raises:
        DataError: the file is damaged, the array holds no numbers, or is too large.
    """
    return _read_7_3(path, choose) if _is_hdf5(path) else _read_7(path, choose)


def mat_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and kind of each array of a file; of version 7.3, as HDF5 has it, axes reversed.

    Raises:
        DataError: the file is damaged, or unpacks to too much.
    """
    from scipy.io import whosmat

    if _is_hdf5(path):
        with open_hdf5(path) as file:
            return {name: (tuple(node.shape or ()), str(node.dtype))
                    for name, node in hdf5_listing(file)}
    with _mat_errors(path):
        _check_packed(path)
        return {name: (tuple(shape), kind) for name, shape, kind in whosmat(path)}


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(_USER_BLOCK + len(_HDF5))
    return start.startswith(_HDF5) or start.endswith(_HDF5)


@contextmanager
def _mat_errors(path: Path) -> Iterator[None]:
    """Turn what SciPy raises on a damaged file into a `DataError`; medinv's own errors pass."""
    from scipy.io.matlab import MatReadError

    try:
        yield
    except MedinvError:
        raise
    except (MatReadError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError,
            EOFError, OverflowError, MemoryError, NotImplementedError, UnicodeError, struct.error,
            zlib.error, AssertionError) as error:
        raise DataError(f"{path}: expected a MATLAB file, but it cannot be read: "
                        f"{error or type(error).__name__}; save it again, with -v7.3") from error


def _variables(path: Path) -> Iterator[tuple[str, int, memoryview]]:
    """Byte order, type and bytes of each variable of a file of version 5 to 7.2."""
    content = np.memmap(path, np.uint8, "r").data
    if 0 in content[:4]:  # version 4
        return
    order, at = "<" if content[_HEADER - 2:_HEADER].tobytes() == b"IM" else ">", _HEADER
    while at + _TAG <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        yield order, kind, content[at + _TAG:at + _TAG + size]
        at += _TAG + size


def _check_packed(path: Path) -> None:
    """Refuse compressed variables that unpack to more than they declare, or than is allowed.

    SciPy unpacks as much as the tags inside a variable ask for.
    """
    for order, kind, content in _variables(path):
        if kind != _COMPRESSED:
            continue
        packed = content.tobytes()
        inside = zlib.decompressobj().decompress(packed, _TAG)
        declared = struct.unpack(f"{order}II", inside)[1]
        check_expansion(path, declared, len(packed))
        if unpacks_beyond(packed, declared + _TAG):
            raise DataError(f"{path}: a variable unpacks to more than the {declared} bytes "
                            "that it declares; the file is damaged, save it again")


def _check_numbers(path: Path) -> None:
    """Refuse arrays of a type of numbers that there is not: SciPy crashes on it.

    Layout: MATLAB MAT-File Format (MathWorks), "Level 5 MAT-File Format"; `_check_packed` is past.
    """
    for order, kind, content in _variables(path):
        inside = content
        if kind == _COMPRESSED:
            inside = memoryview(zlib.decompress(content))[_TAG:]
        flags = struct.unpack_from(f"{order}I", inside, _TAG)[0]
        if not _CLASSES[0] <= flags & 0xFF <= _CLASSES[1]:
            continue
        at, n_parts = 2 * _TAG, 4 if flags & _COMPLEX else 3
        for part in ("sizes", "name", "real part", "imaginary part")[:n_parts]:
            number, size = struct.unpack_from(f"{order}II", inside, at)
            if number >> 16:  # up to four bytes stand in the tag
                number, size = number & 0xFFFF, 0
            if part.endswith("part") and number not in _NUMBERS:
                raise DataError(f"{path}: the {part} of an array has numbers of type {number}, "
                                "which there is not; the file is damaged, save it again")
            at += _TAG + -(-size // 8) * 8


def _read_7(path: Path, choose: Callable[[list[str]], str]) -> Array:
    from scipy.io import loadmat

    held = mat_arrays(path)
    name = choose(list(held))
    with _mat_errors(path):
        shape, kind = held[name]
        if kind not in _NUMERIC:  # damaged structures crash SciPy's reader
            raise DataError(f"{path}: expected numbers in {name!r}, found a {kind}; save the full "
                            "numeric array alone")
        check_memory(path, shape, itemsize=32)
        _check_numbers(path)
        array = np.asarray(loadmat(path, variable_names=[name])[name])
    if array.dtype.kind not in "biufc":
        raise DataError(f"{path}: expected numbers in {name!r}, found {array.dtype}; save the "
                        "full numeric array alone")
    return array


def _read_7_3(path: Path, choose: Callable[[list[str]], str]) -> Array:
    with open_hdf5(path) as file:
        names = [name for name in file if not name.startswith("#")]
        array = hdf5_array(file, choose(names), path).T
    fields = array.dtype.names or ()
    if set(fields) == {"real", "imag"}:
        joined: Array = array["real"] + np.complex64(1j) * array["imag"]
        return joined
    return array
