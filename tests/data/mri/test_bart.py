"""BART's files both ways, and the bart tool as the judge."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medinv.cli import app
from medinv.data import (
    KSpace,
    NonCartesianKSpace,
    read_bart_kspace,
    read_cfl,
    read_kspace,
    read_maps,
    read_scan,
    write_cfl,
)
from medinv.data.describe import describe
from medinv.errors import DataError
from medinv.operators import CartesianMRI, NonCartesianMRI, fourier, trajectories
from tests.data.fuzzing import assert_survives
from tests.operators.ct_objects import disc_image

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


@pytest.mark.parametrize("axes", ["coil kz ky", "coil ky kx", "coil kz kx"])
def test_a_plane_of_a_volume(tmp_path, data, axes):
    """1 x ny x nz x coil is an image ny x nz; so is any other plane, and so are its maps."""
    write_cfl(data[0], tmp_path / "scan", axes)
    kspace = read_bart_kspace(tmp_path / "scan")
    assert torch.equal(kspace.data, data[:1])
    assert torch.equal(read_maps(tmp_path / "scan", kspace), data[0])


def test_the_image_of_a_plane_is_bart_pics(tmp_path, bart):
    bart("phantom", "-x", "32", "-s", "4", "-k", tmp_path / "phantom")
    bart("transpose", "0", "2", tmp_path / "phantom", tmp_path / "scan")  # 1 x 32 x 32 x 4
    bart("transpose", "1", "2", tmp_path / "scan", tmp_path / "turned")
    bart("ecalib", "-m1", tmp_path / "turned", tmp_path / "maps")
    bart("pics", "-S", "-l2", "-r0.001", tmp_path / "turned", tmp_path / "maps",
         tmp_path / "image")
    peer = read_cfl(tmp_path / "image", "z y x")[..., 0]
    kspace = read_bart_kspace(tmp_path / "turned")
    maps = read_maps(tmp_path / "maps", kspace)
    ours = CartesianMRI(maps, kspace.mask).solve(kspace.data[0], damping=1e-3, max_iter=30)
    # Both solve the same least squares; BART's files and iterations are single precision.
    torch.testing.assert_close(ours / ours.norm(), peer / peer.norm(), rtol=0, atol=1e-2)


def spokes(n=24, n_samples=32):
    """A radial scan of a disc in two coils: (shot, sample, 2) and (coil, shot, sample)."""
    points = trajectories.golden_angle(n, n_samples // 2, oversampling=2).points
    disc = disc_image((16, 16), 1.0, x0=1.0, y0=-2.0, radius=5.0, mu=1.0)
    maps = torch.stack([torch.ones(16, 16), torch.full((16, 16), 0.5j)]).to(torch.complex64)
    return points, NonCartesianMRI(maps, points)(disc.to(torch.complex64))


def write_spokes(folder, name="scan"):
    points, samples = spokes()
    write_cfl(samples, folder / name, "coil kz ky")
    xyz = torch.cat([points.flip(-1), torch.zeros(*points.shape[:2], 1)], -1)
    write_cfl(xyz, folder / "traj", "kz ky kx")
    return points, samples


def test_samples_on_a_trajectory(tmp_path):
    points, samples = write_spokes(tmp_path)
    scan = read_scan(tmp_path / "scan", trajectory=tmp_path / "traj.cfl")
    assert isinstance(scan, NonCartesianKSpace)
    assert torch.equal(scan.data[0], samples)
    assert scan.shape == (1, 16, 16)
    # BART's coordinates are single precision, up to 8
    torch.testing.assert_close(scan.trajectory, points, rtol=0, atol=1e-6)


def test_spokes_are_not_taken_for_a_grid(tmp_path):
    write_spokes(tmp_path)
    with pytest.raises(DataError, match="not a grid: traj beside it has .* trajectory=traj"):
        read_kspace(tmp_path / "scan")
    for end in ("hdr", "cfl"):
        (tmp_path / f"traj.{end}").unlink()
    with pytest.raises(DataError, match="all of its lines are brightest at the same sample"):
        read_kspace(tmp_path / "scan.cfl")
    disc = disc_image((16, 24), 1.0, x0=1.0, y0=-2.0, radius=5.0, mu=1.0).to(torch.complex64)
    write_cfl(fourier.fft(disc, (-2, -1))[None], tmp_path / "disc", "coil kz ky")
    assert read_kspace(tmp_path / "disc").grid == (16, 24)


def test_wrong_trajectories(tmp_path, data):
    points, _ = write_spokes(tmp_path)
    with pytest.raises(DataError, match="declared for BART's files only"):
        read_scan(tmp_path / "scan.npy", trajectory="traj")
    write_cfl(points[:3].flip(-1), tmp_path / "short", "kz ky kx")
    with pytest.raises(DataError, match="expected k-space 1 x sample x spoke x coil"):
        read_scan(tmp_path / "scan", trajectory=tmp_path / "short")
    write_cfl(torch.zeros(24, 32, 3), tmp_path / "none", "kz ky kx")
    with pytest.raises(DataError, match="expected cycles per field of view"):
        read_scan(tmp_path / "scan", trajectory=tmp_path / "none")


def test_names_without_an_ending(tmp_path, data):
    write_cfl(data, tmp_path / "scan.v2", "slice coil ky kx")
    assert torch.equal(read_kspace(tmp_path / "scan.v2").data, data)
    assert describe(tmp_path / "scan.v2")["coils"] == 3
    result = CliRunner().invoke(app, ["data", "describe", str(tmp_path / "scan.v2")])
    assert "x 5, y 4, coil 3, slice 2" in result.output
    (tmp_path / "scan.v2.cfl").unlink()
    with pytest.raises(DataError, match=r"expected k-space as .*, got '.v2'"):
        read_kspace(tmp_path / "scan.v2")


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
