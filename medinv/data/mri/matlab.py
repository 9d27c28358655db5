"""Arrays of MATLAB's ``.mat`` files: versions 4 to 7.2 through SciPy, 7.3 (HDF5) through h5py."""

from __future__ import annotations

import os
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
_HEADER, _COMPRESSED = 128, 15  # bytes before the first variable; type of a packed one
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


def _check_packed(path: Path) -> None:
    """Refuse compressed variables that unpack to more than they declare, or than is allowed.

    SciPy unpacks as much as the tags inside a variable ask for.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER)
        order = {b"IM": "<", b"MI": ">"}.get(header[_HEADER - 2:])
        while order and len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != _COMPRESSED:  # only the first variables may be plain: SciPy checks these
                file.seek(size, os.SEEK_CUR)
                continue
            packed = file.read(size)
            inside = zlib.decompressobj().decompress(packed, 8)
            declared = struct.unpack(f"{order}II", inside)[1]
            check_expansion(path, declared, len(packed))
            if unpacks_beyond(packed, declared + len(inside)):
                raise DataError(f"{path}: a variable unpacks to more than the {declared} bytes "
                                "that it declares; the file is damaged, save it again")


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
