"""Operator algebra: what fits together, where it lives, how accurate its norm is."""

from __future__ import annotations

import pytest
import torch

from medinv.errors import InputError, ShapeError
from medinv.operators import Identity, Inpainting, Patches, SliceDownsampling, stack
from tests.cases import DOUBLE, mri, parallel
from tests.operators.test_operator_properties import close, noise


def masked(device="cpu"):
    return Inpainting(torch.ones(2, 3)).to(device)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: masked() @ Identity((3, 2)), r"A takes \(\*batch, y 2, x 3\) of torch.float32 but B"),
    (lambda: masked() @ Identity((2, 3), DOUBLE), r"B gives \(\*batch, y 2, x 3\) of torch.fl"),
    (lambda: masked() + Identity((2, 3), DOUBLE), "A is .* but B is .*build both for the same"),
    (lambda: stack([masked(), Identity((2, 2))]), "operator 0 is .* but operator 1 is"),
    (lambda: stack([]), "got no operator; pass at least one"),
    (lambda: 2j * masked(), r"a is 2j but A gives .*torch.float32; pass a real factor"),
])
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ShapeError, match=message):
        make()


@pytest.mark.parametrize("combine", [lambda a, b: a @ b, lambda a, b: a + b,
                                     lambda a, b: stack([a, b])])
def test_operators_on_two_devices_are_refused(combine):
    with pytest.raises(InputError, match=r'are on cpu and meta; move them to .*\.to\("meta"\)'):
        combine(masked(), masked("meta"))


def test_input_on_another_device_is_refused():
    x = torch.zeros(2, 3, device="meta")
    message = r'operator is on cpu but its input on meta; .*operator\.to\("meta"\) or x\.to\("cpu"'
    for method in (masked(), masked().adjoint, masked().normal, masked().H, masked() @ masked()):
        with pytest.raises(InputError, match=message):
            method(x)


@pytest.mark.parametrize("make", [
    masked,
    lambda device: SliceDownsampling((4, 2, 2), 2).to(device),
    lambda device: stack([masked(device), 2.0 * masked(device)]) @ masked(device),
    lambda device: masked(device) + Identity((2, 3)),
    lambda device: Patches((4, 4), (2, 2), (1, 1)).to(device),
])
def test_an_operator_moves_as_a_module_does(make):
    A = make("meta")
    x = torch.zeros(5, *A.domain.shape, device="meta")
    assert A(x).device == A.adjoint(A(x)).device == A.normal(x).device == x.device
    assert A(x).shape == (5, *A.codomain.shape)


def test_integers_are_refused_with_the_fix():
    with pytest.raises(ShapeError, match=r"got torch.int64; convert with .to\(torch.float32\)"):
        masked()(torch.zeros(2, 3, dtype=torch.int64))


def test_norm_of_a_clustered_spectrum():
    """Random sampling leaves many singular values near the largest: the hard case."""
    A = mri((3, 24, 24), (24, 24))(DOUBLE)
    x = torch.eye(24 * 24, dtype=A.domain.dtype).reshape(-1, 24, 24)
    matrix = A.normal(x).flatten(1)
    expected = float(torch.linalg.eigvalsh(matrix)[-1]) ** 0.5
    assert expected * (1 - 1e-3) <= A.norm() <= expected * (1 + 1e-12)


def test_solve_under_vmap_and_grad(rng):
    A = parallel()(DOUBLE)
    y = noise(A.codomain, (3,), rng)
    damping = 0.1 * A.norm() ** 2

    def solve(y):
        return A.solve(y, damping=damping, tol=1e-12, max_iter=200)

    close(torch.func.vmap(solve)(y), solve(y), 1e-9)
    gradient = torch.func.grad(lambda y: solve(y).square().sum() / 2)
    close(torch.func.vmap(gradient)(y), gradient(y), 1e-8)


def test_solve_starts_anywhere(rng):
    A = parallel()(DOUBLE)
    y, start = noise(A.codomain, (3,), rng), noise(A.domain, (), rng)
    damping = 0.1 * A.norm() ** 2
    expected = A.solve(y, damping=damping, tol=1e-12, max_iter=200)

    def solve(y, start):
        return A.solve(y, damping=damping, x0=start, tol=1e-12, max_iter=200)

    close(solve(y, start), expected, 1e-9)
    close(torch.func.vmap(solve, in_dims=(0, None))(y, start), expected, 1e-9)
