"""Nonlinear operators: closed forms, and derivatives against differences and torch's own."""

from __future__ import annotations

import pytest
import torch

from medinv.errors import ShapeError
from medinv.operators import Identity, Magnitude, TransmissionCounts
from tests.cases import DOUBLE, NONLINEAR, parallel
from tests.operators.test_operator_properties import close, noise

# Torch's own forward mode compiles a few decompositions at its first use, which it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

TABLE = [pytest.param(case, id=case.name) for case in NONLINEAR]
BATCHES = [(), (3,), (2, 1)]


@pytest.fixture(params=TABLE)
def operator(request):
    return request.param.make(DOUBLE)


def real_inner(a, b):
    """``Re <a, b>``: the inner product of torch's gradients."""
    return torch.vdot(a.flatten(), b.flatten()).real


@pytest.mark.parametrize("batch", BATCHES)
def test_jvp_is_the_limit_of_differences(operator, batch, rng):
    x, v = noise(operator.domain, batch, rng), noise(operator.domain, batch, rng)
    step = 1e-5
    difference = (operator(x + step * v) - operator(x - step * v)) / (2 * step)
    # The error of a central difference: step^2 f''' / 6 and rounding / step.
    close(operator.jvp(x, v), difference, 1e-6)


@pytest.mark.parametrize("batch", BATCHES)
def test_vjp_is_the_adjoint_of_jvp(operator, batch, rng):
    x, v = noise(operator.domain, batch, rng), noise(operator.domain, batch, rng)
    w = noise(operator.codomain, batch, rng)
    left, right = operator.jvp(x, v), operator.vjp(x, w)
    assert abs(real_inner(left, w) - real_inner(v, right)) <= 1e-12 * left.norm() * w.norm()


@pytest.mark.parametrize("batch", BATCHES)
def test_torch_differentiates_it_to_the_same(operator, batch, rng):
    x, v = noise(operator.domain, batch, rng), noise(operator.domain, batch, rng)
    w = noise(operator.codomain, batch, rng)
    y, tangent = torch.func.jvp(operator, (x,), (v,))
    close(y, operator(x), 1e-12)
    close(tangent, operator.jvp(x, v), 1e-10)
    close(torch.func.vjp(operator, x)[1](w)[0], operator.vjp(x, w), 1e-10)


def test_second_derivative_is_the_limit_of_differences(operator, rng):
    x, v = noise(operator.domain, (), rng), noise(operator.domain, (), rng)

    def gradient(x):
        return torch.func.grad(lambda x: operator(x).square().sum())(x)

    _, exact = torch.func.jvp(gradient, (x,), (v,))
    step = 1e-5
    close(exact, (gradient(x + step * v) - gradient(x - step * v)) / (2 * step), 1e-6)


def test_vmap_is_a_batch(operator, rng):
    x = noise(operator.domain, (3,), rng)
    close(torch.func.vmap(operator)(x), operator(x), 1e-12)


def test_linearization_solves_damped_least_squares(operator, rng):
    x, r = noise(operator.domain, (2,), rng), noise(operator.codomain, (2,), rng)
    J = operator.linearize(x)
    damping = J.norm() ** 2
    v = J.solve(r, damping=damping, tol=1e-10)
    close(J.normal(v) + damping * v, J.adjoint(r), 1e-8)


def test_a_linear_operator_is_its_own_linearization(rng):
    A = parallel()(DOUBLE)
    x, v = noise(A.domain, (2,), rng), noise(A.domain, (2,), rng)
    w = noise(A.codomain, (2,), rng)
    assert A.linearize(x) is A
    torch.testing.assert_close(A.jvp(x, v), A(v))
    torch.testing.assert_close(A.vjp(x, w), A.adjoint(w))


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_magnitude_has_a_finite_derivative_at_zero(smoothing):
    F = Magnitude(Identity((1, 2), torch.complex64), smoothing)
    x = torch.zeros(1, 2, dtype=torch.complex64, requires_grad=True)
    y = F(x)
    assert torch.equal(y, torch.full((1, 2), smoothing))
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    assert torch.equal(F.vjp(x.detach(), torch.ones(1, 2)), torch.zeros_like(x))


def test_magnitude_of_a_real_operator_keeps_the_sign():
    F = Magnitude(Identity((1, 2)))
    assert F.jvp(torch.tensor([[-2.0, 3.0]]), torch.ones(1, 2)).tolist() == [[-1, 1]]


def test_counts_follow_beer_and_lambert(rng):
    A = parallel()(DOUBLE)
    incident = 1e4 + 100 * torch.rand(A.codomain.shape, generator=rng, dtype=torch.float64)
    F = TransmissionCounts(A, incident, background=3.0)
    x = 0.02 * torch.rand(2, *A.domain.shape, generator=rng, dtype=torch.float64)
    close(-torch.log((F(x) - 3.0) / incident), A(x), 1e-10)
    assert torch.equal(F(torch.zeros(A.domain.shape, dtype=torch.float64)), incident + 3)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Magnitude(Identity((2, 2)), -1.0), "smoothing is -1.0; pass a number of at least 0"),
    (lambda: Magnitude(Identity((2, 2)), float("nan")), "smoothing is nan"),
    (lambda: TransmissionCounts(Identity((2, 2), torch.complex64), 1.0), "real line integrals"),
    (lambda: TransmissionCounts(Identity((2, 2)), torch.ones(3)), r"incident is \(3,\) but A"),
    (lambda: TransmissionCounts(Identity((2, 2)), float("inf")), "incident has NaN or infinite"),
    (lambda: TransmissionCounts(Identity((2, 2)), 0.0), "incident must be positive"),
    (lambda: TransmissionCounts(Identity((2, 2)), 1.0, -1.0), "background at least 0"),
])
def test_wrong_arguments(make, message):
    with pytest.raises(ShapeError, match=message):
        make()


def test_wrong_input_is_refused(operator):
    x = torch.zeros(operator.domain.shape)
    for method in (operator, operator.linearize):
        with pytest.raises(ShapeError, match=r"expected torch\.\w+, got torch\.float32; convert"):
            method(x)
