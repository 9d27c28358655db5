"""Fan beams against closed forms, ASTRA, and the parallel beam that they tend to."""

from __future__ import annotations

import math

import astra
import pytest
import torch

from medinv.errors import DependencyError, ShapeError
from medinv.operators import FanBeam, ParallelBeam
from tests.operators.ct_objects import disc_image, fan_disc_line_integrals

TURN = torch.arange(24) * math.pi / 12
DISC = {"x0": 12.0, "y0": -7.0, "radius": 9.0, "mu": 0.02}
OFFSETS = {"col_offset_mm": 2.3, "axis_offset_mm": -1.7}


def fan(n=96, angles=TURN, pixel_mm=0.5, **options):
    return FanBeam((n, n), angles, pixel_mm, 150.0, 100.0, 200, 0.6, **options)


@pytest.mark.parametrize("curved", [False, True], ids=["flat", "curved"])
@pytest.mark.parametrize("offsets", [{}, OFFSETS], ids=["centred", "offset"])
@pytest.mark.parametrize("angles", [TURN, -TURN], ids=["clockwise", "counterclockwise"])
def test_line_integrals_of_an_off_centre_disc(curved, offsets, angles):
    A = fan(angles=angles, curved=curved, **offsets)
    projected = A(disc_image((96, 96), 0.5, **DISC))
    expected = fan_disc_line_integrals(A, **DISC)
    # At the disc's edge a pixel and an ideal line differ; a chord errs by about one pixel.
    assert (projected - expected).norm() < 0.04 * expected.norm()
    columns = torch.arange(200.0)
    centres = [(y * columns).sum(1) / y.sum(1) for y in (projected, expected)]
    # A pixel of 0.5 mm covers 1.4 columns of 0.6 mm.
    assert (centres[0] - centres[1]).abs().max() < 0.1 * 1.4


@pytest.mark.parametrize("curved", [False, True], ids=["flat", "curved"])
def test_error_falls_with_the_square_of_the_pixel(curved):
    """A smooth object, a Gaussian, has line integrals that Joseph's rule finds to second order."""
    x0, y0, width = 3.0, -4.0, 6.0
    errors = []
    for n in (24, 48, 96):
        pixel = 60 / n
        A = FanBeam((n, n), TURN, pixel, 150.0, 100.0, 60, 1.5, curved=curved,
                    dtype=torch.float64)
        grid = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pixel
        image = torch.exp(-((grid - x0) ** 2 + (grid[:, None] - y0) ** 2) / (2 * width**2))
        # exp(-distance^2 / 2 w^2) w sqrt(2 pi): the distance is that of a disc's chord.
        chord = fan_disc_line_integrals(A, x0, y0, 100.0, 0.5).double() ** 2
        expected = torch.exp((chord - 100.0**2) / (2 * width**2)) * width * math.sqrt(2 * math.pi)
        errors.append(float((A(image) - expected).norm() / expected.norm()))
    assert errors[2] < 0.004
    assert errors[0] / errors[1] > 3
    assert errors[1] / errors[2] > 3


def astra_sinogram(A, x):
    """ASTRA's fan beam of the same geometry, whose y points up; its kernel is the exact chord."""
    volume = astra.create_vol_geom(*A.domain.shape)
    unit = A.pixel_mm
    flip = torch.tensor([1.0, -1.0]) / unit
    views = torch.cat([(part[:, :2] * flip) for part in (
        A.geometry.sources, A.geometry.detectors, A.geometry.col_axes)], 1)
    beam = astra.create_proj_geom("fanflat_vec", A.n_cols, views.numpy())
    projector = astra.create_projector("line_fanflat", beam, volume)
    handle, sinogram = astra.create_sino(x.numpy(), projector)
    astra.data2d.delete(handle)
    astra.projector.delete(projector)
    return torch.from_numpy(sinogram) * unit


@pytest.mark.parametrize("offsets", [{}, OFFSETS], ids=["centred", "offset"])
def test_agrees_with_astra(offsets):
    A = fan(**offsets)
    x = disc_image((96, 96), 0.5, **DISC)
    ours, theirs = A(x), astra_sinogram(A, x)
    exact = fan_disc_line_integrals(A, **DISC)
    # Two rules for the same rays: as far from each other as from the truth, and no further.
    assert (ours - theirs).norm() < 0.03 * theirs.norm()
    assert (ours - exact).norm() < 1.2 * (theirs - exact).norm()


def test_a_uniform_slice_agrees_with_astra_to_rounding():
    A = FanBeam((40, 40), TURN + 0.1, 0.5, 150.0, 100.0, 20, 0.6)  # rays that miss the corners
    x = torch.full((40, 40), 0.02)
    torch.testing.assert_close(A(x), astra_sinogram(A, x), rtol=0.03, atol=0)


def test_a_far_source_gives_the_parallel_beam(rng):
    x = torch.randn(20, 18, generator=rng, dtype=torch.float64)
    far = 1e7
    parallel = ParallelBeam((20, 18), TURN + 0.05, 0.7, 40, 0.9, col_offset_mm=0.4,
                            dtype=torch.float64)
    for curved in (False, True):
        fan = FanBeam((20, 18), TURN + 0.05, 0.7, far, far, 40, 1.8, col_offset_mm=0.8,
                      curved=curved, dtype=torch.float64)
        torch.testing.assert_close(fan(x), parallel(x), rtol=0, atol=1e-3)


