"""Check the heaps of an HDF5 file, in which texts and lists of varying length lie.

The HDF5 library (2.0 and before) never returns from a heap that holds a free block of size 0, as a
damaged file may; no time limit can interrupt it. So every heap is checked before a text is read.
Layout: HDF5 File Format Specification 3.0, section III.E, "Level 1E - Global Heap".
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from medinv.errors import DataError

if TYPE_CHECKING:
    import h5py

_SIGNATURE = b"GCOL\x01\x00\x00\x00"
_HEADER = 16
_LARGE = 2**20


def check_heaps(file: h5py.File, path: str | Path) -> None:
    """Refuse a file with a damaged global heap; large contiguous data sets are not searched.

    Raises:
        DataError: see above.
    """
    with Path(path).open("rb") as stream, \
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start, stop in _gaps(_large_arrays(file), len(content)):
            at = content.find(_SIGNATURE, start, stop)
            while at >= 0:
                if not _is_sound(content, at):
                    raise DataError(f"{path}: expected an HDF5 file, but its texts cannot be read "
                                    f"(the heap at byte {at} is damaged); copy the file again")
                at = content.find(_SIGNATURE, at + 1, stop)


def _is_sound(content: mmap.mmap, at: int) -> bool:
    if at + _HEADER > len(content):
        return False
    end = min(at + struct.unpack_from("<Q", content, at + 8)[0], len(content))
    at += _HEADER
    while at + _HEADER <= end:
        index, size = struct.unpack_from("<H6xQ", content, at)
        needed = _HEADER + (size + 7) // 8 * 8 if index else size
        if needed < _HEADER or at + needed > end:  # HDF5's own sum of these wraps around to 0
            return False
        at += needed
    return True


def _large_arrays(file: h5py.File) -> list[tuple[int, int]]:
    """Where the numbers of large contiguous data sets of the top group lie, as (start, stop)."""
    import h5py

    found = []
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            continue
        node = file[name]
        if isinstance(node, h5py.Dataset) and not node.dtype.hasobject:
            start, size = node.id.get_offset(), node.id.get_storage_size()
            if start is not None and size > _LARGE:
                found.append((start, start + size))
    return sorted(found)


def _gaps(parts: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """The ranges of ``size`` bytes that no part covers."""
    at = 0
    for start, stop in parts:
        yield at, max(at, min(start, size))
        at = max(at, min(stop, size))
    yield at, size
