"""What every operator of the table must do."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.autograd import forward_ad

from medinv.operators import linalg
from tests.cases import DOUBLE, OPERATORS, SINGLE

# Torch's own forward mode compiles a few decompositions at its first use, which it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

# Rounding of a few hundred terms: about 50 units in the last place.
TOLERANCE = {SINGLE: 1e-5, DOUBLE: 1e-10}

TABLE = [pytest.param((case, dtype), id=f"{case.name}-{str(dtype)[-2:]}")
         for case in OPERATORS for dtype in case.dtypes]
BATCHES = [(), (3,), (2, 1)]


@pytest.fixture(params=TABLE)
def operator(request):
    case, dtype = request.param
    return case.make(dtype)


@pytest.fixture
def tolerance(operator):
    return TOLERANCE[operator.domain.dtype.to_real()]


def noise(space, batch, rng):
    return linalg.standard_normal(torch.empty(*batch, *space.shape, dtype=space.dtype), rng)


def inner(a, b):
    return torch.vdot(a.flatten(), b.flatten())


def close(a, b, tolerance):
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    scale = max(float(b.abs().max()), 1e-30)
    assert float((a - b).abs().max()) <= tolerance * scale


@pytest.mark.parametrize("batch", BATCHES)
def test_adjoint(operator, tolerance, batch, rng):
    x, y = noise(operator.domain, batch, rng), noise(operator.codomain, batch, rng)
    forward, adjoint = operator(x), operator.adjoint(y)
    assert forward.shape == y.shape
    assert adjoint.shape == x.shape
    assert (forward.dtype, adjoint.dtype) == (y.dtype, x.dtype)
    difference = inner(forward, y) - inner(x, adjoint)
    if not operator.domain.dtype.is_complex:
        difference = difference.real  # the inner product of real spaces
    assert abs(difference) <= tolerance * forward.norm() * y.norm()


@pytest.mark.parametrize("batch", BATCHES)
def test_normal_is_adjoint_of_forward(operator, tolerance, batch, rng):
    x = noise(operator.domain, batch, rng)
    close(operator.normal(x), operator.adjoint(operator(x)), tolerance)


def test_linear(operator, tolerance, rng):
    x, z = noise(operator.domain, (2,), rng), noise(operator.domain, (2,), rng)
    close(operator(2.5 * x - z), 2.5 * operator(x) - operator(z), tolerance)


def test_gradient_is_adjoint(operator, tolerance, rng):
    x = noise(operator.domain, (2,), rng).requires_grad_()
    y = noise(operator.codomain, (2,), rng)
    torch.autograd.backward(operator(x), y)
    close(x.grad, operator.adjoint(y), tolerance)


def test_gradient_of_adjoint_is_forward(operator, tolerance, rng):
    x = noise(operator.domain, (2,), rng)
    y = noise(operator.codomain, (2,), rng).requires_grad_()
    torch.autograd.backward(operator.adjoint(y), x)
    close(y.grad, operator(x), tolerance)


def test_gradient_of_normal_is_normal(operator, tolerance, rng):
    x = noise(operator.domain, (), rng).requires_grad_()
    z = noise(operator.domain, (), rng)
    torch.autograd.backward(operator.normal(x), z)
    close(x.grad, operator.normal(z), tolerance)


def test_forward_mode_is_forward(operator, tolerance, rng):
    x, v = noise(operator.domain, (2,), rng), noise(operator.domain, (2,), rng)
    y = noise(operator.codomain, (2,), rng)
    primal, tangent = torch.func.jvp(operator, (x,), (v,))
    close(primal, operator(x), tolerance)
    close(tangent, operator(v), tolerance)
    with forward_ad.dual_level():
        dual = operator.adjoint(forward_ad.make_dual(y, operator(v)))
        close(forward_ad.unpack_dual(dual).tangent, operator.adjoint(operator(v)), tolerance)


def test_double_backward(operator, tolerance, rng):
    x = noise(operator.domain, (2,), rng).requires_grad_()
    y = noise(operator.codomain, (2,), rng).requires_grad_()
    (gradient,) = torch.autograd.grad(operator(x), x, y, create_graph=True)
    z = noise(operator.domain, (2,), rng)
    (second,) = torch.autograd.grad(gradient, y, z)
    close(second, operator(z), tolerance)


def test_gradient_of_a_misfit(operator, tolerance, rng):
    x, v = noise(operator.domain, (2,), rng), noise(operator.domain, (2,), rng)
    y = noise(operator.codomain, (2,), rng)

    def misfit(x, y):
        return (operator(x) - y).abs().square().sum() / 2

    gradient = torch.func.grad(misfit)
    close(gradient(x, y), operator.adjoint(operator(x) - y), 2 * tolerance)
    close(torch.func.vmap(gradient)(x, y), gradient(x, y), 2 * tolerance)
    _, curvature = torch.func.jvp(lambda x: gradient(x, y), (x,), (v,))
    close(curvature, operator.normal(v), 2 * tolerance)


def test_vmap_is_a_batch(operator, tolerance, rng):
    x, y = noise(operator.domain, (3, 2), rng), noise(operator.codomain, (3, 2), rng)
    close(torch.func.vmap(operator)(x), operator(x), tolerance)
    close(torch.func.vmap(operator.adjoint, in_dims=1, out_dims=1)(y), operator.adjoint(y),
          tolerance)
    close(torch.func.vmap(torch.func.vmap(operator.normal))(x), operator.normal(x), tolerance)


def test_items_do_not_influence_each_other(operator, tolerance, rng):
    x, y = noise(operator.domain, (3,), rng), noise(operator.codomain, (3,), rng)
    close(operator(x)[1], operator(x[1]), tolerance)
    close(operator.adjoint(y)[1], operator.adjoint(y[1]), tolerance)
    close(operator.normal(x)[1], operator.normal(x[1]), tolerance)


def test_input_is_not_modified(operator, rng):
    x, y = noise(operator.domain, (2,), rng), noise(operator.codomain, (2,), rng)
    before = x.clone(), y.clone()
    operator(x), operator.adjoint(y), operator.normal(x)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_input_may_be_any_view(operator, tolerance, rng):
    x = noise(operator.domain, (2,), rng)
    strided = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    close(operator(strided), operator(x), tolerance)
    close(operator.normal(strided), operator.normal(x), tolerance)


@pytest.mark.parametrize("duplicate", [lambda a: pickle.loads(pickle.dumps(a)), copy.deepcopy],
                         ids=["pickle", "deepcopy"])
def test_copies_are_equal(operator, duplicate, rng):
    x = noise(operator.domain, (2,), rng)
    expected = operator(x)
    assert torch.equal(duplicate(operator)(x), expected)


def test_norm_bounds_the_gain(operator, tolerance, rng):
    x = noise(operator.domain, (), rng)
    # Power iteration stops at a relative change of 1e-4, so it may be a little low.
    assert operator(x).norm() <= operator.norm() * x.norm() * 1.01
    assert operator.normalized().norm() == pytest.approx(1, rel=1e-6)
    assert operator.H.norm() == pytest.approx(operator.norm(), rel=1e-2)


def test_solve_inverts_the_damped_normal(operator, tolerance, rng):
    y = noise(operator.codomain, (2,), rng)
    damping = 0.5 * operator.norm() ** 2
    x = operator.solve(y, damping=damping, tol=tolerance, max_iter=200)
    close(operator.normal(x) + damping * x, operator.adjoint(y), 20 * tolerance)


def test_an_empty_batch_stays_empty(operator):
    A, space = operator, operator.codomain
    x = torch.zeros(0, *A.domain.shape, dtype=A.domain.dtype)
    y = torch.zeros(0, *space.shape, dtype=space.dtype)
    assert A(x).shape == y.shape
    assert A.adjoint(y).shape == A.normal(x).shape == x.shape


def test_wrong_shape_and_dtype_are_refused(operator):
    x = torch.zeros(operator.domain.shape, dtype=operator.domain.dtype)
    with pytest.raises(ValueError, match=r"expected \(\*batch.*crop or reorder the input"):
        operator(torch.cat([x, x], -1))
    with pytest.raises(ValueError, match=r"adjoint: expected torch\.\w+, got torch.int64"):
        operator.adjoint(torch.zeros(operator.codomain.shape, dtype=torch.int64))
