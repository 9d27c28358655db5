"""DPPS: the best of several draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.guidance import denoise_with_residual_gradient
from medinv.guidance.guided import Need
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, ddim_split, descend
from medinv.solvers.base import item_norm, require
from medinv.solvers.diffusion import Diffusion
from medinv.solvers.dps import vp_factor


@dataclass(frozen=True)
class DPPS(Diffusion):
    """Diffusion posterior proximal sampling (Wu et al., ACM MM 2024, arXiv:2402.16907).

    As `DPS`, but of several draws of each step's noise the one is kept whose image explains the
    measurement best:

        x_i = mu + c n_i ,  i = 1 ... n       mu: ancestral mean - step grad ||y - A D||
        x_t = the x_i of least ||y - A (x_i - sigma' eps)||
        n   = max(2, most (1 - exp(-1 / sigma^2)))        at most ``most``

    ``most = 1`` is `DPS`. The more draws, the less variance is left in the range of ``A``. The
    published start, a noised ``A^+ y``, is left out.

    Args:
        steps: noise levels; the network is called, and backpropagated through, once at each.
        zeta: as of `DPS`.
        most: largest number of draws of a step.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> DPPS(steps=100).most
        50
    """

    steps: int = 1000
    zeta: float = 0.3
    most: int = 50
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(self.zeta >= 0, "DPPS: zeta", "a number of at least 0", self.zeta)
        require(self.most >= 1, "DPPS: most", "at least 1", self.most)

    @property
    def needs(self) -> frozenset[Need]:
        """A linear operator and the Jacobian."""
        return frozenset({"linear", "jacobian"})

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)
        zeta = self.zeta * 1000 / self.steps

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D, g = denoise_with_residual_gradient(prior, x, sigma, problem.y, problem.A)
            c_eps, c_noise = ddim_split(1.0, sigma, sigma_next)
            eps = (x - D) / sigma
            mu = D + c_eps * eps - zeta * vp_factor(sigma, sigma_next) * g
            if not c_noise:
                return mu, D
            return self._best(problem, mu, sigma_next * eps, sigma, c_noise, run), D

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(problem.empty_image()), step, run)

    def draws(self, sigma: float) -> int:
        """How many at this level."""
        return min(self.most, max(2, math.floor(-self.most * math.expm1(-1 / sigma**2))))

    def _best(self, problem: Problem, mu: Tensor, noise: Tensor, sigma: float, c: float,
              run: Run) -> Tensor:
        """Of the candidates the one that explains ``y`` best, item by item."""
        items = problem.batch_ndim
        best, least = mu, mu.real.new_full(mu.shape[:items] + (1,) * (mu.ndim - items), torch.inf)
        for _ in range(self.draws(sigma)):
            x = mu + c * run.noise(mu)
            residual = item_norm(problem.y - problem.A(x - noise), items).reshape(least.shape)
            best = torch.where(residual < least, x, best)
            least = torch.minimum(residual, least)
        return best
