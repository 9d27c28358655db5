"""Lists and texts of varying length in an HDF5 data set, as the file stores them: by reference.

A row stores of each list its length and its place in a heap (`medinv.data.heaps`). The HDF5
library (2.0 and before) clears memory for the stored length before it looks at the heap, so that
one damaged reference costs 16 GiB; and h5py reads every list of a row of which one number is
wanted. So the rows are read here as they are stored: the lengths are checked against the file, and
plain numbers beside lists are read without them. Rows in compact storage, or compressed otherwise
than by deflate, are left to the library.
Layout: HDF5 File Format Specification 3.0, section IV.B, "Disk Format: Level 2B - Data Object Data
Storage", variable-length data types.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medinv.data.expansion import check_expansion
from medinv.errors import DataError

if TYPE_CHECKING:
    import h5py

_Array = np.ndarray[Any, np.dtype[Any]]
_LIST_BYTES = 16  # length, address of the heap, index in the heap
_GZIP, _SHUFFLE, _CHECKSUM = 1, 2, 3
_CHECKSUM_BYTES = 4


def check_lists(dataset: h5py.Dataset, path: str | Path) -> None:
    """Refuse lists that declare more bytes than the file has, one by one or in all.

    Raises:
        DataError: see above, or lists of lists.
    """
    if not dataset.dtype.hasobject:
        return
    rows = stored_rows(dataset, path)
    if rows is None:
        return
    size, total = Path(path).stat().st_size, 0
    for lengths, item_bytes in _lengths(rows, dataset.id.get_type(), path):
        if int(lengths.max(initial=0)) * item_bytes > size:
            raise DataError(f"{path}: {dataset.name} holds a list of {lengths.max()} entries, "
                            "more than fit into the file; the file is damaged")
        total += int(lengths.sum(dtype=np.int64)) * item_bytes
    check_expansion(path, total, size)


def stored_rows(dataset: h5py.Dataset, path: str | Path) -> _Array | None:
    """The rows of a data set, with ``length`` of each list in its place.

    The caller checks the memory.

    Returns:
        An array of the shape of the data set; None where its bytes cannot be had (compact, or
        compressed otherwise than by deflate).

    Raises:
        DataError: the file ends before the rows do, or they cannot be unpacked.
    """
    dtype = _stored(dataset.id.get_type())
    rows = np.zeros(dataset.shape, dtype)
    if dataset.chunks is not None:
        return rows if _read_chunks(dataset, rows, path) else None
    start = dataset.id.get_offset()
    if start is None:
        return None if dataset.id.get_storage_size() else rows
    with Path(path).open("rb") as stream:
        stream.seek(start)
        return _decoded(stream.read(rows.nbytes), dtype, dataset.shape, path)


def _read_chunks(dataset: h5py.Dataset, rows: _Array, path: str | Path) -> bool:
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    if not {number for number, *_ in filters} <= {_GZIP, _SHUFFLE, _CHECKSUM}:
        return False
    offsets: list[tuple[int, ...]] = []
    dataset.id.chunk_iter(lambda chunk: offsets.append(chunk.chunk_offset))
    for offset in offsets:
        mask, content = dataset.id.read_direct_chunk(offset)
        for i, (number, _, values, _) in reversed(list(enumerate(filters))):
            if not mask >> i & 1:
                n_bytes = math.prod(dataset.chunks) * rows.itemsize
                content = _unfiltered(content, number, values, n_bytes, path)
        chunk = _decoded(content, rows.dtype, dataset.chunks, path)
        place = tuple(slice(at, at + n) for at, n in zip(offset, dataset.chunks, strict=True))
        inside = rows[place]
        inside[...] = chunk[tuple(slice(n) for n in inside.shape)]
    return True


def _unfiltered(content: bytes, number: int, values: tuple[int, ...], n_bytes: int,
                path: str | Path) -> bytes:
    """A chunk before one of HDF5's filters was applied."""
    if number == _CHECKSUM:
        return content[:-_CHECKSUM_BYTES]
    if number == _GZIP:
        try:
            return zlib.decompressobj().decompress(content, n_bytes + _CHECKSUM_BYTES)
        except zlib.error as error:
            raise DataError(f"{path}: a chunk cannot be unpacked ({error}); the file is damaged"
                            ) from error
    size = values[0] if values else 1
    n = len(content) // size
    parts = np.frombuffer(content, np.uint8, n * size).reshape(size, n)
    return parts.T.tobytes() + content[n * size:]


def _decoded(content: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], path: str | Path
             ) -> _Array:
    n = math.prod(shape)
    if len(content) < n * dtype.itemsize:
        raise DataError(f"{path}: expected {n * dtype.itemsize} bytes of rows, found "
                        f"{len(content)}; the file is cut off or damaged")
    return np.frombuffer(content, dtype, n).reshape(shape)


def _stored(kind: h5py.h5t.TypeID) -> np.dtype[Any]:
    """How the file stores a type; ``length`` stands for a list."""
    from h5py import h5t

    if _is_list(kind):
        return np.dtype({"names": ["length"], "formats": ["<u4"], "itemsize": _LIST_BYTES})
    if isinstance(kind, h5t.TypeArrayID):
        return np.dtype((_stored(kind.get_super()), kind.get_array_dims()))
    if not isinstance(kind, h5t.TypeCompoundID):
        return np.dtype(f"V{kind.get_size()}") if kind.dtype.hasobject else kind.dtype
    names, formats, offsets, longer = [], [], [], 0  # texts take less in memory than in the file
    for i in sorted(range(kind.get_nmembers()), key=kind.get_member_offset):
        member = kind.get_member_type(i)
        names.append(kind.get_member_name(i).decode())
        formats.append(_stored(member))
        offsets.append(kind.get_member_offset(i) + longer)
        longer += formats[-1].itemsize - member.get_size()
    return np.dtype({"names": names, "formats": formats, "offsets": offsets,
                     "itemsize": kind.get_size() + longer})


def _is_list(kind: h5py.h5t.TypeID) -> bool:
    from h5py import h5t

    return isinstance(kind, h5t.TypeVlenID) or (
        isinstance(kind, h5t.TypeStringID) and kind.is_variable_str())


def _lengths(rows: _Array, kind: h5py.h5t.TypeID, path: str | Path) -> list[tuple[_Array, int]]:
    """The lengths of the lists in ``rows``, with the bytes of an entry."""
    from h5py import h5t

    if isinstance(kind, h5t.TypeVlenID):
        entry = kind.get_super()
        if _is_list(entry) or entry.dtype.hasobject:
            raise DataError(f"{path}: holds lists of lists, which are not read; export the data "
                            "as plain arrays")
        return [(rows["length"], entry.get_size())]
    if _is_list(kind):
        return [(rows["length"], 1)]
    if isinstance(kind, h5t.TypeArrayID):
        return _lengths(rows, kind.get_super(), path)
    if not isinstance(kind, h5t.TypeCompoundID):
        return []
    members = range(kind.get_nmembers())
    return [found for i in members
            for found in _lengths(rows[kind.get_member_name(i).decode()], kind.get_member_type(i),
                                  path)]
