"""DMAP: steps towards the measurement on the sphere of the next level."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medinv.guidance import denoise_with_residual_gradient
from medinv.guidance.guided import Need
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, ddim_split, descend
from medinv.solvers.base import require, unit_vectors
from medinv.solvers.diffusion import Diffusion
from medinv.solvers.dps import vp_factor
from medinv.solvers.dsg import on_sphere


@dataclass(frozen=True)
class DMAP(Diffusion):
    """Rethinking diffusion posterior sampling (Xu et al., ICLR 2025, arXiv:2501.18913).

    **Reconstructed from the abstract**; no code was at hand. After an ancestral step ``x = mu + c
    n``, ``K`` times a gradient step on the measurement and back onto the sphere on which such
    steps concentrate, of radius ``c sqrt(m)`` around ``mu``:

        x <- x - step grad_x ||y - A D(x, sigma')||
        x <- mu + c sqrt(m) (x - mu) / ||x - mu||

    The paper calls what `DPS` does maximisation of the posterior, and does it on purpose. Its
    learned conditional score is not here.

    Args:
        steps: noise levels.
        K: gradient steps at each; the network is called, and backpropagated through, ``K`` times,
            and once without.
        zeta: step along the gradient, for 1000 steps of K = 1, as of `DPS`.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> DMAP(steps=50).K
        1
    """

    steps: int = 100
    K: int = 1
    zeta: float = 0.3
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(self.K >= 0, "DMAP: K", "at least 0", self.K)
        require(self.zeta >= 0, "DMAP: zeta", "a number of at least 0", self.zeta)

    @property
    def needs(self) -> frozenset[Need]:
        """The Jacobian; the operator may be nonlinear."""
        return frozenset({"jacobian"})

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)
        items, zeta = problem.batch_ndim, self.zeta * 1000 / self.steps

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D = prior(x, sigma)
            c_eps, c_noise = ddim_split(1.0, sigma, sigma_next)
            mu = x.sub_(D).mul_(c_eps / sigma).add_(D)
            if not c_noise:
                return mu, D
            n = on_sphere(run.noise(mu), mu, 0.0, items)
            for _i in range(self.K):
                x = mu + c_noise * n
                D, g = denoise_with_residual_gradient(prior, x, sigma_next, problem.y, problem.A)
                moved = n - zeta * vp_factor(sigma_next, sigma_next) / c_noise * g
                n = on_sphere(moved, unit_vectors(moved, items), 0.0, items)
            return mu.add_(n, alpha=c_noise), D

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(problem.empty_image()), step, run)
