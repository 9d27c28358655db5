"""Filtered backprojection of analytic discs, in physical units."""

import math
from types import SimpleNamespace

import pytest
import torch
from matrix_operator import random_image, random_operator

from medinv.errors import InputError
from medinv.operators.ct import ParallelBeam
from medinv.problem import Problem
from medinv.solvers import FBP

N, MU = 64, 0.02


def disc(A, radius_mm, centre_mm=(0.0, 0.0)):
    """Exact line integrals of a disc of 0.02/mm, and its pixels' distances from the centre."""
    y0, x0 = centre_mm
    s = (torch.arange(A.n_cols) - (A.n_cols - 1) / 2) * A.col_mm + A.col_offset_mm
    shift = x0 * A.angles.cos() + y0 * A.angles.sin()
    sinogram = 2 * MU * (radius_mm**2 - (s - shift[:, None]) ** 2).clamp(min=0).sqrt()
    grid = (torch.arange(N) - (N - 1) / 2) * A.pixel_mm
    distance = torch.hypot(grid[:, None] - y0, grid[None, :] - x0)
    return sinogram.float(), distance


def beam(angles, pixel_mm=0.8, col_mm=0.8):
    n_cols = math.ceil(1.5 * N * pixel_mm / col_mm)
    return ParallelBeam((N, N), angles, pixel_mm, n_cols=n_cols, col_mm=col_mm)


def half_circle(views):
    return torch.arange(views) * math.pi / views


@pytest.mark.parametrize("window", ["ram-lak", "shepp-logan", "hann"])
@pytest.mark.parametrize(("pixel_mm", "col_mm"), [(0.8, 0.8), (0.8, 0.5), (2.0, 2.6)])
def test_a_disc_comes_back_in_physical_units(window, pixel_mm, col_mm):
    A = beam(half_circle(180), pixel_mm, col_mm)
    radius = 18 * pixel_mm
    y, distance = disc(A, radius, (4 * pixel_mm, -6 * pixel_mm))
    x = FBP(window)(Problem(y, A))
    inside, outside = x[distance < 0.8 * radius], x[distance > 1.3 * radius]
    # 1 %: the line integrals are samples, where the projector has pixels and columns of finite
    # width. A ramp sampled in frequency would be off by several percent, inside and outside.
    assert inside.mean().item() == pytest.approx(MU, rel=0.01)
    assert outside.mean().abs() < 0.003 * MU


@pytest.mark.parametrize("angles", [
    half_circle(180) + 0.3,
    torch.arange(360) * math.pi / 180,
    torch.linspace(0, math.pi, 180),
    torch.arange(200) * math.pi * (math.sqrt(5) - 1) / 2,
    half_circle(180).flip(0) - 7 * math.pi,
    torch.cat([half_circle(240)[:80], half_circle(240)[80::2]]),
    torch.linspace(0, 2 * math.pi, 361),
    torch.linspace(0, 2 * math.pi, 360),
    torch.linspace(0, 6 * math.pi, 541) + 0.2,
    torch.cat([half_circle(180), half_circle(180) + 1e-5, half_circle(180) + 2e-5]),
    torch.arange(230) * math.pi / 180,
], ids=["offset", "full circle", "both ends", "golden angle", "reversed", "uneven",
        "full circle with both ends", "odd full circle", "three turns with both ends",
        "three scans almost the same", "overscan"])
def test_every_full_set_of_directions_gives_the_same_disc(angles):
    A = beam(angles)
    y, distance = disc(A, 14.0)
    x = FBP()(Problem(y, A))
    assert x[distance < 11].mean().item() == pytest.approx(MU, rel=0.01)
    assert x[distance < 11].std() < 0.05 * MU


def test_views_of_one_direction_share_its_weight():
    """Noise falls with every view, wherever it stands: three scans have a third of its power."""
    once, thrice = beam(half_circle(90)), beam(half_circle(90).repeat(3))
    noise = torch.randn(thrice.codomain.shape, generator=torch.Generator().manual_seed(0))
    one, three = FBP()(Problem(noise[:90], once)), FBP()(Problem(noise, thrice))
    assert three.std() / one.std() == pytest.approx(1 / math.sqrt(3), rel=0.05)  # 4096 pixels


