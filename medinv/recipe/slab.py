"""A few slices of a measurement, for trying things out."""

from __future__ import annotations

import torch

from medinv.priors import Prior
from medinv.problem import Problem


def slab(problem: Problem, n: int) -> Problem:
    """The ``n`` slices in the middle, or all if they can't be cut."""
    total = problem.n_slices
    return problem if total <= n else problem.part(_middle(total, n))


def prior_of_slab(prior: Prior, problem: Problem, n: int) -> Prior:
    """The prior of the slices that `slab` takes."""
    total = problem.n_slices
    if total <= n:
        return prior
    return prior.of_slices(torch.arange(total)[_middle(total, n)])


def _middle(total: int, n: int) -> slice:
    first = (total - n) // 2
    return slice(first, first + n)
