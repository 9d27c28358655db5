"""DDIP and D3IP: test-time adaptation around any solver."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from medinv.guidance import Adaptation, AdaptedPrior
from medinv.operators.base import LinearOperator
from medinv.priors.base import Prior
from medinv.priors.own import check_prior
from medinv.solvers.base import DiffusionSolver, OnStep, check_measurement
from medinv.solvers.dds import DDS
from medinv.solvers.snapshots import Snapshots


@dataclass(frozen=True)
class DDIP:
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

    solver: DiffusionSolver = field(default_factory=DDS)
    adaptation: Adaptation = Adaptation()

    @torch.no_grad()
    def __call__(self, y: Tensor, A: LinearOperator, prior: Prior, *,
                 rng: Generator | None = None, on_step: OnStep | None = None,
                 snapshots: Snapshots | None = None) -> Tensor:
        """Reconstruct ``x`` (*batch, *A.domain.shape), in physical units.

        Args:
            y: measurement (*batch, *A.codomain.shape), in physical units.
            A: its operator.
            prior: a prior with a network inside.
            rng: source of the noise; adaptation draws from its seed.
            on_step: the solver's, called for each volume of a batch.
            snapshots: where the unfinished state is kept, and continued from.
        """
        check_prior(prior)
        check_measurement(y, A)
        prior.check(A)
        seed = torch.initial_seed() if rng is None else rng.initial_seed()
        volumes = A.codomain.batch_ndim(y) - max(0, 3 - len(A.domain.shape))
        items = y.reshape(-1, *y.shape[max(volumes, 0):]) if volumes > 0 else y[None]
        x = torch.stack([
            self._one(item, A, AdaptedPrior(prior, item, A, self.adaptation, seed), rng, on_step,
                      None if snapshots is None else snapshots.part(f"volume-{i}"))
            for i, item in enumerate(items)
        ])
        return x.reshape(*y.shape[:volumes], *x.shape[1:]) if volumes > 0 else x[0]

    def _one(self, y: Tensor, A: LinearOperator, adapted: AdaptedPrior, rng: Generator | None,
             on_step: OnStep | None, snapshots: Snapshots | None) -> Tensor:
        """One volume; of a batch, those that are finished are known from before."""
        if snapshots is None:
            return self.solver(y, A, adapted, rng=rng, on_step=on_step)
        joined = snapshots.joined_by(adapted)
        return snapshots.finished("image", lambda: self.solver(
            y, A, adapted, rng=rng, on_step=on_step, snapshots=joined), rng)
