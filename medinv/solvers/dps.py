"""Diffusion posterior sampling, as published."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from medinv.guidance import denoise_with_residual_gradient
from medinv.guidance.guided import Need
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, ddim_split, descend
from medinv.solvers.base import require
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class DPS(Diffusion):
    """Diffusion posterior sampling (Chung et al., ICLR 2023, arXiv:2209.14687), algorithm 1.

        x_t = ancestral step from (x_t, D) - step grad ||y - A D||        D = D(x_t)

    for any differentiable operator. The gradient has a constant length, so that the residual
    settles at about the step and not at the noise: the result is near the most likely image. For
    the approximation itself with its statistical weight, ``DDIM(guidance=Jensen())``.

    In the paper ``x_t`` is variance preserving, ``x_t = s (x0 + sigma n)``; in the VE coordinate
    its step is ``zeta / (s s')``. The sum of all steps sets the result, so ``zeta`` counts for
    1000 steps and is multiplied by ``1000 / steps``. The published code takes the norm over the
    batch; here it is of an item.

    Args:
        steps: noise levels; the network is called, and backpropagated through, once at each.
        zeta: step along the gradient; 0.3 to 1 in the paper.
        eta: share of fresh noise, 1 for ancestral sampling.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> DPS(steps=100).zeta
        0.3
    """

    steps: int = 1000
    zeta: float = 0.3
    eta: float = 1.0
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(0 <= self.eta <= 1, "DPS: eta", "0 <= eta <= 1", self.eta)
        require(self.zeta >= 0, "DPS: zeta", "a number of at least 0", self.zeta)

    @property
    def needs(self) -> frozenset[Need]:
        """The Jacobian; the operator may be nonlinear."""
        return frozenset({"jacobian"})

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)
        zeta = self.zeta * 1000 / self.steps

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D, gradient = denoise_with_residual_gradient(prior, x, sigma, problem.y, problem.A)
            c_eps, c_noise = ddim_split(self.eta, sigma, sigma_next)
            x = x.sub_(D).mul_(c_eps / sigma).add_(D)
            if c_noise:
                x.add_(run.noise(x), alpha=c_noise)
            return x.sub_(gradient, alpha=zeta * vp_factor(sigma, sigma_next)), D

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(problem.empty_image()), step, run)


def vp_factor(sigma: float, sigma_next: float) -> float:
    """``1 / (s s')``, which carries a step in VP coordinates' gradient to the VE coordinate.

    Example:
        >>> vp_factor(0.0, 0.0)
        1.0
    """
    return math.sqrt((1 + sigma**2) * (1 + sigma_next**2))
