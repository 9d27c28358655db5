"""Structs of numbers and text in MATLAB's ``.mat`` files, versions 5 to 7.2.

SciPy's reader crashes the process on some damaged structs (found by fuzzing), so this one reads
the few kinds of element that scans are made of, from bounded views of the file. Format: "MAT-File
Format", The MathWorks. An element is a tag (type, size) and data padded to 8 bytes; small data lie
in the tag itself. A matrix holds flags, dimensions, name, and its parts.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medinv.data.expansion import check_expansion
from medinv.data.safety import check_memory
from medinv.errors import DataError

Value = Any  # a struct as dict, numbers as an array, text as str, None for other kinds

_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8",
            13: "u8"}
_TEXT = {1: "ascii", 2: "ascii", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHARS, _NUMERIC = 2, 4, range(6, 16)
_HEADER, _MAX_DEPTH, _MAX_BYTES = 128, 8, 2**31


def read_mat_structs(path: str | Path) -> dict[str, Value]:
    """The variables of a file: structs of one element as dicts, numbers as arrays, text as str.

    Raises:
        DataError: no such file, another version of the format, or damaged.

    >>> read_mat_structs("nothing.mat")
    Traceback (most recent call last):
    medinv.errors.DataError: nothing.mat: expected a .mat file, found no file; check the path
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a .mat file, found no file; check the path")
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path}: expected at most {_MAX_BYTES} bytes; save fewer variables")
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or len(content) < _HEADER or b"MATLAB 7.3" in content[:_HEADER]:
        raise DataError(f"{path}: expected a MATLAB file of version 5 to 7.2, found another kind; "
                        "save it with -v7")
    try:
        found = dict(_variables(memoryview(content)[_HEADER:], order, path))
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError, UnicodeError,
            RecursionError, struct.error, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: expected a MATLAB file, but it cannot be read ({error}); it is "
                        "damaged, save it again with -v7") from error
    return found


def _variables(content: memoryview, order: str, path: Path) -> Iterator[tuple[str, Value]]:
    for kind, data in _elements(content, order):
        if kind == _COMPRESSED:
            yield from _variables(memoryview(_inflate(data, order, path)), order, path)
        elif kind == _MATRIX:
            yield _matrix(data, order, path, 0)


def _inflate(data: memoryview, order: str, path: Path) -> bytes:
    """One element, unpacked to the size that its own tag states and no further."""
    unpacker = zlib.decompressobj()
    tag = unpacker.decompress(data, 8)
    size = struct.unpack(f"{order}I", tag[4:])[0]
    check_expansion(path, size, len(data))
    check_memory(path, (8 + size,), itemsize=4)
    return tag + unpacker.decompress(unpacker.unconsumed_tail, max(size, 1))


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and data of each element in turn."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, at)
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            start, end = at + 4, at + 8
            if size > 4:
                raise ValueError("a small element of more than 4 bytes")
        else:
            start = at + 8
            end = start + size if kind == _COMPRESSED else start + (size + 7) // 8 * 8
        if start + size > len(content):
            raise ValueError("an element reaches beyond its end")
        yield kind, content[start:start + size]
        at = end


def _matrix(content: memoryview, order: str, path: Path, depth: int) -> tuple[str, Value]:
    """Name and value of a matrix."""
    if depth > _MAX_DEPTH:
        raise ValueError("structs within structs without end")
    parts = list(_elements(content, order))
    if not parts:
        return "", None
    (_, flags), (_, sizes), (_, label), *rest = parts
    kind = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    name = bytes(label).decode("ascii").strip("\0")
    if kind == _STRUCT and math.prod(shape) == 1:
        return name, _fields(rest, order, path, depth)
    if kind == _CHARS and len(rest) == 1:
        encoding, text = _TEXT[rest[0][0]], bytes(rest[0][1])
        wide = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"} if order == "<" else {
            "utf-16": "utf-16-be", "utf-32": "utf-32-be"}
        return name, text.decode(wide.get(encoding, encoding)).strip("\0")
    if kind in _NUMERIC and len(rest) == 1 and min(shape, default=0) > 0:  # real, with elements
        stored, data = rest[0]
        check_memory(path, shape, itemsize=16)
        array = np.frombuffer(data, np.dtype(order + _NUMBERS[stored]))
        return name, array.reshape(shape, order="F")
    return name, None


def _fields(parts: list[tuple[int, memoryview]], order: str, path: Path, depth: int
            ) -> dict[str, Value]:
    (_, width), (_, names), *values = parts
    length = struct.unpack_from(f"{order}i", width)[0]
    if length < 1 or any(kind != _MATRIX for kind, _ in values):
        raise ValueError("a struct without names or values")
    titles = [bytes(names[at:at + length]).split(b"\0")[0].decode("ascii")
              for at in range(0, len(names), length)]
    return {title: _matrix(data, order, path, depth + 1)[1]
            for title, (_, data) in zip(titles, values, strict=True)}