def half_acquisition(angles, side=1, offset_mm=16.0):
    """A detector of 44 columns of 0.8 mm: one ends 0.8 mm beyond the axis, if 16 mm beside it."""
    return ParallelBeam((N, N), angles, 0.8, 44, col_offset_mm=side * offset_mm)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("offset_mm", [16.0, 16.8, 17.6, 10.0])
@pytest.mark.parametrize("angles", [torch.arange(360) * math.pi / 180,
                                    torch.linspace(0, 4 * math.pi, 721)], ids=["turn", "two"])
def test_half_acquisition(angles, side, offset_mm):
    A = half_acquisition(angles, side, offset_mm)
    y, distance = disc(A, 14.0, (2.0, 4.0))
    x = FBP()(Problem(y, A))
    assert x[distance < 11].mean().item() == pytest.approx(MU, rel=0.01)
    # 5 %, as for the whole detector: the ends of the rows keep the ripples of a sampled disc.
    assert x[distance < 11].std() < 0.05 * MU
    assert x[distance > 18].abs().mean() < 0.02 * MU


def test_half_acquisition_needs_a_full_turn():
    A = half_acquisition(half_circle(180))
    y, _ = disc(A, 14.0, (2.0, 4.0))
    with pytest.raises(InputError, match="FBP: expected views over 360 .*half acquisition"):
        FBP()(Problem(y, A))


def test_a_shifted_detector_that_sees_all_of_the_object_needs_half_a_turn():
    A = half_acquisition(half_circle(180), offset_mm=8.0)
    y, distance = disc(A, 6.0, (1.0, 2.0))
    assert FBP()(Problem(y, A))[distance < 4].mean().item() == pytest.approx(MU, rel=0.01)


def test_a_detector_beside_the_axis_is_refused():
    A = half_acquisition(torch.arange(360) * math.pi / 180, offset_mm=18.8)
    with pytest.raises(InputError, match="FBP: .* begins 2 columns beside it"):
        FBP()(Problem(torch.zeros(A.codomain.shape), A))


def test_windows_reduce_noise_in_their_order():
    A = beam(half_circle(90))
    noise = torch.randn(A.codomain.shape, generator=torch.Generator().manual_seed(0))
    stds = [FBP(window)(Problem(noise, A)).std() for window in ("ram-lak", "shepp-logan", "hann")]
    assert stds[0] > 1.1 * stds[1] > 1.2 * stds[2]


def test_a_volume_is_its_slices(monkeypatch):
    monkeypatch.setattr("medinv.solvers.ramp._ROWS", 50)  # slices of 90 views cross the blocks
    A = beam(half_circle(90))
    y = torch.randn(2, 3, *A.codomain.shape, generator=torch.Generator().manual_seed(0))
    seen = []
    x = FBP()(Problem(y, A), on_step=lambda i, x: seen.append((i, x)))
    torch.testing.assert_close(x[1, 2], FBP()(Problem(y[1, 2], A)))
    assert [i for i, _ in seen] == [0]


@pytest.mark.parametrize("angles", [half_circle(90)[:60], torch.tensor([0.0, 0.1, 0.2])])
def test_limited_angles_are_refused(angles):
    A = beam(angles)
    with pytest.raises(InputError, match="over 180 degrees.*got a gap of"):
        FBP()(Problem(torch.zeros(A.codomain.shape), A))


def test_other_operators_are_refused():
    with pytest.raises(InputError, match="expected a ParallelBeam or FanBeam, got MatrixOperator"):
        FBP()(Problem(random_image((10,)), random_operator(10, (3, 4))))


def test_an_unknown_window_is_refused():
    # Past the type check of the test run, which would refuse it before we do.
    with pytest.raises(InputError, match="FBP: window: expected one of ram-lak, shepp-logan"):
        FBP.__post_init__(SimpleNamespace(window="cosine"))


def test_an_empty_batch_stays_empty():
    A = beam(half_circle(30))
    assert FBP()(Problem(torch.zeros(0, *A.codomain.shape), A)).shape == (0, N, N)
