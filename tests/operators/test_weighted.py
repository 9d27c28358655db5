"""Weighted least squares through solvers that know nothing of weights."""

from __future__ import annotations

import math

import pytest
import torch

from medinv.errors import ShapeError
from medinv.operators import CartesianMRI, ParallelBeam
from medinv.operators.noise import draw_counts, log_transform, statistical_weights
from medinv.operators.weighted import Weighted, whiten
from medinv.problem import Problem
from medinv.solvers import CGLS, TV

A = ParallelBeam((6, 6), torch.arange(12) * math.pi / 12, 1.0, dtype=torch.float64)


def weights_like(rng, *shape):
    return torch.rand(*shape, *A.codomain.shape, generator=rng, dtype=torch.float64) + 0.01


def dense(op):
    identity = torch.eye(36, dtype=torch.float64).reshape(36, 6, 6)
    return op(identity).flatten(1).T


def test_solvers_find_the_weighted_least_squares_solution(rng):
    W = weights_like(rng)
    y = torch.randn(A.codomain.shape, generator=rng, dtype=torch.float64)
    M, w = dense(A), W.flatten()
    expected = torch.linalg.solve(M.T @ (w[:, None] * M), M.T @ (w * y.flatten()))
    op, whitened = whiten(A, y, W)
    torch.testing.assert_close(CGLS(max_iter=100, tol=1e-12)(Problem(whitened, op)).flatten(),
                               expected)
    plain_tv = TV(0.0, max_iter=4000)(Problem(whitened, op)).flatten()
    torch.testing.assert_close(plain_tv, expected, rtol=1e-4, atol=1e-4)


def test_weights_of_one_are_no_weights(rng):
    x = torch.randn(3, 6, 6, generator=rng, dtype=torch.float64)
    op = Weighted(A, torch.ones(A.codomain.shape))
    torch.testing.assert_close(op(x), A(x))


def test_each_slice_has_its_own_weights(rng):
    W = weights_like(rng, 3)
    y = torch.randn(3, *A.codomain.shape, generator=rng, dtype=torch.float64)
    op, whitened = whiten(A, y, W)
    assert op.domain.shape == (3, 6, 6)
    adjoint = op.adjoint(whitened)
    for slice_, (y_k, W_k) in zip(adjoint, zip(y, W, strict=True), strict=True):
        torch.testing.assert_close(slice_, A.adjoint(W_k * y_k))


def test_weights_lower_the_variance_by_what_theory_says(rng):
    """One unknown seen by two rays of variance 1 and 9: variance 0.9 weighted, 2.5 plain."""
    ray = ParallelBeam((1, 1), torch.zeros(2), 1.0, n_cols=1, dtype=torch.float64)
    variances = torch.tensor([[1.0], [9.0]], dtype=torch.float64)
    n = 20_000
    noise = variances.sqrt() * torch.randn(n, 2, 1, generator=rng, dtype=torch.float64)
    y = 5 + noise
    plain = CGLS(max_iter=3)(Problem(y, ray)).flatten()
    weighted_op, whitened = whiten(ray, y, 1 / variances)
    weighted = CGLS(max_iter=3)(Problem(whitened, weighted_op)).flatten()
    spread = 5 * math.sqrt(2 / n)
    assert plain.var().item() == pytest.approx((1 + 9) / 4, rel=spread)
    assert weighted.var().item() == pytest.approx(1 / (1 + 1 / 9), rel=spread)
    assert weighted.mean().item() == pytest.approx(5, abs=5 * math.sqrt(0.9 / n))


def test_statistical_weights_reduce_the_noise_of_a_low_dose_scan(rng):
    beam = ParallelBeam((12, 12), torch.arange(30) * math.pi / 30, 1.0, dtype=torch.float64)
    truth = torch.full((12, 12), 0.2, dtype=torch.float64)
    truth[4:8, 4:8] = 0.6  # rays through the middle carry few photons
    counts = draw_counts(beam(truth).expand(200, -1, -1), 2000.0, rng)
    y = log_transform(counts / 2000, floor=0.5 / 2000)
    W = statistical_weights(2000 * torch.exp(-beam(truth)))
    op, whitened = whiten(beam, y, W)
    solver = CGLS(max_iter=200, tol=1e-8)
    plain, weighted = solver(Problem(y, beam)), solver(Problem(whitened, op))
    assert weighted.var(0).mean() < 0.9 * plain.var(0).mean()


def test_the_whitened_noise_is_white(rng):
    W = weights_like(rng)
    noise = torch.randn(20_000, *A.codomain.shape, generator=rng, dtype=torch.float64) / W.sqrt()
    _, whitened = whiten(A, noise, W)
    assert whitened.std().item() == pytest.approx(1, rel=5e-3)


def test_views_keep_their_weights(rng):
    W = weights_like(rng, 2)
    op = Weighted(A, W)
    x = torch.randn(2, 6, 6, generator=rng, dtype=torch.float64)
    index = torch.tensor([7, 1])
    torch.testing.assert_close(op.views(index)(x), op(x)[:, index])


@pytest.mark.parametrize(("weights", "message"), [
    (torch.ones(3), r"expected one weight per sample, \(\*batch, view 12, col 9\), got \(3,\)"),
    (torch.ones(A.codomain.shape, dtype=torch.int64), "weights are torch.int64; convert"),
    (-torch.ones(A.codomain.shape), "108 of 108 weights are negative or not finite"),
    (torch.full(A.codomain.shape, math.nan), "108 of 108 weights are negative or not finite"),
])
def test_wrong_weights_are_refused(weights, message):
    with pytest.raises(ShapeError, match=message):
        Weighted(A, weights)


def test_a_wrong_measurement_is_refused():
    with pytest.raises(ShapeError, match=r"whiten: y: expected .*got \(2, 9\)"):
        whiten(A, torch.ones(2, 9, dtype=torch.float64), torch.ones(A.codomain.shape))


def test_views_of_an_operator_without_views_are_refused():
    mri = CartesianMRI(torch.ones(1, 2, 2) + 0j, torch.ones(2, 2))
    op = Weighted(mri, torch.ones(1, 2, 2))
    with pytest.raises(ShapeError, match="CartesianMRI has no views"):
        op.views(torch.tensor([0]))
