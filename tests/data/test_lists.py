"""Lists of varying length: damaged ones are refused, numbers beside them are read alone."""

from __future__ import annotations

import struct

import h5py
import numpy as np
import pytest

from medinv.data.lists import check_lists, stored_rows
from medinv.data.safety import hdf5_array, hdf5_dataset, open_hdf5
from medinv.errors import DataError

HEAD = np.dtype([("n", "<u2"), ("place", "<f4", (3,))])
ROW = np.dtype([("name", h5py.string_dtype()), ("head", HEAD), ("data", h5py.vlen_dtype("<f4"))])
N = 5
STORAGE = {
    "contiguous": {},
    "chunked": {"chunks": (2,)},
    "packed": {"chunks": (2,), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "checked": {"chunks": (2,), "fletcher32": True},
}


def rows():
    filled = np.zeros(N, ROW)
    for i in range(N):
        head = np.array((i, (i, i + 0.5, -i)), HEAD)
        filled[i] = (f"row {i}", head, np.arange(i + 1, dtype="<f4"))
    return filled


def write(path, **storage):
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", data=rows(), dtype=ROW, **storage)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scan.h5"


@pytest.mark.parametrize("storage", STORAGE)
def test_rows_are_read_as_they_are_stored(path, storage):
    write(path, **STORAGE[storage])
    with open_hdf5(path) as file:
        stored = stored_rows(file["rows"], path)
        np.testing.assert_array_equal(stored["head"], file["rows"].fields("head")[...])
    np.testing.assert_array_equal(stored["data"]["length"], np.arange(N) + 1)
    np.testing.assert_array_equal(stored["name"]["length"], [len("row 0")] * N)


def test_rows_that_were_never_written(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", (N,), ROW)
    with open_hdf5(path) as file:
        assert not stored_rows(file["rows"], path)["data"]["length"].any()


def test_other_compressions_are_left_to_the_library(path):
    write(path, chunks=(2,), compression="lzf")
    with open_hdf5(path) as file:
        assert stored_rows(file["rows"], path) is None
        check_lists(file["rows"], path)


@pytest.mark.parametrize("storage", ["contiguous", "chunked", "checked"])
@pytest.mark.parametrize("length", [2**32 - 1, 100_000])
def test_a_length_beyond_the_file(path, storage, length):
    """The library would take 16 GiB for the first one."""
    write(path, **STORAGE[storage])
    content = bytearray(path.read_bytes())
    reference = struct.pack("<IQ", N, content.index(b"GCOL"))  # of N entries: the last row's data
    struct.pack_into("<I", content, content.rindex(reference), length)
    path.write_bytes(content)
    with open_hdf5(path) as file, pytest.raises(DataError, match=f"a list of {length} entries"):
        hdf5_dataset(file, "rows", path)


def test_a_text_of_4_gib(path):
    with h5py.File(path, "w") as file:
        file["text"] = "twelve bytes"
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<IQ", 12, content.index(b"GCOL")))
    struct.pack_into("<I", content, at, 2**32 - 1)
    path.write_bytes(content)
    with open_hdf5(path) as file, pytest.raises(DataError, match="a list of 4294967295 entries"):
        hdf5_array(file, "text", path)


def test_many_rows_of_one_large_list(path):
    """Each length fits into the file; all together are a bomb."""
    n, size = 300, 2**18
    kind = h5py.vlen_dtype("<f4")
    with h5py.File(path, "w") as file:
        lists = file.create_dataset("lists", (n,), kind)
        lists[0] = np.ones(size, "<f4")
        start = lists.id.get_offset()
    content = bytearray(path.read_bytes())
    content[start:start + 16 * n] = content[start:start + 16] * n
    path.write_bytes(content)
    with open_hdf5(path) as file, pytest.raises(DataError, match="unpack to at most"):
        hdf5_dataset(file, "lists", path)


def test_lists_of_lists(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("lists", (2,), h5py.vlen_dtype(h5py.string_dtype()))
    with open_hdf5(path) as file, pytest.raises(DataError, match="lists of lists"):
        hdf5_dataset(file, "lists", path)


def test_rows_that_are_cut_off(path):
    write(path)
    cut = path.with_name("cut.h5")
    with h5py.File(path) as file:
        cut.write_bytes(path.read_bytes()[:file["rows"].id.get_offset() + 10])
        with pytest.raises(DataError, match="cut off or damaged"):
            stored_rows(file["rows"], cut)
