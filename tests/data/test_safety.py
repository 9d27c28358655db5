"""Hostile files are refused before they cost memory, hang, or read other files."""

from __future__ import annotations

import struct

import h5py
import numpy as np
import pytest

from medinv.data import read_fastmri
from medinv.data.expansion import check_expansion
from medinv.data.safety import available_memory, check_memory, parse_xml
from medinv.errors import DataError

SAMPLES = np.ones((2, 3, 8, 6), np.complex64)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scan.h5"


def other_file(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kspace"] = SAMPLES
    return tmp_path / "other.h5"


def test_external_links(path, tmp_path):
    with h5py.File(path, "w") as file:
        file["kspace"] = h5py.ExternalLink(other_file(tmp_path), "kspace")
    with pytest.raises(DataError, match="link to another file"):
        read_fastmri(path)


def test_a_soft_link_to_an_external_link(path, tmp_path):
    with h5py.File(path, "w") as file:
        file["outside"] = h5py.ExternalLink(other_file(tmp_path), "/")
        file["kspace"] = h5py.SoftLink("/outside/kspace")
    with pytest.raises(DataError, match="link to another file"):
        read_fastmri(path)


def test_soft_links_inside_the_file_are_followed(path):
    with h5py.File(path, "w") as file:
        file["group/raw"] = SAMPLES
        file["kspace"] = h5py.SoftLink("group/raw")
    np.testing.assert_array_equal(read_fastmri(path).data, SAMPLES)


def test_circles_and_dangling_links(path):
    with h5py.File(path, "w") as file:
        file["kspace"] = h5py.SoftLink("/other")
        file["other"] = h5py.SoftLink("/kspace")
        file["gone"] = h5py.SoftLink("/nowhere")
    with pytest.raises(DataError, match="circle of links"):
        read_fastmri(path)
    with pytest.raises(DataError, match="no data set 'gone'"):
        read_fastmri(path, "gone")


def test_virtual_data_sets(path, tmp_path):
    layout = h5py.VirtualLayout(SAMPLES.shape, SAMPLES.dtype)
    layout[:] = h5py.VirtualSource(other_file(tmp_path), "kspace", SAMPLES.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("kspace", layout)
    with pytest.raises(DataError, match="numbers from other files"):
        read_fastmri(path)


def test_external_storage(path, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(SAMPLES.nbytes))
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", SAMPLES.shape, SAMPLES.dtype,
                            external=[(secret, 0, SAMPLES.nbytes)])
    with pytest.raises(DataError, match="numbers from other files"):
        read_fastmri(path)


def test_declared_but_never_written(path):
    """A few kilobytes that declare gigabytes, as contiguous and as compressed data."""
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", (1000, 15, 640, 368), np.complex64)
        file.create_dataset("packed", (1000, 15, 640, 368), np.complex64, chunks=(1, 1, 640, 368),
                            compression="gzip")
    assert path.stat().st_size < 20_000
    for key in ("kspace", "packed"):
        with pytest.raises(DataError, match="unpack to at most 250 times"):
            read_fastmri(path, key)


def test_a_compressed_bomb(path):
    with h5py.File(path, "w") as file:
        packed = file.create_dataset("kspace", (1, 40, 1024, 1024), np.complex64,
                                     chunks=(1, 40, 1024, 1024), compression="gzip")
        packed[:] = 1
    with pytest.raises(DataError, match="unpack to at most 250 times"):
        read_fastmri(path)


def test_a_group_in_place_of_a_data_set(path):
    with h5py.File(path, "w") as file:
        file.create_group("kspace")
    with pytest.raises(DataError, match="expected a data set 'kspace', found Group"):
        read_fastmri(path)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 2**64 - 16)])
def test_a_damaged_heap(path, index, size):
    """Blocks of size 0, after wrapping around too: the HDF5 library would never return."""
    with h5py.File(path, "w") as file:
        file["kspace"] = SAMPLES
        file.attrs["acquisition"] = "AXT2"
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL")
    struct.pack_into("<H6xQ", content, at + 16, index, size)
    path.write_bytes(content)
    with pytest.raises(DataError, match="heap at byte"):
        read_fastmri(path)


def test_memory_and_expansion():
    with pytest.raises(DataError, match="GiB of memory are free"):
        check_memory("a", (available_memory(), 2), 1)
    for shape in ((2, 0), (-1,)):
        with pytest.raises(DataError, match="positive sizes"):
            check_memory("a", shape, 1)
    with pytest.raises(DataError, match="unpack"):
        check_expansion("a", 2**30, 2**20)


@pytest.mark.parametrize("text", [
    '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]><a>&b;</a>',
    '<!doctype a [<!entity b "c">]><a>&b;</a>', "<a>" + "x" * 1_000_001 + "</a>",
])
def test_xml_that_is_not_plain(text):
    with pytest.raises(DataError, match="not plain XML"):
        parse_xml(text, "scan.h5")
