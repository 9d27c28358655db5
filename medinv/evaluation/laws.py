"""The exact law of a method's result, where it is affine in its random numbers.

With a Gaussian prior most methods are: every step is an affine map of the image and of fresh
noise, so the image stays Gaussian, and its mean and covariance can be carried along instead of
samples: one item of a batch is the mean, ``n`` items are the mean plus a column of a factor of the
covariance each, and ``n`` more for each draw of a step get one impulse each in the place of random
numbers. No Monte Carlo is needed. Methods that divide by norms are not affine, and their laws are
sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from medinv.priors.base import Prior
from medinv.problem import Problem
from medinv.samplers import Run


@dataclass(frozen=True, eq=False)
class Law:
    """Mean and covariance over the real components of an item, ``(n,)`` and ``(n, n)``."""

    mean: Tensor
    covariance: Tensor


@runtime_checkable
class Solves(Protocol):
    """A method, without its call (see `medinv.solvers.Diffusion`)."""

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""


@torch.no_grad()
def affine_law(solver: Solves, problem: Problem, prior: Prior, draws: int = 3) -> Law:
    """The law of the result for one item.

    Args:
        solver: affine in its random numbers, with a loop that is `descend`.
        problem: of one item, in the prior's units, which are physical here.
        prior: Gaussian.
        draws: most random images that a step draws.

    Example:
        >>> from medinv.operators import Identity
        >>> from medinv.priors import GaussianPrior
        >>> from medinv.solvers import DDIM
        >>> problem = Problem(torch.ones(1), Identity((1,)), noise_std=1.0)
        >>> law = affine_law(DDIM(), problem, GaussianPrior(torch.zeros(1), torch.eye(1)))
        >>> law.mean.round(decimals=2)
        tensor([0.5000])
    """
    n = _real(problem.empty_image()).numel()
    y = problem.y.expand(1 + n * (1 + draws), *problem.y.shape)
    run = _Impulses(n)
    x = solver.solve(Problem(y, problem.A, problem.noise), prior, run)
    flat = _real(x).reshape(len(x), n)
    columns = flat[1:] - flat[0]
    return Law(flat[0], columns.mT @ columns)


class _Impulses(Run):
    """Impulses in the place of random numbers, folded into the factor before each step."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.__dict__.update(n=n, draws=0)

    n: int
    draws: int

    def noise(self, like: Tensor, *, shared_axis: int | None = None) -> Tensor:  # noqa: ARG002
        """Zeros, but for the items whose impulse this draw is."""
        noise = torch.zeros_like(like)
        components = _real(noise).reshape(len(noise), -1)
        first, k = 1 + self.n * (1 + self.draws), components.shape[1]  # of y, k <= n
        components[first : first + k] = torch.eye(k, dtype=components.dtype)
        self.__dict__["draws"] += 1
        return noise

    def carry(self, x: Tensor) -> Tensor:
        """The mean, with a factor of the covariance in ``n`` items, and none in the others."""
        flat = _real(x).reshape(len(x), self.n)
        mean = flat[0].clone()
        columns = flat[1:] - mean
        values, vectors = torch.linalg.eigh(columns.mT @ columns)
        flat[:] = mean
        flat[1 : 1 + self.n] += (vectors * values.clamp(min=0).sqrt()).mT
        self.__dict__["draws"] = 0
        return x


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
