"""FBP of analytic discs: water reads 0 HU, every geometry, every arc."""

import math

import pytest
import torch

from medinv.data.units import mu_to_hu
from medinv.errors import InputError
from medinv.operators.ct import FanBeam, ParallelBeam
from medinv.problem import Problem
from medinv.solvers import FBP
from tests.operators.ct_objects import disc_line_integrals, fan_disc_line_integrals

N, MU_WATER = 96, 0.02
DEGREE = math.pi / 180
WATER = {"x0": 5.0, "y0": -7.0, "radius": 30.0, "mu": MU_WATER}
OFFSETS = {"col_offset_mm": 3.3, "axis_offset_mm": 4.0}
ARCS = {
    "full turn": torch.arange(360) * DEGREE,
    "counterclockwise": 1 - torch.arange(360) * DEGREE,
    "short scan": 0.5 + torch.arange(230) * DEGREE,
    "counterclockwise short scan": 0.5 - torch.arange(230) * DEGREE,
    "long arc": torch.arange(300) * DEGREE,
    "shuffled": (torch.arange(360) * 7 % 360) * DEGREE,
    "full turn with both ends": torch.arange(361) * DEGREE,
    "three turns": torch.arange(1081) * DEGREE,
    "overscan": torch.arange(400) * DEGREE,
    "there and back": torch.cat([torch.arange(230), torch.arange(230).flip(0)]) * DEGREE,
}


def fan(angles, **options):
    return FanBeam((N, N), angles, 1.0, 250.0, 150.0, 250, 0.9, **options)


def distance(x0, y0):
    grid = torch.arange(N) - (N - 1) / 2
    return torch.hypot(grid[:, None] - y0, grid - x0)


def check_water(x):
    """Mean and every pixel inside, and the disc's centre."""
    inside = mu_to_hu(x, MU_WATER)[distance(WATER["x0"], WATER["y0"]) < 24]
    assert abs(inside.mean().item()) < 5
    grid = torch.arange(N) - (N - 1) / 2
    water = torch.where(distance(WATER["x0"], WATER["y0"]) < 34, x, 0.0)
    centre = (water.sum(0) @ grid / water.sum(), water.sum(1) @ grid / water.sum())
    assert centre == pytest.approx((WATER["x0"], WATER["y0"]), abs=0.1)
    return inside


@pytest.mark.parametrize("arc", ARCS)
@pytest.mark.parametrize("curved", [False, True], ids=["flat", "curved"])
@pytest.mark.parametrize("offsets", [{}, OFFSETS], ids=["centred", "offset"])
def test_water_reads_zero_in_fan_beams(arc, curved, offsets):
    A = fan(ARCS[arc], curved=curved, **offsets)
    x = FBP()(Problem(fan_disc_line_integrals(A, **WATER), A))
    assert check_water(x).abs().max() < 5
    outside = mu_to_hu(x, MU_WATER)[distance(WATER["x0"], WATER["y0"]) > 40]
    assert abs(outside.mean().item() + 1000) < 5


def half_fan(angles, side=1, curved=False, offset_mm=33.0):
    """A detector that ends 12 mm beyond the axis on its short side."""
    return FanBeam((N, N), angles, 1.0, 250.0, 150.0, 100, 0.9, curved=curved,
                   col_offset_mm=side * offset_mm)


def test_half_a_fan_needs_a_full_turn():
    A = half_fan(ARCS["short scan"])
    with pytest.raises(InputError, match="FBP: expected views over 360 .*half acquisition"):
        FBP()(Problem(fan_disc_line_integrals(A, **WATER), A))


def test_a_detector_beside_the_axis_is_refused():
    A = half_fan(ARCS["full turn"], offset_mm=49.5)
    with pytest.raises(InputError, match="FBP: expected a detector that reaches the rotation"):
        FBP()(Problem(fan_disc_line_integrals(A, **WATER), A))


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("curved", [False, True], ids=["flat", "curved"])
@pytest.mark.parametrize("arc", ["full turn", "full turn with both ends", "overscan"])
def test_a_detector_that_sees_half_of_the_disc(arc, curved, side):
    A = half_fan(ARCS[arc], side, curved)
    assert check_water(FBP()(Problem(fan_disc_line_integrals(A, **WATER), A))).abs().max() < 5


@pytest.mark.parametrize("sign", [1, -1], ids=["clockwise", "counterclockwise"])
@pytest.mark.parametrize("offset", [0.0, 3.3])
def test_water_reads_zero_in_parallel_beams(sign, offset):
    A = ParallelBeam((N, N), sign * torch.arange(180) * DEGREE, 1.0, 160, col_offset_mm=offset)
    check_water(FBP()(Problem(disc_line_integrals(A, **WATER), A)))


@pytest.mark.parametrize("window", ["shepp-logan", "hann"])
@pytest.mark.parametrize("curved", [False, True], ids=["flat", "curved"])
def test_windows_keep_the_values(window, curved):
    A = fan(ARCS["full turn"], curved=curved)
    check_water(FBP(window)(Problem(fan_disc_line_integrals(A, **WATER), A)))


def test_a_short_scan_uses_every_ray_once():
    """The weights of a ray and its twin sum to 1, so a long arc is no noisier than a full turn."""
    from medinv.solvers.fan_fbp import _parker

    arc, fan_angles = 1.3 * math.pi, torch.linspace(-0.2, 0.2, 41).double()
    theta = torch.linspace(0, arc, 200).double()[:, None]
    twin = theta + math.pi - 2 * fan_angles
    both = (twin >= 0) & (twin <= arc)
    total = _parker(theta, fan_angles, arc) + _parker(twin, -fan_angles, arc)
    torch.testing.assert_close(total[both], torch.ones_like(total[both]))


def test_a_stack_is_its_slices(rng):
    A = fan(ARCS["full turn"][::8])
    y = torch.randn(2, 3, *A.codomain.shape, generator=rng)
    torch.testing.assert_close(FBP()(Problem(y, A))[1, 2], FBP()(Problem(y[1, 2], A)))


@pytest.mark.parametrize("angles", [
    torch.arange(180) * DEGREE,  # less than 180 plus the fan angle
    torch.arange(60) * DEGREE,
    torch.cat([torch.arange(100), torch.arange(130, 250)]) * DEGREE,  # a gap
    torch.zeros(1),
], ids=["180", "60", "gap", "one view"])
def test_arcs_that_do_not_suffice_are_refused(angles):
    A = fan(angles)
    with pytest.raises(InputError, match="FBP: expected views over 360 degrees, or over"):
        FBP()(Problem(torch.zeros(A.codomain.shape), A))


def test_an_empty_batch_stays_empty():
    A = fan(ARCS["full turn"][::9])
    assert FBP()(Problem(torch.zeros(0, *A.codomain.shape), A)).shape == (0, N, N)
