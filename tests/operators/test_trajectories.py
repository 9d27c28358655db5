from __future__ import annotations

import math

import pytest
import torch

from medinv.errors import InputError
from medinv.operators import trajectories as T

PLANE = [T.radial(7, 16), T.radial(7, 15, oversampling=2), T.golden_angle(7, 16, tiny=3),
         T.spiral(3, 16, n_turns=4, n_samples=200, density=1.5),
         T.rosette(3, 16, n_petals=4, n_samples=200)]


@pytest.mark.parametrize("trajectory", PLANE, ids=str)
def test_plane_trajectories_fill_the_disc(trajectory):
    radius = trajectory.points.norm(dim=-1)
    n = 15 if "15" in trajectory.name else 16
    assert trajectory.points.dtype == torch.float64
    assert float(radius.max()) == pytest.approx(n / 2, abs=0.51)
    assert float(radius.max()) <= n / 2 + 1e-9
    assert (radius.amin(1) < 1e-9).all()  # each readout passes the centre
    assert trajectory.times_ms.shape == trajectory.points.shape[1:2]


def test_koosh_ball_is_spread_evenly_over_the_ball():
    directions = T.koosh_ball(2000, 8).points[:, 0] / 4
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(2000, dtype=torch.float64))
    ends = torch.cat([directions, -directions])
    # Evenly spread directions have the second moments of the sphere, 1/3.
    moments = ends.T @ ends / len(ends)
    torch.testing.assert_close(moments, torch.eye(3).double() / 3, rtol=0, atol=2e-3)


def test_radial_spokes_are_even_and_golden_ones_never_repeat():
    even, golden = T.radial(12, 8).points[:, 0], T.golden_angle(13, 8).points[:, 0]
    for ends, n in ((even, 12), (golden, 13)):
        angles = (torch.atan2(*ends.unbind(-1)) % math.pi).sort().values
        gaps = torch.diff(angles, append=angles[:1] + math.pi) * n / math.pi
        assert float(gaps.max()) < (1.0001 if ends is even else 1.9)
    step = torch.atan2(*golden[:2].unbind(-1)).diff() % math.pi
    assert math.degrees(float(step)) == pytest.approx(111.246, abs=1e-3)


@pytest.mark.parametrize(("tiny", "degrees"), [(1, 111.246), (2, 68.754), (7, 23.628)])
def test_tiny_golden_angles(tiny, degrees):
    first, second = T.golden_angle(2, 8, tiny=tiny).points[:, -1]
    cosine = float(first @ second / first.norm() / second.norm())
    assert math.degrees(math.acos(cosine)) == pytest.approx(degrees, abs=1e-3)


def test_acceleration_is_one_where_neighbours_are_one_cycle_apart():
    n = 64
    spokes = T.radial(round(math.pi * n / 2), n)
    assert spokes.acceleration == pytest.approx(1, abs=0.01)
    ends = spokes.points[:, 0]
    assert float(ends.diff(dim=0).norm(dim=-1).max()) == pytest.approx(1, abs=0.01)
    spiral = T.spiral(4, n, n_turns=8, n_samples=4000)
    assert spiral.acceleration == 1
    along_x = spiral.points.flatten(0, 1)
    radii = along_x[(along_x[:, 0].abs() < 0.11) & (along_x[:, 1] > 0)][:, 1].sort().values
    assert float(radii.diff().max()) == pytest.approx(1, abs=0.05)
    rosette = T.rosette(10, n, n_petals=20, n_samples=4001)
    assert rosette.acceleration == pytest.approx(1, abs=0.01)


def test_a_rosette_touches_the_edge_at_even_angles():
    points = T.rosette(3, 16, n_petals=5, n_samples=1001).points.flatten(0, 1)
    tips = points[points.norm(dim=-1) > 8 - 1e-9]
    angles = (torch.atan2(*tips.unbind(-1)) % (2 * math.pi)).sort().values
    assert len(angles) == 15
    torch.testing.assert_close(angles.diff(), torch.full((14,), 2 * math.pi / 15).double())


def test_spirals_run_at_constant_speed_and_densify_the_centre():
    plain, dense = (T.spiral(1, 32, n_turns=8, n_samples=2000, density=d) for d in (1, 2))
    speed = plain.points[0].diff(dim=0).norm(dim=-1)
    assert float(speed[20:].max() / speed[20:].min()) < 1.001  # chords are shorter than arcs
    inner = [int((t.points.norm(dim=-1) < 4).sum()) for t in (plain, dense)]
    assert inner[1] > 1.5 * inner[0]


def test_a_stack_repeats_and_turns_its_plane():
    plane = T.radial(4, 8)
    stack = T.stack(plane, 6, kz=torch.tensor([-3, 2, 2]), turn=0.3)
    assert stack.points.shape == (3, 4, 8, 3)
    assert stack.points[:, 0, 0, 0].tolist() == [-3, 2, 2]
    torch.testing.assert_close(stack.points[0, ..., 1:], plane.points)
    radius = plane.points.norm(dim=-1)
    torch.testing.assert_close(stack.points[2, ..., 1:].norm(dim=-1), radius)
    before, after = plane.points[0, -1], stack.points[2, 0, -1, 1:]
    assert float(torch.atan2(*after) - torch.atan2(*before)) == pytest.approx(0.6)
    assert stack.acceleration == pytest.approx(plane.acceleration * 6 / 3)


def test_readout_times():
    assert T.radial(2, 4, dwell_ms=0.01).times_ms.tolist() == pytest.approx([0, 0.01, 0.02, 0.03])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: T.radial(0, 8), "radial: n_spokes is 0; pass a number over 0"),
    (lambda: T.golden_angle(3, 8, tiny=0), "golden_angle: tiny is 0"),
    (lambda: T.koosh_ball(3, -1), "koosh_ball: n is -1"),
    (lambda: T.spiral(3, 8, n_turns=0, n_samples=9), "spiral: n_turns is 0"),
    (lambda: T.rosette(3, 8, n_petals=0, n_samples=9), "rosette: n_petals is 0"),
    (lambda: T.stack(T.radial(3, 8), 4, kz=torch.tensor([0.5])), "whole numbers from -2 to 1"),
    (lambda: T.stack(T.radial(3, 8), 4, kz=torch.tensor([2])), "whole numbers from -2 to 1"),
    (lambda: T.stack(T.koosh_ball(3, 8), 4), r"pass a trajectory in the plane"),
])
def test_wrong_arguments(make, message):
    with pytest.raises(InputError, match=message):
        make()
