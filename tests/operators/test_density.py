from __future__ import annotations

import math

import pytest
import torch

from medinv.errors import InputError
from medinv.operators import NonCartesianMRI, density, trajectories
from tests.operators.kspace_objects import Ellipse, ball_image, ball_kspace

N = 48
RADIAL = trajectories.radial(76, N, oversampling=2)
GOLDEN = trajectories.golden_angle(89, N, oversampling=2)
SPIRAL = trajectories.spiral(8, N, n_turns=4, n_samples=800, density=1.5)
ROSETTE = trajectories.rosette(30, N, n_petals=8, n_samples=900)


def gridding(points, weights, y, grid):
    A = NonCartesianMRI(torch.ones(1, *grid, dtype=torch.complex128), points, weights=weights)
    return A.adjoint(weights.sqrt() * y[None]).real


def plane_error(trajectory, weights):
    """Relative error, and mean where the true value is 1, of a gridded ellipse."""
    ellipse = Ellipse((15.0, 9.0), (4.0, -3.0), 0.5)
    image = ellipse.image(N)
    x = gridding(trajectory.points, weights, ellipse.kspace(trajectory.points, N), (N, N))
    return float((x - image).norm() / image.norm()), float(x[image == 1].mean())


@pytest.mark.parametrize("trajectory", [RADIAL, GOLDEN], ids=str)
def test_ramp_reconstructs_an_ellipse(trajectory):
    error, mean = plane_error(trajectory, density.radial_ramp(trajectory.points))
    assert error < 0.08  # the corners of k-space are missing, so edges are soft
    assert mean == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("trajectory", [RADIAL, GOLDEN, SPIRAL, ROSETTE], ids=str)
def test_pipe_menon_reconstructs_an_ellipse(trajectory):
    error, mean = plane_error(trajectory, density.pipe_menon(trajectory.points, (N, N)))
    unweighted, _ = plane_error(trajectory, torch.ones(trajectory.points.shape[:-1]).double()
                                * math.pi * N**2 / 4 / trajectory.points.shape[:-1].numel())
    assert error < 0.2  # the gridding kernel blurs the density near the centre
    assert error < 0.4 * unweighted
    assert mean == pytest.approx(1, abs=0.06)


def test_ramp_reconstructs_a_ball():
    n, centre = 20, (1.0, -2.0, 0.5)
    points = trajectories.koosh_ball(1000, n, oversampling=2).points
    weights = density.radial_ramp(points)
    x = gridding(points, weights, ball_kspace(6.0, centre, points, n), (n, n, n))
    image = ball_image(6.0, centre, n)
    assert float((x - image).norm() / image.norm()) < 0.15
    assert float(x[image == 1].mean()) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("n", [16, 17])
def test_ramp_adds_up_to_the_disc_and_the_ball(n):
    # From -n/2 to n/2 with half a step beyond at one end, or both where n is odd.
    disc = density.radial_ramp(trajectories.golden_angle(21, n).points).sum()
    ball = density.radial_ramp(trajectories.koosh_ball(21, n).points).sum()
    reach = n / 2 if n % 2 else ((n / 2 + 0.5) ** 2 / 2 + (n / 2 - 0.5) ** 2 / 2) ** 0.5
    assert float(disc) == pytest.approx(math.pi * reach**2, rel=1e-12)
    assert float(ball) == pytest.approx(4 / 3 * math.pi * (n / 2) ** 3, rel=0.02)


def test_ramp_follows_uneven_angles():
    angles = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)
    radius = torch.arange(-4, 4, dtype=torch.float64)
    directions = torch.stack([angles.sin(), angles.cos()], -1)
    w = density.radial_ramp(radius[:, None] * directions[:, None])
    widths = torch.tensor([(math.pi - 1.0 + 0.1) / 2, 0.5, (0.9 + math.pi - 1.0) / 2])
    torch.testing.assert_close(w[:, 0] / 4, widths.double())


@pytest.mark.parametrize("points", [
    SPIRAL.points, RADIAL.points + 3, RADIAL.points[:, 60:], RADIAL.points**3
])
def test_ramp_refuses_what_is_not_a_spoke(points):
    with pytest.raises(InputError, match="not straight, evenly sampled.*use pipe_menon"):
        density.radial_ramp(points)


def test_wrong_shapes():
    with pytest.raises(InputError, match=r"radial_ramp: the trajectory is \(5, 2\); pass \(spoke"):
        density.radial_ramp(torch.zeros(5, 2))
    with pytest.raises(InputError, match=r"trajectory has 2 axes but shape is \(8, 8, 8\)"):
        density.pipe_menon(RADIAL.points, (8, 8, 8))
    with pytest.raises(InputError, match="pipe_menon: expected cycles per field of view"):
        density.pipe_menon(RADIAL.points, (8, 8))
