"""`Sinogram`: the operator of each geometry, parts, blocks, grids, noise and place."""

from __future__ import annotations

import pytest
import torch

from medinv.data.ct.sinogram import Sinogram, fitted
from medinv.errors import DataError, ShapeError
from medinv.operators import ct_geometry
from medinv.operators.cone import ConeBeam
from medinv.operators.ct import FanBeam, ParallelBeam

ANGLES = torch.arange(12).double() * torch.pi / 6
SCANS = {
    "parallel": (ct_geometry.parallel((3, 10, 10), ANGLES, 0.5, 16, 0.4, col_offset_mm=0.3,
                                      n_rows=3, row_mm=0.5), ParallelBeam),
    "tilted": (ct_geometry.parallel((3, 10, 10), ANGLES, 0.5, 16, tilt=0.2), ConeBeam),
    "thin": (ct_geometry.parallel((3, 10, 10), ANGLES, (1.0, 0.5, 0.5), 16, row_mm=0.5),
             ConeBeam),
    "fan": (ct_geometry.fan((10, 10), ANGLES, 0.5, 90.0, 30.0, 16, 0.7, col_offset_mm=0.2,
                            axis_offset_mm=-0.3), FanBeam),
    "arc": (ct_geometry.fan((10, 10), -ANGLES, 0.5, 90.0, 30.0, 16, 0.7, curved=True,
                            col_offset_mm=-1.1), FanBeam),
    "cone": (ct_geometry.cone((4, 10, 10), ANGLES, 0.5, 90.0, 30.0, 4, 16, 0.6, 0.6), ConeBeam),
    "helical": (ct_geometry.helical((4, 10, 10), ANGLES, 0.5, 90.0, 30.0, 4, 16, 0.6, 0.6,
                                    pitch_mm=2.0), ConeBeam),
}


def scanned(geometry, data=None):
    shape = (geometry.n_views, geometry.n_rows, geometry.n_cols)
    return Sinogram(torch.zeros(shape) if data is None else data, geometry)


@pytest.mark.parametrize("name", SCANS)
def test_the_operator_is_its_geometry_s(name, rng):
    geometry, kind = SCANS[name]
    A = scanned(geometry).operator(torch.float64)
    assert type(A) is kind
    x = torch.rand(geometry.shape, generator=rng, dtype=torch.float64)
    y = A(x)
    assert y.shape == scanned(geometry).measurement().shape
    same = ConeBeam.from_geometry(geometry, dtype=torch.float64)(x)
    y = y if kind is ConeBeam else y.transpose(0, 1)
    assert float((y - same).abs().max()) < 1e-9 * float(same.abs().max())


@pytest.mark.parametrize("name", ["parallel", "fan", "arc", "cone", "helical"])
def test_parts_and_blocks_see_what_the_whole_sees(name, rng):
    geometry, kind = SCANS[name]
    x = torch.rand(geometry.shape, generator=rng)
    whole = ConeBeam.from_geometry(geometry)(x)
    sinogram = scanned(geometry, whole)
    part = sinogram.every(5)
    y = part.operator()(x)
    torch.testing.assert_close(y, part.measurement(), rtol=1e-4, atol=1e-5)
    moved = sinogram.shifted(2.0)
    torch.testing.assert_close(_cone(moved, x)[..., :-2], whole[..., 2:], rtol=1e-4, atol=1e-4)
    if kind is ConeBeam:
        rows = sinogram.rows(1, 3)
        torch.testing.assert_close(_cone(rows, x), rows.data, rtol=1e-4, atol=1e-4)
    points = torch.rand(5, 3, generator=rng) - 0.5
    row, col = geometry.project(points).unbind(-1)
    blocks = sinogram.binned(1, 3).geometry.project(points)[..., 1]
    torch.testing.assert_close(blocks, (col - 1) / 3)
    assert sinogram.binned(1, 3).geometry.voxel_mm[2] == 1.5


def _cone(sinogram, x):
    return ConeBeam.from_geometry(sinogram.geometry)(x)


def test_rows_of_parallel_beams_are_slices(rng):
    geometry, _ = SCANS["parallel"]
    x = torch.rand(3, 10, 10, generator=rng)
    y = scanned(geometry).operator()(x)
    rows = scanned(geometry, y.transpose(0, 1)).rows(1, 3)
    torch.testing.assert_close(rows.operator()(x[1:]), rows.measurement())
    blocks = scanned(geometry, y.transpose(0, 1)).binned(3, 1)
    assert blocks.geometry.shape[0] == 1
    assert isinstance(blocks.operator(), ParallelBeam)


def test_the_noise_is_found_beside_a_smooth_object(rng):
    geometry = ct_geometry.parallel((1, 64, 64), torch.arange(90) * torch.pi / 90, 1.0, 80)
    s = torch.arange(80) - 39.5
    clean = (25.0**2 - s**2).clamp(min=0).sqrt().expand(90, 1, 80)
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=rng)
    assert scanned(geometry, noisy).noise() == pytest.approx(0.05, rel=0.05)
    with pytest.raises(DataError, match="at least 2 views"):
        scanned(geometry, noisy).every(90).noise()


def test_the_grid_fits_the_detector():
    fan = fitted(SCANS["fan"][0])
    assert fan.shape == (1, 16, 16)
    assert fan.voxel_mm[1] == pytest.approx(0.7 * 90 / 120)
    helix = ct_geometry.helical((1, 1, 1), torch.arange(24) * torch.pi / 6, 0.1, 90.0, 30.0, 4, 16,
                                0.4, 0.6, pitch_mm=6.0)
    assert fitted(helix).shape == (4 + round(11.5 / 0.3), 16, 16)
    half = ct_geometry.parallel((1, 1, 1), ANGLES, 0.5, 16, col_offset_mm=3.5)
    assert fitted(half).shape == (1, 30, 30)  # 15 of 16 columns lie beyond the axis


def test_a_volume_is_centred_and_says_that_this_is_assumed():
    sinogram = scanned(SCANS["parallel"][0])
    volume = sinogram.volume(torch.zeros(3, 10, 10))
    assert volume.orientation == "LPS"
    assert volume.world_mm((4.5, 4.5, 1.0)) == (0.0, 0.0, 0.0)
    assert volume.metadata["position"] == "assumed: axial, centred"
    with pytest.raises(ShapeError, match="expected an image"):
        sinogram.volume(torch.zeros(3, 10, 9))


def test_wrong_arguments():
    geometry, _ = SCANS["cone"]
    with pytest.raises(ShapeError, match=r"\(view, row, col\) = \(12, 4, 16\), got"):
        scanned(geometry, torch.zeros(12, 4, 15))
    for wrong in ((2, 2), (0, 5), (-1, 2)):
        with pytest.raises(DataError, match="0 <= start < stop <= 4"):
            scanned(geometry).rows(*wrong)
    with pytest.raises(DataError, match="do not fit a detector of 4 rows"):
        scanned(geometry).binned(5, 1)
