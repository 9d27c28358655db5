"""One limit on what compressed data may unpack to, for every format that medinv reads.

A few bytes can declare, or hold, gigabytes: deflate alone packs 1032 zeros into one byte. Data may
unpack to 256 MiB, or to 250 times their stored size where that is more; images, k-space and
projections stay below 20. Every reader compares what a header declares with this limit before it
unpacks anything, and unpacks no more than was declared. The environment variable
``MEDINV_MAX_EXPANSION`` sets another number than 250, for data that one trusts.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medinv.errors import DataError, InputError

if TYPE_CHECKING:
    import h5py

VARIABLE = "MEDINV_MAX_EXPANSION"
FREE_BYTES = 2**28
_RATIO = 250.0
_DEFLATE = 1032  # the most that deflate packs into a byte
_PIECE = 2**20
_MIB = 2**20
_CHECKSUM_BYTES = 4
_GZIP = 1  # HDF5's numbers of filters; of 2 (shuffle) and 3 (checksum), the size stays
_SAME_SIZE = (2, 3)


def max_expansion() -> float:
    """How many times their stored size data may unpack to.

    Raises:
        InputError: ``MEDINV_MAX_EXPANSION`` is not a number of at least 1.

    >>> max_expansion()
    250.0
    """
    text = os.environ.get(VARIABLE)
    try:
        ratio = _RATIO if text is None else float(text)
    except ValueError:
        ratio = math.nan
    if not ratio >= 1:
        raise InputError(f"{VARIABLE}: expected a number of at least 1, got {text!r}; the default "
                         f"is {_RATIO:g}")
    return ratio


def check_expansion(path: str | Path, n_bytes: int, stored_bytes: int) -> None:
    """Refuse data that unpack to more than the limit of this module.

    Args:
        path: the file, for the message.
        n_bytes: what the data declare to unpack to.
        stored_bytes: what is stored of them.

    Raises:
        DataError: see above.

    >>> check_expansion("scan.h5", n_bytes=10_000_000, stored_bytes=1_000_000)
    """
    ratio = max_expansion()
    if n_bytes > max(FREE_BYTES, ratio * stored_bytes):
        raise DataError(
            f"{path}: expected data that unpack to at most {ratio:g} times their size (or "
            f"{FREE_BYTES / _MIB:g} MiB), but {stored_bytes} stored bytes declare "
            f"{n_bytes / _MIB:.4g} MiB; if you trust the file, save it uncompressed or set "
            f"{VARIABLE} higher"
        )


def check_chunks(dataset: h5py.Dataset, part: Sequence[slice], path: str | Path) -> None:
    """Refuse the compressed chunks of an HDF5 data set that hold more than they declare.

    The HDF5 library unpacks a chunk to its end, whatever its declared size. So where the chunks
    that a part of the data set touches could exceed the limit, each is unpacked here first, piece
    by piece and no further than it declares.

    Args:
        dataset: what is to be read.
        part: its range along each of the first axes; whole along those that follow.
        path: the file, for the message.

    Raises:
        DataError: see above.
    """
    compressors = _compressors(dataset)
    if len(compressors) > 1:
        raise DataError(f"{path}: {dataset.name} is compressed {len(compressors)} times over; "
                        "save it with one compression (h5repack)")
    if compressors != [_GZIP]:
        return
    ranges = [range(n)[chosen] for n, chosen in zip(dataset.shape, part, strict=False)]
    spans = [(min(r, default=0), max(r, default=-1)) for r in ranges]
    touched: list[tuple[tuple[int, ...], int]] = []

    def collect(chunk: h5py.h5d.StoreInfo) -> None:
        starts = zip(chunk.chunk_offset, dataset.chunks, spans, strict=False)
        inside = all(at <= last and at + size > first for at, size, (first, last) in starts)
        if inside:
            touched.append((chunk.chunk_offset, chunk.size))

    dataset.id.chunk_iter(collect)
    declared = math.prod(dataset.chunks) * dataset.dtype.itemsize
    if sum(size for _, size in touched) * _DEFLATE <= FREE_BYTES:
        return
    for offset, _ in touched:
        _, packed = dataset.id.read_direct_chunk(offset)
        if unpacks_beyond(packed, declared + _CHECKSUM_BYTES):
            raise DataError(f"{path}: the chunk at {offset} of {dataset.name} holds more than the "
                            f"{declared} bytes that it declares; the file is damaged")


def _compressors(dataset: h5py.Dataset) -> list[int]:
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    return [number for number in filters if number not in _SAME_SIZE]


def unpacks_beyond(packed: bytes, limit: int) -> bool:
    """Whether deflated bytes unpack to more than ``limit``; broken ones are left to the reader."""
    unpacker, rest, total = zlib.decompressobj(), packed, 0
    try:
        while rest and not unpacker.eof and total <= limit:
            total += len(unpacker.decompress(rest, _PIECE))
            rest = unpacker.unconsumed_tail
    except zlib.error:
        return False
    return total > limit
