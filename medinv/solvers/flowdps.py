"""FlowDPS: posterior sampling along a flow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medinv.guidance.guided import Need, Returns
from medinv.operators.linalg import cg
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, descend
from medinv.solvers.base import require
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class FlowDPS(Diffusion):
    """Flow-driven posterior sampling (Kim et al., ICCV 2025, arXiv:2503.08136).

    A flow's ``x_t = (1 - t) x0 + t n`` is ``x = x0 + sigma n`` scaled, with ``t = sigma / (1 +
    sigma)``. With the denoised ``D`` and the noise estimate ``eps``, here in the VE coordinate:

        D_y = argmin gamma ||y - A x||^2 + ||x - D||^2
        x   = (1 - t) D + t D_y + sigma' (sqrt(t') eps + sqrt(1 - t') n)

    The published code takes three gradient steps on the norm of the residual for ``D_y``, through
    the decoder of a latent model. Half of an unmeasured direction's variance is lost as steps
    grow, slowly.

    Args:
        steps: noise levels; the network is called once at each.
        gamma: weight of the data.
        cg_iter: conjugate gradient steps to ``D_y``.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> FlowDPS().steps
        28
    """

    steps: int = 28
    gamma: float = 10.0
    cg_iter: int = 5
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(self.gamma > 0, "FlowDPS: gamma", "a positive number", self.gamma)
        require(self.cg_iter >= 1, "FlowDPS: cg_iter", "at least 1", self.cg_iter)

    @property
    def needs(self) -> frozenset[Need]:
        """A linear operator."""
        return frozenset({"linear"})

    @property
    def returns(self) -> Returns:
        """An image near the most likely."""
        return "MAP-like"

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        A, Ahy, _ = problem.backprojected(run.unit)

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D = prior(x, sigma)
            eps = x.sub_(D).div_(sigma)
            D_y = cg(lambda v: A.normal(v).add_(v, alpha=1 / self.gamma),
                     Ahy.add(D, alpha=1 / self.gamma), D, max_iter=self.cg_iter,
                     batch_ndim=problem.batch_ndim)
            x0 = D.lerp_(D_y, sigma / (1 + sigma))
            t = sigma_next / (1 + sigma_next)
            noise = eps.mul_(t**0.5).add_(run.noise(eps), alpha=(1 - t) ** 0.5)
            return noise.mul_(sigma_next).add_(x0), x0

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(Ahy), step, run)
