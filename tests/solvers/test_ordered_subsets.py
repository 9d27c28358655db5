"""SART and OSEM: consistent systems, the likelihood's optimality, subsets of views."""

from __future__ import annotations

import math

import pytest
import torch
from matrix_operator import random_image, random_operator

from medinv.errors import InputError
from medinv.operators import FanBeam, ParallelBeam
from medinv.operators.weighted import whiten
from medinv.problem import Problem
from medinv.solvers import OSEM, SART, SIRT
from tests.operators.ct_objects import disc_image

PARALLEL = ParallelBeam((4, 4), torch.arange(9) * math.pi / 9 + 0.1, 1.0, dtype=torch.float64)
FAN = FanBeam((4, 4), torch.arange(9) * math.tau / 9 + 0.1, 1.0, 40.0, 30.0, 12, 1.0,
              dtype=torch.float64)
BEAMS = pytest.mark.parametrize("A", [PARALLEL, FAN], ids=["parallel", "fan"])
SOLVERS = pytest.mark.parametrize("solver", [
    SART(max_iter=4), SART(max_iter=4, subsets=3, nonnegative=True), OSEM(max_iter=4, subsets=3),
], ids=repr)


def activity(*batch):
    rng = torch.Generator().manual_seed(1)
    return 1 + torch.rand(*batch, 4, 4, dtype=torch.float64, generator=rng)


@BEAMS
@pytest.mark.parametrize("subsets", [None, 4])
def test_sart_solves_consistent_data(A, subsets):
    truth = activity()
    x = SART(max_iter=300, relaxation=1.5, subsets=subsets)(Problem(A(truth), A))
    torch.testing.assert_close(x, truth, rtol=0, atol=1e-2)


def test_more_subsets_go_faster():
    A = ParallelBeam((24, 24), torch.arange(32) * math.pi / 32, 1.0, dtype=torch.float64)
    truth = disc_image((24, 24), 1.0, 3.0, -2.0, 7.0, 1.0).double() + 0.1
    y = A(truth)

    def error(solver):
        return float((solver(Problem(y, A)) - truth).norm())

    assert error(SART(max_iter=5)) < 0.7 * error(SIRT(max_iter=5))
    errors = [error(OSEM(max_iter=5, subsets=n)) for n in (1, 4, 8)]
    assert errors[0] > errors[1] > errors[2]


def test_sart_with_one_subset_is_sirt():
    y = PARALLEL(activity())
    torch.testing.assert_close(SART(max_iter=7, relaxation=0.8, subsets=1)(Problem(y, PARALLEL)),
                               SIRT(max_iter=7, relaxation=0.8)(Problem(y, PARALLEL)))


def test_sart_takes_weights():
    truth = activity()
    rng = torch.Generator().manual_seed(0)
    weights = 0.5 + torch.rand(PARALLEL.codomain.shape, generator=rng)
    A, y = whiten(PARALLEL, PARALLEL(truth), weights)
    torch.testing.assert_close(SART(max_iter=300, relaxation=1.5)(Problem(y, A)), truth, rtol=0,
                               atol=1e-2)


@BEAMS
@pytest.mark.parametrize("background", [0.0, 3.0])
def test_osem_with_one_subset_satisfies_the_likelihoods_optimality_conditions(A, background):
    rng = torch.Generator().manual_seed(0)
    y = torch.poisson(5 * A(activity()) + background, generator=rng)
    x = OSEM(max_iter=4000, background=background)(Problem(y, A))
    gradient = A.adjoint(1 - torch.where(y > 0, y / (A(x) + background), 0.0))
    scale = A.adjoint(torch.ones_like(y)).max()
    assert (x >= 0).all()
    assert (gradient > -1e-4 * scale).all()
    assert ((x * gradient).abs() < 1e-3 * scale).all()


def test_em_raises_the_likelihood_in_every_step_and_keeps_the_counts():
    rng = torch.Generator().manual_seed(0)
    y = torch.poisson(5 * PARALLEL(activity()), generator=rng)
    likelihood, counts = [], []

    def on_step(_, x):
        expected = PARALLEL(x)
        seen = expected > 0
        likelihood.append(float((y[seen] * expected[seen].log() - expected[seen]).sum()))
        counts.append(float(expected.sum()))

    OSEM(max_iter=30)(Problem(y, PARALLEL), on_step=on_step)
    assert all(b > a for a, b in zip(likelihood, likelihood[1:], strict=False))
    seen = PARALLEL(torch.ones(4, 4, dtype=torch.float64)) > 0
    assert counts == pytest.approx([float(y[seen].sum())] * 30)


@SOLVERS
def test_items_of_a_batch_do_not_influence_each_other(solver):
    y = PARALLEL(activity(2, 3))
    y[0, 1], y[1, 2] = 1000 * y[0, 1], 0
    together = solver(Problem(y, PARALLEL))
    for index in [(0, 0), (0, 1), (1, 2)]:
        torch.testing.assert_close(together[index], solver(Problem(y[index], PARALLEL)))


@SOLVERS
def test_every_pass_is_reported(solver):
    steps = []
    x = solver(Problem(PARALLEL(activity()), PARALLEL), on_step=lambda i, x: steps.append((i, x)))
    assert [i for i, _ in steps] == [0, 1, 2, 3]
    assert torch.equal(steps[-1][1], x)


@SOLVERS
def test_unfit_operators_and_data_are_refused(solver):
    name = type(solver).__name__
    with pytest.raises(InputError, match=f"{name}: expected an operator with views"):
        solver(Problem(random_image((12,)).abs(), random_operator(12, (4, 4))))
    y = PARALLEL(activity())
    y[0, 0] = math.nan
    with pytest.raises(InputError, match="1 NaN or Inf"):
        solver(Problem(y, PARALLEL))


def test_more_subsets_than_views_are_refused():
    with pytest.raises(InputError, match="SART: subsets: expected at most 9, .* got 15"):
        SART(subsets=15)(Problem(PARALLEL(activity()), PARALLEL))


def test_negative_counts_are_refused():
    with pytest.raises(InputError, match=r"OSEM: y: expected counts >= 0, got -"):
        OSEM()(Problem(-PARALLEL(activity()), PARALLEL))


@BEAMS
@SOLVERS
def test_an_empty_batch_stays_empty(A, solver):
    assert solver(Problem(torch.zeros(0, *A.codomain.shape, dtype=torch.float64),
                          A)).shape == (0, 4, 4)
