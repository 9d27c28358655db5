"""DDIP and D3IP: test-time adaptation around any solver."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from medinv.guidance import Adaptation, AdaptedPrior
from medinv.guidance.guided import Need, Returns
from medinv.priors.base import Prior
from medinv.priors.own import check_prior
from medinv.problem import Problem
from medinv.samplers import OnStep, Run
from medinv.samplers.snapshots import Snapshots
from medinv.solvers.dds import DDS
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class DDIP(Diffusion):
    """Deep diffusion image prior (Chung and Ye, ECCV 2024, arXiv:2407.10641); D3IP on volumes.

    A wrapper on any diffusion solver: at each of its noise levels the prior first fits the
    measurement (`AdaptedPrior`), then the solver goes on with the adapted prior. One set of
    low-rank weights serves all slices of a volume; each volume of a batch has its own. The prior
    that is passed is never changed.

    The published code leaves dropout on while it adapts and samples, drops ``D`` and ``gamma``
    from the right-hand side of its data step, and measures noise that grows from slice to slice;
    here none of that happens.

    Args:
        solver: the solver to wrap.
        adaptation: how to adapt. With ``inner_steps=0`` the result is the solver's, to rounding.

    Example:
        >>> DDIP(DDS(steps=20), Adaptation(rank=8)).adaptation.rank
        8
    """

    solver: Diffusion = field(default_factory=DDS)
    adaptation: Adaptation = Adaptation()

    @property
    def needs(self) -> frozenset[Need]:
        """What the solver needs, a linear operator and a network."""
        return self.solver.needs | {"linear", "network"}

    @property
    def returns(self) -> Returns:
        """What the solver does; an adapted prior leans towards the likely."""
        return self.solver.returns

    @torch.no_grad()
    def __call__(self, problem: Problem, prior: Prior, *, rng: Generator | None = None,
                 on_step: OnStep | None = None, snapshots: Snapshots | None = None) -> Tensor:
        """Reconstruct, as `Diffusion` does; ``on_step`` is called for each volume of a batch."""
        check_prior(prior)
        self.check(problem)
        prior.check(problem.A)
        return self.solve(problem, prior, Run(rng, on_step, snapshots))

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x``, in physical units, volume by volume."""
        volumes = problem.batch_ndim - max(0, 3 - len(problem.A.domain.shape))
        if volumes <= 0:
            return self._one(problem, prior, run, 0)
        batch = problem.y.shape[:volumes]
        x = torch.stack([
            self._one(Problem(y, problem.A, problem.noise), prior, run, i)
            for i, y in enumerate(problem.y.reshape(-1, *problem.y.shape[volumes:]))
        ])
        return x.reshape(*batch, *x.shape[1:])

    def _one(self, problem: Problem, prior: Prior, run: Run, i: int) -> Tensor:
        """One volume; of a batch, those that are finished are known from before."""
        adapted = AdaptedPrior(prior, problem, self.adaptation, run.seed)
        if run.snapshots is None:
            return self.solver(problem, adapted, rng=run.rng, on_step=run.on_step)
        part = run.snapshots.part(f"volume-{i}")
        joined = part.joined_by(adapted)
        return part.finished("image", lambda: self.solver(
            problem, adapted, rng=run.rng, on_step=run.on_step, snapshots=joined), run.rng)
