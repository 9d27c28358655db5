"""Steerable conditional diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Generator, Tensor

from medinv.guidance import Adaptation, AdaptedPrior
from medinv.operators.base import LinearOperator
from medinv.priors.base import Prior
from medinv.priors.schedule import karras_sigmas
from medinv.samplers import ddim_split, gaussian_like
from medinv.solvers.base import OnStep, require, scales
from medinv.solvers.snapshots import Resumable, Snapshots


@dataclass(frozen=True)
class SCD:
    """Steerable conditional diffusion (Barbano et al., IEEE TMI 2025, arXiv:2308.14409).

    As `DDIP`, low-rank weights fit the measurement along the way, but the noise that carries the
    image to the next level is predicted by the prior as it was:

        eps = (x_t - D_frozen) / sigma
        T   = conjugate gradients on the data from D_adapted        (after adapting)
        x_t = T + c_eps eps + c_noise n                              (DDIM's rule)

    The result is the last ``D_adapted``. The published documentation names the rank ``K`` and the
    number of steps ``r``; its code means them the other way round.

    Args:
        steps: noise levels; the frozen and the adapted network are called once each.
        adaptation: how to adapt; every 20th of 100 levels by default, with one optimiser.
        eta: share of fresh noise in DDIM's rule.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> SCD(steps=20).eta
        0.2
    """

    steps: int = 100
    adaptation: Adaptation = Adaptation(
        rank=8, biases=False, learning_rate=1e-4, inner_steps=12, cg_iter=3, tv_weight=1e-6,
        every=20, fresh_optimizer=False)
    eta: float = 0.2
    sigma_max: float = 10.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        karras_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(0 <= self.eta <= 1, "SCD: eta", "0 <= eta <= 1", self.eta)

    @torch.no_grad()
    def __call__(self, y: Tensor, A: LinearOperator, prior: Prior, *,
                 rng: Generator | None = None, on_step: OnStep | None = None,
                 snapshots: Snapshots | None = None) -> Tensor:
        """Reconstruct ``x``, an image or one volume, in physical units.

        Args:
            y: measurement ``(*A.codomain.shape)``, or one per slice ``(z, *A.codomain.shape)``.
            A: its operator.
            prior: a prior with a network inside; it is not changed.
            rng: source of the noise; adaptation draws from its seed.
            on_step: called with the step's number and its estimate ``T``.
            snapshots: where the unfinished state is kept, and continued from.

        Raises:
            InputError: ``y`` is a batch of volumes.
        """
        scale, _ = scales(y, A, prior)
        require(A.codomain.batch_ndim(y) <= max(0, 3 - len(A.domain.shape)), "SCD: y",
                "one image or volume, as each has its own adaptation", tuple(y.shape))
        seed = torch.initial_seed() if rng is None else rng.initial_seed()
        adapted = AdaptedPrior(prior, y, A, self.adaptation, seed)

        levels = karras_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        x_t: Tensor = levels[0] * gaussian_like(A.adjoint(y), rng)
        loop = Resumable(snapshots, rng, adapted)
        first, x_t = loop.restore(x_t)
        for i, (sigma, sigma_next) in enumerate(pairwise(levels[first:]), first):
            eps = (x_t - prior(x_t, sigma)).div_(sigma)
            T = adapted.refined(x_t, sigma)
            if on_step is not None:
                on_step(i, scale * T)
            if not sigma_next:
                break
            c_eps, c_noise = ddim_split(self.eta, sigma, sigma_next)
            x_t = eps.mul_(c_eps).add_(T).add_(gaussian_like(T, rng), alpha=c_noise)
            loop.offer(i + 1, x_t)
        D: Tensor = adapted(x_t, levels[-2])
        return D.mul_(scale)
