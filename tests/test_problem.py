"""A measurement with its noise: units, whitening, parts, what is held out, errors."""

import math

import pytest
import torch

from medinv.errors import InputError, ShapeError
from medinv.operators import CartesianMRI, Magnitude, ParallelBeam
from medinv.operators.noise import draw_counts, statistical_weights
from medinv.problem import Gaussian, Poisson, Problem
from tests.solvers.matrix_operator import random_image, random_operator

DOUBLE = torch.float64


def rays(n_views=12, slices=5):
    A = ParallelBeam((8, 8), torch.arange(n_views) * math.pi / n_views, 1.0)
    return A, A(random_image((slices, 8, 8), torch.float32))


def scan(maps_shape=(3, 16, 16), batch=()):
    maps = random_image(maps_shape, torch.complex64) / 2
    A = CartesianMRI(maps, torch.ones(16, dtype=torch.bool))
    return A, A(random_image((*batch, *A.domain.shape), torch.complex64))


def test_other_units_are_the_same_problem():
    A = random_operator(5, (2, 3))
    problem = Problem(A(random_image((2, 3))), A, noise_std=0.3).scaled(4.0)
    assert problem.A.norm() == pytest.approx(1, rel=1e-6)
    x = random_image((2, 3), seed=3)
    expected = (A(4 * x) - A(random_image((2, 3)))) / 0.3
    torch.testing.assert_close((problem.A(x) - problem.y) / problem.noise_std, expected)
    normalized, Ahy, noise = Problem(A(x), A, noise_std=0.3).backprojected(4.0)
    torch.testing.assert_close(Ahy, normalized.normal(x) / 4)
    assert noise == pytest.approx(problem.noise_std)


def test_a_nonlinear_operator_changes_its_images_alone():
    A = Magnitude(random_operator(5, (2, 3)))
    x = random_image((2, 3), seed=3)
    problem = Problem(A(x), A, noise_std=0.3)
    scaled = problem.scaled(4.0)
    torch.testing.assert_close(scaled.A(x / 4), problem.y)
    J, expected = scaled.A.linearize(x / 4), A.linearize(x)
    torch.testing.assert_close(J(x), 4 * expected(x))
    assert scaled.noise_std == 0.3
    with pytest.raises(InputError, match="expected a linear operator, got Magnitude"):
        problem.linear  # noqa: B018


def test_noise_of_each_sample_is_whitened():
    A = random_operator(5, (2, 3))
    std = torch.linspace(0.1, 0.5, 5, dtype=DOUBLE)
    y = A(random_image((2, 3))).expand(3, 5)
    white = Problem(y, A, Gaussian(std)).whitened()
    assert white.noise_std == 1.0
    torch.testing.assert_close(white.y, y / std)
    torch.testing.assert_close(white.A(random_image((3, 2, 3))), A(random_image((3, 2, 3))) / std)
    assert Problem(y, A, Gaussian(torch.tensor(0.2))).whitened().noise_std == pytest.approx(0.2)
    with pytest.raises(InputError, match="positive standard deviation in each sample"):
        Problem(y, A, Gaussian(std - 0.1)).whitened()


def test_counts_are_weighted_by_their_number():
    A, integrals = rays()
    counts = draw_counts(integrals.abs() / 10, 1e4, torch.Generator().manual_seed(0))
    y = -torch.log(counts / 1e4)
    std = Problem(y, A, Poisson(1e4)).noise_std
    torch.testing.assert_close(std, statistical_weights(counts).rsqrt())


@pytest.mark.parametrize("make", [
    rays, lambda: scan(batch=(5,)), lambda: scan((5, 3, 16, 16))
], ids=["batch", "batch-of-slices", "maps-of-slices"])
def test_a_part_is_measured_as_the_whole(make):
    A, y = make()
    std = torch.rand(y.shape) + 1
    problem = Problem(y, A, Gaussian(std))
    part = problem.part(slice(1, 3))
    assert (problem.n_slices, part.n_slices) == (5, 2)
    x = random_image((5, *A.domain.shape[-2:]), y.dtype)
    torch.testing.assert_close(part.A(x[1:3]), A(x)[1:3])
    assert torch.equal(part.y, y[1:3])
    assert torch.equal(part.noise_std, std[1:3])
    one = Problem(y[0], A) if make is rays else Problem(scan()[1], scan()[0])
    assert one.n_slices == 1
    with pytest.raises(InputError, match="expected a stack of slices"):
        one.part(slice(0, 1))


def test_what_is_held_out_and_what_is_left_are_the_whole():
    A, y = rays()
    std = torch.rand(y.shape) + 1
    seen, unseen = Problem(y, A, Gaussian(std)).hold_out()
    assert (seen.y.shape[1], unseen.y.shape[1]) == (10, 2)
    assert torch.equal(torch.sort(torch.cat([seen.y, unseen.y], 1), 1)[0], torch.sort(y, 1)[0])
    assert torch.equal(unseen.noise_std, std[:, [3, 9]])
    torch.testing.assert_close(unseen.A(random_image((5, 8, 8), torch.float32)),
                               A(random_image((5, 8, 8), torch.float32))[:, [3, 9]])
    A, y = scan(batch=(2,))
    seen, unseen = Problem(y, A).hold_out(torch.Generator().manual_seed(1))
    torch.testing.assert_close(seen.y + unseen.y, y)
    assert bool((seen.A.mask ^ unseen.A.mask).all())
    assert bool(seen.A.mask[..., 8].all())  # the centre stays
    with pytest.raises(InputError, match="nothing can be held out"):
        Problem(torch.zeros(5, dtype=DOUBLE), random_operator(5, (2, 3))).hold_out()


def test_the_true_image_misfits_by_the_noise():
    A = random_operator(4000, (2, 3))
    x = random_image((2, 3))
    y = A(x) + 0.2 * random_image((4000,), seed=4)
    # 4000 samples: the rms is known to 1.1 %
    assert Problem(y, A, noise_std=0.2).misfit(x) == pytest.approx(1, rel=0.04)
    assert Problem(y, A, Gaussian(torch.full((4000,), 0.2))).misfit(x) == pytest.approx(
        1, rel=0.04)
    assert Problem(y, A).misfit(x) == pytest.approx(0.2, rel=0.04)


def test_wrong_arguments():
    A = random_operator(5, (2, 3))
    y = torch.zeros(5, dtype=DOUBLE)
    with pytest.raises(ShapeError, match="y: expected"):
        Problem(torch.zeros(4, dtype=DOUBLE), A)
    with pytest.raises(InputError, match="got 5 NaN or Inf of 5"):
        Problem(y * math.nan, A)
    with pytest.raises(InputError, match="got both; drop one"):
        Problem(y, A, Gaussian(1.0), noise_std=1.0)
    for std in (-0.1, math.inf):
        with pytest.raises(InputError, match="a standard deviation of at least 0"):
            Problem(y, A, noise_std=std)
    with pytest.raises(InputError, match="a positive number of photons"):
        Poisson(0.0)
