"""Total variation by ADMM sweeps: its operator, its minimiser, its memory of the last sweep."""

import pytest
import torch

from medinv.operators.linalg import finite_difference, finite_difference_adjoint
from medinv.solvers.coupling import SplitTV
from tests.solvers.matrix_operator import random_image, random_operator


def objective(A, y, x, weight, axes, periodic):
    tv = sum(finite_difference(x, axis, periodic).abs().sum() for axis in axes)
    return (A(x) - y).square().sum() / 2 + weight * tv


def reference(A, y, weight, axes, periodic, iterations=6000):
    """The minimiser by Chambolle and Pock's primal-dual method, which shares nothing with ADMM."""
    x = bar = torch.zeros(A.domain.shape, dtype=torch.float64)
    v = {axis: torch.zeros_like(x) for axis in axes}
    step = 1 / (4 * len(axes)) ** 0.5  # ||D||^2 <= 4 per axis
    dense = torch.linalg.inv(torch.eye(x.numel(), dtype=x.dtype) + step * A.matrix.T @ A.matrix)
    for _ in range(iterations):
        for axis in axes:
            v[axis] = (v[axis] + step * finite_difference(bar, axis, periodic)).clamp(
                -weight, weight)
        down = sum(finite_difference_adjoint(v[axis], axis, periodic) for axis in axes)
        side = x - step * (down - A.adjoint(y))
        new = (dense @ side.flatten()).reshape(x.shape)
        bar, x = 2 * new - x, new
    return x


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("axes", [(-3,), (-3, -2, -1)])
def test_sweeps_reach_the_objective_of_a_reference_solver(axes, periodic):
    """One conjugate gradient step a sweep, warm-started, is enough (variable sharing)."""
    shape = (4, 2, 3)
    A = random_operator(14, shape)
    y, weight = A(random_image(shape)), 0.05
    expected = objective(A, y, reference(A, y, weight, axes, periodic), weight, axes, periodic)
    tv, x = SplitTV(weight, rho=0.3, axes=axes, periodic=periodic), torch.zeros_like(A.adjoint(y))
    for _ in range(1500):
        x = tv.sweep(x, A.adjoint(y), A.normal, cg_iter=1)
    got = objective(A, y, x, weight, axes, periodic)
    assert float(got - expected) < 1e-6 * float(expected)
    assert float(expected - got) < 1e-6 * float(expected)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_its_normal_operator_is_that_of_finite_differences(n, periodic):
    x = torch.randn(2, n, 3, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    tv = SplitTV(weight=0.2, rho=0.7, axes=(-3, -1), periodic=periodic)
    expected = 1 + sum(
        0.7 * finite_difference_adjoint(finite_difference(x, axis, periodic), axis, periodic)
        for axis in tv.axes
    )
    torch.testing.assert_close(tv.add_normal(torch.ones_like(x), x), expected)


@pytest.mark.parametrize("periodic", [False, True])
def test_differences_and_their_adjoint(periodic):
    """<D a, b> = <a, D^H b>."""
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 3, 2, dtype=torch.complex128, generator=rng) for _ in range(2))
    for axis in (-3, -2, -1):
        left = torch.vdot(finite_difference(a, axis, periodic).flatten(), b.flatten())
        right = torch.vdot(a.flatten(), finite_difference_adjoint(b, axis, periodic).flatten())
        torch.testing.assert_close(left, right)


def test_differences_have_a_gradient():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: finite_difference(x, -1), x)


def test_a_constant_volume_is_a_fixed_point():
    x = torch.full((4, 2, 2), 0.7, dtype=torch.float64)
    tv = SplitTV(weight=0.3, rho=2.0, axes=(-3, -2, -1))
    for _ in range(3):
        torch.testing.assert_close(tv.sweep(x.clone(), x.clone(), torch.clone, 2), x)
