"""BART's files both ways, and the bart tool as the judge."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import torch

from medinv.data import KSpace, read_bart_kspace, read_cfl, read_kspace, write_cfl
from medinv.data.describe import describe
from medinv.errors import DataError
from medinv.operators import fourier
from tests.data.fuzzing import assert_survives

SHAPE = (2, 3, 4, 5)  # slice, coil, ky, kx


@pytest.fixture
def data(rng):
    return torch.randn(SHAPE, dtype=torch.complex64, generator=rng)


@pytest.fixture
def bart():
    program = shutil.which("bart")
    if program is None:
        pytest.skip("the bart tool is absent (Debian package bart)")
    return lambda *arguments: subprocess.run([program, *map(str, arguments)], check=True,
                                             capture_output=True, text=True).stdout


def test_round_trip(tmp_path, data):
    write_cfl(data, tmp_path / "scan.cfl", "slice coil ky kx")
    sizes = (tmp_path / "scan.hdr").read_text().splitlines()[1]
    assert sizes == "5 4 1 3 1 1 1 1 1 1 1 1 1 2 1 1"
    assert torch.equal(read_cfl(tmp_path / "scan", "slice coil ky kx"), data)
    assert torch.equal(read_cfl(tmp_path / "scan", "kx coil slice ky"),
                       data.permute(3, 1, 0, 2))
    kspace = read_kspace(tmp_path / "scan.cfl")
    assert torch.equal(kspace.data, data)
    assert kspace.mask.all()


def test_describe(tmp_path, data):
    write_cfl(data, tmp_path / "scan", "slice coil ky kx")
    assert describe(tmp_path / "scan.cfl") == {
        "format": "BART", "arrays": {"": "x 5, y 4, coil 3, slice 2"}, "coils": 3,
        "matrix (x, y, z)": [5, 4, 1], "field of view (x, y, z), mm": "the file does not say"}


def test_the_layout_is_column_major(tmp_path, data):
    """As another reader of the published layout sees it."""
    write_cfl(data, tmp_path / "scan", "slice coil ky kx")
    sizes = [int(n) for n in (tmp_path / "scan.hdr").read_text().splitlines()[1].split()]
    array = np.fromfile(tmp_path / "scan.cfl", np.complex64).reshape(sizes, order="F")
    assert array[4, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0] == data[1, 1, 2, 4].item()


def test_three_dimensions(tmp_path):
    data = torch.randn(3, 4, 5, 6, dtype=torch.complex64)
    write_cfl(data, tmp_path / "scan", "coil kz ky kx")
    assert torch.equal(read_bart_kspace(tmp_path / "scan.cfl").data, data[None])


def test_bart_reads_what_we_write(tmp_path, data, bart):
    """Its unitary centred transform of our file is our transform."""
    write_cfl(data, tmp_path / "scan", "slice coil ky kx")
    bart("fft", "-u", "3", tmp_path / "scan", tmp_path / "transformed")
    transformed = read_cfl(tmp_path / "transformed", "slice coil ky kx")
    torch.testing.assert_close(transformed, fourier.fft(data, (-2, -1)), rtol=0, atol=1e-5)


def test_we_read_what_bart_writes(tmp_path, bart):
    bart("phantom", "-x", "16", "-s", "4", "-k", tmp_path / "phantom")
    kspace = read_kspace(tmp_path / "phantom.cfl")
    assert kspace.data.shape == (1, 4, 16, 16)
    bart("extract", "0", "3", "4", "1", "5", "6", "3", "2", "3", tmp_path / "phantom",
         tmp_path / "sample")
    sample = read_cfl(tmp_path / "sample", "coil y x")[0, 0, 0]
    assert sample == kspace.data[0, 2, 5, 3]


@pytest.mark.parametrize(("header", "message"), [
    ("# Dimensions\n5 4 1\n", "found also y"),
    ("# Dimensions\n5 0\n", "positive sizes"),
    ("5 4\n", "expected '# Dimensions'"),
    ("# Dimensions\n20\n", "expected 160 bytes"),
    ("# Dimensions\n99999999999999999999\n", "bytes"),
])
def test_wrong_headers(tmp_path, header, message):
    (tmp_path / "a.hdr").write_text(header)
    (tmp_path / "a.cfl").write_bytes(bytes(100))
    with pytest.raises(DataError, match=message):
        read_cfl(tmp_path / "a.cfl", "x")


def test_missing_files_and_axes(tmp_path, data):
    with pytest.raises(DataError, match="found no file"):
        read_cfl(tmp_path / "none.cfl", "x")
    for axes, message in {"coil ky": "name each axis", "slice coil ky ky": "twice",
                          "a b c d": "BART's are"}.items():
        with pytest.raises(DataError, match=message):
            write_cfl(data, tmp_path / "a", axes)


def test_fuzz(tmp_path, data):
    write_cfl(data, tmp_path / "scan", "slice coil ky kx")
    header, numbers = ((tmp_path / f"scan.{end}").read_bytes() for end in ("hdr", "cfl"))

    def read(path):
        """The damaged bytes are the header and then the numbers."""
        content = path.read_bytes()
        path.with_suffix(".hdr").write_bytes(content[:len(header)])
        path.write_bytes(content[len(header):])
        return read_bart_kspace(path)

    assert_survives(read, ".cfl", [header + numbers], 200, answer=KSpace)
