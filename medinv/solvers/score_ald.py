"""Score-ALD: annealed Langevin dynamics with an annealed likelihood."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medinv.guidance.guided import Need, Returns
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, descend
from medinv.solvers.base import item_norm, require, unit_vectors
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class ScoreALD(Diffusion):
    """Robust compressed sensing MRI with generative priors (Jalal et al., NeurIPS 2021).

    arXiv:2108.01368: at each level, ``inner_steps`` times,

        x <- x + h ((D - x) / sigma^2 + A^H (y - A x) / (s^2 + gamma^2)) + sqrt(2 h) n
        h  = step sigma^2,   gamma = gamma_ratio sigma

    with ``s`` the noise of y. The published code has no gamma: with ``norm_ratio`` the
    likelihood's gradient gets ``norm_ratio`` times the length of the prior's, so that the noise
    plays no role and the residual never vanishes; that is no posterior sampling. Each level's
    stationary law is that of the sum of both scores, with the variance inflated by
    ``1 / (1 - h / (2 v))``.

    Args:
        steps: noise levels.
        inner_steps: Langevin steps at each; the network is called ``steps inner_steps`` times.
        step: ``h / sigma^2``.
        gamma_ratio: added standard deviation of y, in units of sigma.
        norm_ratio: the published code's ratio of the gradients' lengths (5), None for the paper's.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> ScoreALD(steps=500).inner_steps
        3
    """

    steps: int = 300
    inner_steps: int = 3
    step: float = 0.2
    gamma_ratio: float = 1.0
    norm_ratio: float | None = None
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(self.inner_steps >= 1, "ScoreALD: inner_steps", "at least 1", self.inner_steps)
        require(0 < self.step <= 1, "ScoreALD: step", "0 < step <= 1", self.step)
        require(self.gamma_ratio > 0, "ScoreALD: gamma_ratio", "a positive number",
                self.gamma_ratio)
        require(self.norm_ratio is None or self.norm_ratio > 0, "ScoreALD: norm_ratio",
                "a positive number", self.norm_ratio)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing; the operator may be nonlinear."""
        return frozenset()

    @property
    def returns(self) -> Returns:
        """A sample, unless lengths are forced."""
        return "sample" if self.norm_ratio is None else "MAP-like"

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)

        def step(_: int, x: Tensor, sigma: float, __: float) -> tuple[Tensor, Tensor]:
            h = self.step * sigma**2
            for _i in range(self.inner_steps):
                D = prior(x, sigma)
                score = (D - x) / sigma**2
                score += self._likelihood(problem, x, score, sigma)
                x = x.add_(score, alpha=h).add_(run.noise(x), alpha=(2 * h) ** 0.5)
            return x, D

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(problem.empty_image()), step, run)

    def _likelihood(self, problem: Problem, x: Tensor, score: Tensor, sigma: float) -> Tensor:
        g = problem.A.linearize(x).adjoint(problem.y - problem.A(x))
        if self.norm_ratio is None:
            return g / (float(problem.noise_std) ** 2 + (self.gamma_ratio * sigma) ** 2)
        items = problem.batch_ndim
        return self.norm_ratio * item_norm(score, items) * unit_vectors(g, items)
