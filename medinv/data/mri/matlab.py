"""Arrays of MATLAB's ``.mat`` files: versions 4 to 7.2 through SciPy, 7.3 (HDF5) through h5py."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medinv.data.safety import check_memory, hdf5_array, open_hdf5
from medinv.errors import DataError, MedinvError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_NUMERIC = ("double", "single", "logical", *(f"{sign}int{bits}" for sign in ("", "u")
                                           for bits in (8, 16, 32, 64)))
_USER_BLOCK = 512  # MATLAB puts its own text before the HDF5 signature

Array = np.ndarray[Any, np.dtype[Any]]


def read_mat(path: Path, choose: Callable[[list[str]], str]) -> Array:
    """The array that ``choose`` picks from the names of a file, its axes as MATLAB has them.

    Raises:
        DataError: the file is damaged, the array holds no numbers, or is too large.
    """
    with path.open("rb") as file:
        start = file.read(_USER_BLOCK + len(_HDF5))
    is_hdf5 = start.startswith(_HDF5) or start.endswith(_HDF5)
    return _read_7_3(path, choose) if is_hdf5 else _read_7(path, choose)


def _read_7(path: Path, choose: Callable[[list[str]], str]) -> Array:
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    try:
        held = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        name = choose(list(held))
        shape, kind = held[name]
        if kind not in _NUMERIC:  # damaged structures crash SciPy's reader
            raise DataError(f"{path}: expected numbers in {name!r}, found a {kind}; save the full "
                            "numeric array alone")
        check_memory(path, shape, itemsize=32)
        array = np.asarray(loadmat(path, variable_names=[name])[name])
    except MedinvError:
        raise
    except (MatReadError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError,
            EOFError, OverflowError, MemoryError, NotImplementedError, UnicodeError, struct.error,
            zlib.error, AssertionError) as error:
        raise DataError(f"{path}: expected a MATLAB file, but it cannot be read: "
                        f"{error or type(error).__name__}; save it again, with -v7.3") from error
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