def test_flat_and_curved_differ_where_they_should():
    flat, curved = fan(), fan(curved=True)
    x = disc_image((96, 96), 0.5, **DISC)
    assert (flat(x) - curved(x)).norm() > 0.01 * flat(x).norm()


@pytest.mark.parametrize("make", [
    lambda **o: ParallelBeam((96, 96), TURN, 0.5, 200, 0.5, **o), fan,
    lambda **o: fan(curved=True, **o)], ids=["parallel", "flat", "curved"])
def test_an_offset_moves_the_columns(make):
    x = disc_image((96, 96), 0.5, **DISC)
    A = make()
    shifted = make(col_offset_mm=3 * A.col_mm)
    torch.testing.assert_close(shifted(x)[:, :-3], A(x)[:, 3:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [
    lambda **o: ParallelBeam((16, 18), TURN + 0.1, 0.7, 40, 0.9, **o),
    lambda **o: FanBeam((16, 18), TURN + 0.1, 0.7, 60.0, 40.0, 40, 0.9, **o),
    lambda **o: FanBeam((16, 18), TURN + 0.1, 0.7, 60.0, 40.0, 40, 0.9, curved=True, **o),
], ids=["parallel", "flat", "curved"])
class TestShifted:
    """`shifted` is the operator of the shifted geometry, and its derivatives are exact."""

    def test_equals_the_shifted_operator(self, make, rng):
        x = torch.randn(2, 16, 18, generator=rng, dtype=torch.float64)
        A = make(dtype=torch.float64)
        shift = torch.tensor(0.37, dtype=torch.float64)
        expected = make(dtype=torch.float64, col_offset_mm=0.37)(x)
        torch.testing.assert_close(A.shifted(x, shift), expected)
        torch.testing.assert_close(A.shifted(x), A(x))

    def test_derivatives_are_those_of_differences(self, make, rng):
        A = make(dtype=torch.float64)
        x = torch.randn(1, 16, 18, generator=rng, dtype=torch.float64, requires_grad=True)
        columns = 0.3 * torch.rand(24, generator=rng, dtype=torch.float64)
        axis = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(A.shifted, (x, columns.requires_grad_(), axis),
                                        eps=1e-7, atol=1e-5, fast_mode=True)

    def test_the_axis_moves_towards_larger_columns(self, make):
        A = make(dtype=torch.float64)
        x = torch.zeros(16, 18, dtype=torch.float64)
        x[7:9, 8:10] = 1
        columns = torch.arange(40.0, dtype=torch.float64)

        def centre(y):
            return (y * columns).sum(1) / y.sum(1)

        moved = centre(A.shifted(x, axis_offset_mm=torch.tensor(1.8, dtype=torch.float64)))
        magnification = float(A.geometry.magnifications[0])
        expected = torch.full((24,), 1.8 / 0.9 * magnification, dtype=torch.float64)
        torch.testing.assert_close(moved - centre(A(x)), expected, rtol=0.02, atol=0)

    def test_wrong_shifts_are_refused(self, make):
        A, x = make(), torch.zeros(16, 18)
        with pytest.raises(ShapeError, match=r"shifted: expected a shift \(\) or \(24,\)"):
            A.shifted(x, torch.zeros(3))
        with pytest.raises(DependencyError, match=r"shifted: runs on the cpu, got meta"):
            A.to("meta").shifted(x.to("meta"))

    def test_views_are_rows_of_the_sinogram(self, make, rng):
        A = make(col_offset_mm=0.3)
        x = torch.randn(16, 18, generator=rng)
        index = torch.tensor([5, 2, 17])
        torch.testing.assert_close(A.views(index)(x), A(x)[index])


@pytest.mark.parametrize(("arguments", "message"), [
    ({"shape": (8, 0)}, r"shape is \(8, 0\); pass \(y, x\) of one slice"),
    ({"angles": torch.zeros(0)}, "pass one finite angle"),
    ({"angles": torch.arange(0.0, 360.0)}, "look like degrees; pass radians"),
    ({"source_mm": -5.0}, r"source_mm is -5\.0; pass a positive number"),
    ({"detector_mm": 0.0}, r"detector_mm is 0\.0; pass a positive number"),
    ({"col_mm": math.nan}, "col_mm is nan; pass a positive number"),
    ({"n_cols": 0}, "n_cols is 0; pass a positive number"),
    ({"axis_offset_mm": math.inf}, "offsets are .*inf.*; pass finite mm"),
    ({"source_mm": 1.0}, "the source is inside the volume.*check source_mm"),
    ({"col_offset_mm": 300.0}, "no view sees the volume"),
    ({"dtype": torch.int32}, "dtype is torch.int32; pass torch.float32 or torch.float64"),
])
def test_wrong_arguments(arguments, message):
    right = {"shape": (8, 8), "angles": TURN, "pixel_mm": 0.7, "source_mm": 60.0,
             "detector_mm": 40.0, "n_cols": 30, "col_mm": 0.9}
    with pytest.raises(ShapeError, match=message):
        FanBeam(**{**right, **arguments})


@pytest.mark.cuda
def test_cuda_agrees_with_the_cpu(rng):
    A = fan(**OFFSETS)
    x = torch.randn(3, 96, 96, generator=rng)
    y = A(x)
    torch.testing.assert_close(A.to("cuda")(x.cuda()).cpu(), y, rtol=1e-4, atol=1e-4)
