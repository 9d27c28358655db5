"""Refuse a hostile or broken file before it costs memory, or reads other files.

Each format declares shapes, and a few bytes can declare anything: `check_memory` compares a
declared shape with the memory that is free, `medinv.data.expansion` with the size of the file.
HDF5 can also point to other files (external links, virtual data sets, external storage):
`hdf5_dataset` finds a data set without following any of these. XML can as well, by its entities:
`parse_xml`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from medinv.data.expansion import check_chunks, check_expansion
from medinv.data.heaps import check_heaps
from medinv.data.lists import check_lists
from medinv.errors import DataError, MedinvError

if TYPE_CHECKING:
    import h5py

_MEMORY_SHARE = 0.8
_MAX_LINKS = 16
_MAX_DEPTH = 8
_MAX_NAMES = 2000
_MAX_XML = 1_000_000
_GIB = 2**30


def available_memory() -> int:
    """Bytes that can be allocated without swapping; all of the memory where that is unknown.

    >>> available_memory() > 2**20
    True
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        facts = dict(line.split(":", 1) for line in lines)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(path: str | Path, shape: Sequence[int], itemsize: int) -> None:
    """Refuse a declared array that is empty, negative, or larger than the free memory.

    Args:
        path: the file, for the message.
        shape: what its header declares.
        itemsize: bytes of an element once it is read, with the copies that reading makes.

    Raises:
        DataError: see above.

    >>> check_memory("scan.h5", (2, 320, 320), itemsize=8)
    """
    if any(n <= 0 for n in shape):
        raise DataError(f"{path}: expected positive sizes, the header declares {tuple(shape)}; "
                        "the file is damaged or empty, export it again")
    needed, free = prod(int(n) for n in shape) * itemsize, available_memory()
    if needed > _MEMORY_SHARE * free:
        raise DataError(
            f"{path}: the header declares {tuple(shape)}, {needed / _GIB:.3g} GiB, but "
            f"{free / _GIB:.3g} GiB of memory are free; read fewer slices, or check the header"
        )


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; what h5py raises inside the block becomes a `DataError`.

    Raises:
        DataError: no such file, not HDF5, or damaged.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected an HDF5 file, found no file; check the path")
    with hdf5_errors(path), h5py.File(path, "r") as file:
        check_heaps(file, path)
        yield file


@contextmanager
def hdf5_errors(path: str | Path) -> Iterator[None]:
    """Turn what h5py raises on a damaged file into a `DataError`; medinv's own errors pass.

    Raises:
        DataError: see above.
    """
    try:
        yield
    except MedinvError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, MemoryError,
            ArithmeticError, UnicodeError, NotImplementedError) as error:
        reason = str(error).strip("'\"").splitlines()
        raise DataError(
            f"{path}: expected an HDF5 file, but it cannot be read "
            f"({reason[0] if reason else type(error).__name__}); it is damaged or of another kind"
        ) from error


def hdf5_dataset(file: h5py.File, name: str, path: str | Path) -> h5py.Dataset:
    """The data set ``name``, whose numbers all lie in this file.

    Raises:
        DataError: there is none, or its data, or the way to it, lead out of the file.
    """
    import h5py

    node, n_links = file, 0
    parts = [part for part in name.split("/") if part]
    while parts:
        part = parts.pop(0)
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            holds = ", ".join(sorted(file)[:20])
            raise DataError(f"{path}: no data set {name!r}; it holds {holds or 'nothing'}")
        _refuse_external(link, name, path)
        if isinstance(link, h5py.SoftLink):
            n_links += 1
            if n_links > _MAX_LINKS:
                raise DataError(f"{path}: {name!r} is a circle of links; export the file again")
            parts = [p for p in link.path.split("/") if p] + parts
            node = file if link.path.startswith("/") else node
        else:
            node = node[part]
    return _checked(node, name, path)


def _refuse_external(link: object, name: str, path: str | Path) -> None:
    import h5py

    if isinstance(link, h5py.ExternalLink):
        raise DataError(f"{path}: {name!r} is a link to another file, which is not followed; "
                        "copy the data into one file (h5repack, or h5py's copy)")


def _checked(node: object, name: str, path: str | Path) -> h5py.Dataset:
    import h5py

    if not isinstance(node, h5py.Dataset):
        raise DataError(f"{path}: expected a data set {name!r}, found {type(node).__name__}; "
                        "name a data set with `key`")
    if node.is_virtual or node.external:
        raise DataError(f"{path}: {name!r} takes its numbers from other files, which are not "
                        "read; copy the data into one file (h5repack)")
    if node.shape is None:
        raise DataError(f"{path}: {name!r} is empty; export the file again")
    n_numbers = node.size
    if node.chunks is not None:
        n_numbers = max(n_numbers, prod(node.chunks) * node.id.get_num_chunks())
    check_expansion(path, n_numbers * node.dtype.itemsize, node.id.get_storage_size())
    if node.chunks is not None:
        check_memory(path, node.chunks, node.dtype.itemsize)
    check_lists(node, path)
    return node


def hdf5_part(dataset: h5py.Dataset, *part: slice, path: str | Path
              ) -> np.ndarray[Any, np.dtype[Any]]:
    """The numbers of a part of a data set: a range along each of its first axes.

    Raises:
        DataError: its chunks hold more than they declare; the caller checks the memory.
    """
    check_chunks(dataset, part, path)
    return np.asarray(dataset[part])


def hdf5_listing(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """The data sets of a file by their full names, the shallow ones first.

    Links are not followed, nor more than 8 groups into each other, nor 2000 names in all: a file
    may hold a chain or a circle of groups without end.

    >>> import h5py
    >>> with h5py.File("memory.h5", "w", driver="core", backing_store=False) as content:
    ...     content["group/scan"] = 1
    ...     [name for name, _ in hdf5_listing(content)]
    ['group/scan']
    """
    import h5py

    groups, n_names = [("", 0, file)], 0
    for prefix, depth, group in groups:  # grows while it is walked
        for name in group:
            n_names += 1
            if n_names > _MAX_NAMES:
                return
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                continue
            node = group[name]
            if isinstance(node, h5py.Dataset):
                yield prefix + name, node
            elif isinstance(node, h5py.Group) and depth < _MAX_DEPTH:
                groups.append((f"{prefix}{name}/", depth + 1, node))


def hdf5_array(file: h5py.File, name: str, path: str | Path) -> np.ndarray[Any, np.dtype[Any]]:
    """All numbers of a data set that fits into the memory; a scalar is 0-dimensional.

    Raises:
        DataError: as for `hdf5_dataset`, or larger than the free memory.
    """
    dataset = hdf5_dataset(file, name, path)
    check_memory(path, dataset.shape, dataset.dtype.itemsize)
    return hdf5_part(dataset, path=path)


def parse_xml(text: bytes | str, path: str | Path) -> ElementTree.Element:
    """The root of an XML text, which may define no entities.

    Raises:
        DataError: not XML, over a million characters, or with a document type (entities could
            read files or exhaust the memory).

    >>> parse_xml("<a><b>1</b></a>", "scan.h5").findtext("b")
    '1'
    """
    text = text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text
    if len(text) > _MAX_XML or "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise DataError(f"{path}: the header is not plain XML (a document type, or over "
                        f"{_MAX_XML} characters); export the header again")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path}: the header is not valid XML: {error}") from error
