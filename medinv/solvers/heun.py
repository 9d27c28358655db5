"""Heun's method on the probability-flow ODE of a guided prior."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from medinv.guidance import Guidance, Guided, Peng
from medinv.guidance.guided import Need, Returns
from medinv.priors.base import Prior
from medinv.priors.schedule import karras_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, descend
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class Heun(Diffusion):
    """Heun's second-order method (Karras et al., NeurIPS 2022, arXiv:2206.00364, algorithm 1).

    On ``dx / dsigma = (x - D) / sigma`` with the posterior's denoiser ``D(x, sigma | y)``; the
    last step is Euler's. The start alone is random. With `Peng` these are that paper's samples
    (Peng et al., ICML 2024), at its 50 levels.

    Args:
        guidance: the posterior's denoiser from the prior's.
        steps: noise levels; the network is called twice at each but the last.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> Heun(Peng(), steps=18).sigma_max
        80.0
    """

    guidance: Guidance = field(default_factory=Peng)
    steps: int = 50
    sigma_max: float = 80.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        karras_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them

    @property
    def needs(self) -> frozenset[Need]:
        """What its guidance needs."""
        return self.guidance.needs

    @property
    def returns(self) -> Returns:
        """What its guidance makes of it."""
        return self.guidance.returns

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)
        posterior = Guided(prior, problem, self.guidance)

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D = posterior(x, sigma)
            slope = (x - D) / sigma
            predicted = x + (sigma_next - sigma) * slope
            if not sigma_next:
                return predicted, D
            slope_next = (predicted - posterior(predicted, sigma_next)) / sigma_next
            return x + (sigma_next - sigma) / 2 * (slope + slope_next), D

        levels = karras_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(problem.empty_image()), step, run)
