"""DSG: guidance on the sphere of the next level."""

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
from medinv.solvers.base import require, unit_vectors
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class DSG(Diffusion):
    """Diffusion with spherical Gaussian constraint (Yang et al., ICML 2024, arXiv:2402.03201).

    A step of DDIM, ``x' = mu + c n``, lies near the sphere of radius ``rho = c sqrt(m)`` around
    ``mu``, with ``m`` real components; guidance chooses a place on it:

        d   = c n + w (-rho g / ||g|| - c n)         g = grad ||y - A D(x_t)||
        x_t = mu + rho d / ||d||

    Needs fresh noise (eta > 0). The last step, to the level 0, is not guided. Here, and nowhere
    in the published code, ``m`` counts the two components of a complex pixel.

    Args:
        steps: noise levels; the network is called, and backpropagated through, once at each.
        w: how much of the direction is guided, 0 to 1.
        interval: guide at every such level.
        eta: share of fresh noise in DDIM's rule.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> DSG(steps=50).w
        0.1
    """

    steps: int = 100
    w: float = 0.1
    interval: int = 1
    eta: float = 1.0
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(0 < self.eta <= 1, "DSG: eta", "0 < eta <= 1", self.eta)
        require(0 <= self.w <= 1, "DSG: w", "0 <= w <= 1", self.w)
        require(self.interval >= 1, "DSG: interval", "at least 1", self.interval)

    @property
    def needs(self) -> frozenset[Need]:
        """The Jacobian; the operator may be nonlinear."""
        return frozenset({"jacobian"})

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)
        items = problem.batch_ndim

        def step(i: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            guided = i % self.interval == 0 and sigma_next > 0
            if guided:
                D, g = denoise_with_residual_gradient(prior, x, sigma, problem.y, problem.A)
            else:
                D = prior(x, sigma)
            c_eps, c_noise = ddim_split(self.eta, sigma, sigma_next)
            mu = x.sub_(D).mul_(c_eps / sigma).add_(D)
            if not c_noise:
                return mu, D
            n = run.noise(mu)
            if guided:
                n = on_sphere(n, unit_vectors(-g, items), self.w, items)
            return mu.add_(n, alpha=c_noise), D

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(problem.empty_image()), step, run)


def on_sphere(n: Tensor, direction: Tensor, w: float, items: int) -> Tensor:
    """``n`` turned towards unit vectors ``direction``, with the length ``sqrt(m)``.

    Example:
        >>> import torch
        >>> on_sphere(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 1.0, 1)
        tensor([[0.0000, 1.4142]])
    """
    m = n[(0,) * items].numel() * (2 if n.is_complex() else 1)
    radius = math.sqrt(m)
    return radius * unit_vectors(n + w * (radius * direction - n), items)
