"""Steerable conditional diffusion."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medinv.guidance import Adaptation, AdaptedPrior
from medinv.guidance.guided import Need
from medinv.priors.base import Prior
from medinv.priors.schedule import karras_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, ddim_split, descend
from medinv.solvers.base import require
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class SCD(Diffusion):
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

    @property
    def needs(self) -> frozenset[Need]:
        """A linear operator and a network."""
        return frozenset({"linear", "network"})

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x``, an image or one volume, in the prior's units.

        Raises:
            InputError: ``y`` is a batch of volumes.
        """
        A = problem.linear
        require(problem.batch_ndim <= max(0, 3 - len(A.domain.shape)), "SCD: y",
                "one image or volume, as each has its own adaptation", tuple(problem.y.shape))
        adapted = AdaptedPrior(prior, problem, self.adaptation, run.seed)
        levels = karras_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()

        def step(_: int, x_t: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            eps = (x_t - prior(x_t, sigma)).div_(sigma)
            T = adapted.refined(x_t, sigma)
            if not sigma_next:
                return x_t, T
            c_eps, c_noise = ddim_split(self.eta, sigma, sigma_next)
            return eps.mul_(c_eps).add_(T).add_(run.noise(T), alpha=c_noise), T

        x_t = descend(levels, levels[0] * run.noise(problem.empty_image()), step, run, adapted)
        D: Tensor = adapted(x_t, levels[-2])
        return D
