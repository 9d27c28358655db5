"""What every method with a diffusion prior shares: its call, and what it says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

from medinv.errors import InputError
from medinv.guidance.guided import Need, Returns
from medinv.operators.base import LinearOperator
from medinv.priors.base import Prior
from medinv.priors.own import check_prior
from medinv.problem import Problem
from medinv.samplers import OnStep, Run
from medinv.samplers.snapshots import Snapshots


class Diffusion(ABC):
    """A method that needs a prior: subclasses are frozen dataclasses of its settings.

    What it declares replaces knowing its name: plans, tables and messages ask it.
    """

    @property
    def needs(self) -> frozenset[Need]:
        """What it asks of problem and prior."""
        return frozenset({"linear"})

    @property
    def returns(self) -> Returns:
        """What its result is, as steps grow."""
        return "MAP-like"

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: Prior, *, rng: Generator | None = None,
                 on_step: OnStep | None = None, snapshots: Snapshots | None = None) -> Tensor:
        """Reconstruct ``x`` (*batch, *A.domain.shape), in physical units.

        Args:
            problem: what was measured, in physical units.
            prior: a denoiser of images, real or complex as ``A.domain``; of slices or volumes.
            rng: source of the noise; the same seed gives the same result.
            on_step: called with the step's number and its estimate of ``x``.
            snapshots: where the unfinished state is kept, and continued from.

        Raises:
            InputError: the problem is not what the method needs.
            CheckpointError: the prior describes other images than ``A`` acts on.
        """
        check_prior(prior)
        self.check(problem)
        prior.check(problem.A)
        unit = prior.scale.estimate(problem.y, problem.A)
        return self.solve(problem, prior, Run(rng, on_step, snapshots, unit)).mul_(unit)

    @abstractmethod
    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units, of ``problem`` in physical ones; ``run.unit`` tells them."""

    def check(self, problem: Problem) -> None:
        """Raise `InputError` where the problem is not what the method needs."""
        name = type(self).__name__
        if "linear" in self.needs and not isinstance(problem.A, LinearOperator):
            raise InputError(
                f"{name}: expected a linear operator, got {type(problem.A).__name__}; take a "
                "method for nonlinear ones, as DPS (`medinv solvers` lists them)")
        std = problem.noise_std
        if "noise" in self.needs and not bool((torch.as_tensor(std) > 0).all()):
            raise InputError(f"{name}: expected the noise of y, got {std}; pass "
                             "Problem(y, A, noise_std=...)")
