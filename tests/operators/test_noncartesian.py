from __future__ import annotations

import math

import numpy as np
import pytest
import sigpy.mri
import torch

from medinv.errors import InputError, ShapeError
from medinv.operators import (
    CartesianMRI,
    NonCartesianMRI,
    StackOfStars,
    density,
    fourier,
    noncartesian,
    trajectories,
)
from tests.cases import random_maps
from tests.operators.kspace_objects import Ellipse, ball_image, ball_kspace

MAPS = torch.ones(2, 32, 36, dtype=torch.complex64)
VOLUME_MAPS = torch.ones(2, 4, 16, 16, dtype=torch.complex64)
SPOKES = trajectories.radial(8, 32).points
STARS = trajectories.stack(trajectories.radial(5, 16), 4)


def grid_points(*shape):
    numbers = [torch.arange(n, dtype=torch.float64) - n // 2 for n in shape]
    return torch.stack(torch.meshgrid(*numbers, indexing="ij"), -1)


@pytest.mark.parametrize("shape", [(8, 6), (7, 9), (4, 5, 6)])
def test_a_cartesian_grid_gives_cartesian_mri(shape, rng):
    maps = random_maps((3, *shape), torch.float64, 0)
    A = NonCartesianMRI(maps, grid_points(*shape), eps=1e-13)
    C = CartesianMRI(maps, torch.ones(shape), ndim=len(shape))
    x = torch.randn(shape, dtype=maps.dtype, generator=rng)
    torch.testing.assert_close(A(x), C(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(A.normal(x), x, rtol=0, atol=1e-12)


def test_equals_sigpy_to_sigpys_accuracy(rng):
    maps = random_maps((3, 32, 30), torch.float64, 0)
    points = trajectories.radial(9, 30).points
    x = torch.randn(32, 30, dtype=maps.dtype, generator=rng)
    peer = sigpy.mri.linop.Sense(maps.numpy(), coord=points.numpy())(x.numpy())
    y = NonCartesianMRI(maps, points)(x).numpy()
    assert np.linalg.norm(y - peer) / np.linalg.norm(y) < 0.02  # sigpy's error is about 0.7 %


def test_slices_are_independent_and_share_the_trajectory(rng):
    maps = random_maps((4, 3, 6, 5), torch.float64, -3)
    points = (torch.rand(20, 2, generator=rng) - 0.5) * torch.tensor([6, 5])
    A = NonCartesianMRI(maps, points)
    x = torch.randn(2, 4, 6, 5, dtype=maps.dtype, generator=rng)
    for i in range(4):
        one = NonCartesianMRI(maps[i], points)
        torch.testing.assert_close(A(x)[:, i], one(x[:, i]))
        torch.testing.assert_close(A.normal(x)[:, i], one.normal(x[:, i]))


@pytest.mark.parametrize("block_bytes", [1, 900, 10**6])
@pytest.mark.parametrize("make", [
    lambda maps: NonCartesianMRI(maps, STARS.points), lambda maps: StackOfStars(maps, STARS.points)
], ids=["any", "stack"])
def test_blocks_do_not_change_the_result(make, block_bytes, rng, monkeypatch):
    A = make(random_maps((3, 4, 16, 16), torch.float64, 0))
    x = torch.randn(2, 4, 16, 16, dtype=torch.complex128, generator=rng)
    expected = A(x), A.normal(x), A.adjoint(A(x))
    monkeypatch.setitem(noncartesian._PLAN_BYTES, "cpu", block_bytes)
    monkeypatch.setitem(noncartesian._TOEPLITZ_BYTES, "cpu", block_bytes)
    for result, reference in zip((A(x), A.normal(x), A.adjoint(A(x))), expected, strict=True):
        torch.testing.assert_close(result, reference)


def test_a_shift_is_a_linear_phase_on_the_image(rng):
    maps = random_maps((2, 8, 7), torch.float64, 0)
    points = (torch.rand(20, 2, generator=rng) - 0.5) * torch.tensor([8, 7])
    x = torch.randn(8, 7, dtype=maps.dtype, generator=rng)
    y, x_axis = (grid_points(8, 7) / torch.tensor([8, 7])).unbind(-1)
    phase = torch.exp(-2j * math.pi * (0.4 * y - 1.3 * x_axis))
    shifted = NonCartesianMRI(maps, points, shift=(0.4, -1.3), eps=1e-12)
    torch.testing.assert_close(shifted(x), NonCartesianMRI(maps, points, eps=1e-12)(phase * x))


def test_weights_multiply_both_sides_of_the_normal_equations(rng):
    maps = random_maps((2, 8, 7), torch.float64, 0)
    points = (torch.rand(5, 20, 2, generator=rng) - 0.5) * torch.tensor([8, 7])
    weights = torch.rand(5, 1, generator=rng, dtype=torch.float64)
    plain = NonCartesianMRI(maps, points)
    A = NonCartesianMRI(maps, points, weights=weights)
    x = torch.randn(8, 7, dtype=maps.dtype, generator=rng)
    torch.testing.assert_close(A(x), weights.sqrt() * plain(x))
    torch.testing.assert_close(A.adjoint(weights.sqrt() * plain(x)), A.normal(x), rtol=0,
                               atol=1e-5)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
@pytest.mark.parametrize(("kz", "turn"), [(None, 0.0), ((0, -2, 0, 2), 0.0), ((1, -1), 0.7)])
@pytest.mark.parametrize("n_z", [4, 5])
def test_a_stack_equals_the_3d_transform(order, kz, turn, n_z, rng):
    if kz is not None and max(kz) > (n_z - 1) // 2:
        kz = tuple(number for number in kz if number != 2)
    numbers = None if kz is None else torch.tensor(kz)
    plane = trajectories.golden_angle(5, 6, oversampling=2)
    stack = trajectories.stack(plane, n_z, kz=numbers, turn=turn)
    points = stack.points[..., list(order)]
    shape = [(n_z, 6, 6)[axis] for axis in order]
    maps = random_maps((3, *shape), torch.float64, 0)
    any_trajectory = NonCartesianMRI(maps, points, eps=1e-11)
    A = StackOfStars(maps, points, eps=1e-11)
    x = torch.randn(2, *shape, dtype=maps.dtype, generator=rng)
    assert A.axis == order.index(0) - 3
    torch.testing.assert_close(A(x), any_trajectory(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(A.normal(x), any_trajectory.normal(x), rtol=0, atol=1e-9)


def test_partitions_with_one_star_share_its_plan():
    assert len(StackOfStars(VOLUME_MAPS, STARS.points)._stars) == 1
    turned = trajectories.stack(trajectories.radial(5, 16), 4, turn=0.3)
    assert len(StackOfStars(VOLUME_MAPS, turned.points)._stars) == 4


def test_kspace_of_an_ellipse_converges_to_the_closed_form():
    errors = []
    points = trajectories.radial(40, 16).points  # the inner 16 cycles, on every grid
    for n in (32, 64, 128):
        ellipse = Ellipse((8.0, 5.0), (3.0, -2.0), 0.5).scaled(n / 32)
        A = NonCartesianMRI(torch.ones(1, n, n, dtype=torch.complex128), points, eps=1e-10)
        expected = ellipse.kspace(points, n)
        y = A(ellipse.image(n).to(torch.complex128))[0]
        errors.append(float((y - expected).norm() / expected.norm()))
    # Averaging over pixels is a sinc in k-space, 1 - O(1/n^2).
    assert errors[-1] < 2e-3
    assert [errors[i] / errors[i + 1] for i in (0, 1)] == pytest.approx([4, 4], rel=0.15)


def test_kspace_of_a_ball_equals_the_closed_form():
    n, centre = 24, (1.0, -2.0, 3.0)
    points = trajectories.koosh_ball(50, 8).points
    A = NonCartesianMRI(torch.ones(1, n, n, n, dtype=torch.complex128), points)
    y = A(ball_image(6.0, centre, n).to(torch.complex128))[0]
    expected = ball_kspace(6.0, centre, points, n)
    # The sinc of the voxels at a sixth of the sampling frequency is off by up to 4 %.
    assert float((y - expected).norm() / expected.norm()) < 0.01


def coil_maps(n):
    """Four smooth coils around the object."""
    y, x = (grid_points(n, n) / n).unbind(-1)
    angles = torch.arange(4, dtype=torch.float64)[:, None, None] * math.pi / 2
    distance = (y - 0.6 * angles.sin()) ** 2 + (x - 0.6 * angles.cos()) ** 2
    maps = torch.exp(-2 * distance) * torch.exp(1j * (angles + x))
    return (maps / maps.abs().square().sum(0).sqrt()).to(torch.complex64)


@pytest.mark.parametrize("make", [
    lambda n: trajectories.radial(34, n, oversampling=2),
    lambda n: trajectories.golden_angle(34, n, tiny=7, oversampling=2),
    lambda n: trajectories.spiral(8, n, n_turns=4, n_samples=600),
], ids=["radial", "golden", "spiral"])
def test_least_squares_recover_a_noisy_undersampled_scan(make, rng):
    n, sigma = 64, 0.01
    trajectory = make(n)
    image = Ellipse((20.0, 14.0), (3.0, -4.0), 0.5).image(n) + 0.5 * Ellipse((6.0, 4.0)).image(n)
    corner = grid_points(n, n).norm(dim=-1) > n / 2  # k-space outside the disc is never measured
    A = NonCartesianMRI(coil_maps(n), trajectory.points)
    y = A(image.to(torch.complex64))
    y = y + sigma * torch.randn(y.shape, dtype=y.dtype, generator=rng)
    x = A.solve(y, max_iter=30)
    spectrum = torch.where(corner, 0, fourier.fft(x - image, (-2, -1)))
    assert float(spectrum.norm() / image.norm()) < 0.05
    gridded = A.adjoint(y)
    scale = (gridded.conj() * image).sum() / gridded.abs().square().sum()
    assert float((x - image).norm()) < 0.5 * float((scale * gridded - image).norm())


def test_density_weights_speed_up_least_squares():
    n = 48
    points = trajectories.radial(48, n).points
    image = Ellipse((15.0, 9.0), (2.0, 3.0)).image(n).to(torch.complex64)
    weights = density.radial_ramp(points)
    plain = NonCartesianMRI(coil_maps(n), points)
    weighted = NonCartesianMRI(coil_maps(n), points, weights=weights)
    y = plain(image)
    slow = plain.solve(y, max_iter=5)
    fast = weighted.solve(weights.sqrt().float() * y, max_iter=5)
    assert float((fast - image).norm()) < 0.6 * float((slow - image).norm())


def test_memory_of_the_normal_operator_is_an_argument(rng):
    A = NonCartesianMRI(MAPS, SPOKES, toeplitz=False)
    x = torch.randn(32, 36, dtype=torch.complex64, generator=rng)
    torch.testing.assert_close(A.normal(x), A.adjoint(A(x)))
    assert A._spectrum is None


@pytest.mark.parametrize(("arguments", "message"), [
    ({"maps": MAPS.real}, r"maps are torch.float32; pass complex64 or complex128"),
    ({"maps": MAPS[0]}, r"maps are \(32, 36\) but a trajectory of 2 axes needs \(\*slices, coil"),
    ({"maps": VOLUME_MAPS[None], "trajectory": STARS.points},
     r"needs \(coil, z, y, x\); add the missing axis or drop the extra"),
    ({"maps": MAPS * math.nan}, r"maps hold NaN or infinity; use `maps.nan_to_num"),
    ({"trajectory": torch.zeros(5, 4)}, r"last axis is 4; it holds \(ky, kx\) or \(kz, ky, kx\)"),
    ({"trajectory": torch.tensor(1.0)}, r"last axis is 0; it holds"),
    ({"trajectory": torch.zeros(5, 2).int()}, r"trajectory is \(5, 2\) of torch.int32; pass real"),
    ({"trajectory": torch.zeros(0, 2)}, r"trajectory is \(0, 2\).*one or more"),
    ({"trajectory": torch.full((5, 2), math.inf)}, r"NaN or infinity; drop those samples"),
    ({"trajectory": SPOKES * 1.1},
     r"expected cycles per field of view, up to 16, 18 along the axes; the trajectory reaches "
     r"17\.\d*, 17\.\d*\. Multiply 1/m by"),
    ({"weights": torch.ones(3)}, r"weights are \(3,\) but the samples are \(8, 32\)"),
    ({"weights": -torch.ones(8, 32)}, r"weights are complex, negative or not finite"),
    ({"shift": (1.0,)}, r"shift is \(1.0,\); pass one finite number per axis, 2 of them"),
    ({"shift": (1.0, math.nan)}, r"pass one finite number per axis"),
    ({"eps": 1e-20}, r"eps is 1e-20; pass an accuracy"),
])
def test_wrong_arguments(arguments, message):
    with pytest.raises((ShapeError, InputError), match=message):
        NonCartesianMRI(**{"maps": MAPS, "trajectory": SPOKES, **arguments})


@pytest.mark.parametrize(("factor", "message"), [
    (1 / 128, "looks like cycles per pixel. Multiply each axis by n,"),
    (2 * math.pi / 128, r"looks like radians per pixel. Multiply each axis by n / \(2 pi\)"),
])
def test_other_units_are_recognised(factor, message):
    maps = torch.ones(1, 128, 128, dtype=torch.complex64)
    with pytest.raises(InputError, match=message):
        NonCartesianMRI(maps, trajectories.radial(4, 128).points * factor)


def test_one_axis_in_full_and_single_precision_edges_are_accepted():
    maps = torch.ones(1, 128, 128, dtype=torch.complex64)
    line = torch.stack([torch.zeros(128), torch.arange(128) - 64.0], -1)
    NonCartesianMRI(maps, line)
    NonCartesianMRI(maps, line * (1 + 1e-6))


@pytest.mark.parametrize("points", [
    STARS.points + torch.tensor([0.5, 0.0, 0.0]) * (STARS.points[..., :1] < 1),
    STARS.points.flatten(0, 1)[:, :1].expand(-1, 3, -1).flatten(0, 1)[:, :],
])
def test_a_trajectory_without_a_cartesian_axis_is_no_stack(points):
    with pytest.raises(InputError, match="no axis of the trajectory .* use NonCartesianMRI"):
        StackOfStars(VOLUME_MAPS, points)


def test_a_stack_wants_a_volume():
    with pytest.raises(ShapeError, match=r"StackOfStars: maps are \(2, 32, 36\) but a traj"):
        StackOfStars(MAPS, STARS.points)


def test_codomain_names_its_axes():
    A = NonCartesianMRI(MAPS, SPOKES)
    with pytest.raises(ShapeError, match=r"coil 2, sample 8, sample 32\), got \(3, 8, 32\)"):
        A.adjoint(torch.zeros(3, 8, 32, dtype=torch.complex64))
