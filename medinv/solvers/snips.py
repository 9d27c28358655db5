"""SNIPS: Langevin dynamics in the basis of the singular vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.guidance.guided import Need, Returns
from medinv.operators.spectral import spectrum
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, descend
from medinv.solvers.base import require
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class SNIPS(Diffusion):
    """Solving noisy inverse problems stochastically (Kawar, Vaksman and Elad, NeurIPS 2021).

    arXiv:2105.14951, algorithm 1. The noise of y is taken for a part of the level's. With
    ``A = U diag(a) V^H``, ``z = V^H x``, ``u = U^H y``, the prior's score ``S`` and ``s`` the
    noise of y, by coordinate,

        a sigma > s   g = a (u - a z) / |s^2 - a^2 sigma^2|           h = c (sigma^2 - s^2 / a^2)
        a sigma < s   g = a (u - a z) / |s^2 - a^2 sigma^2| + V^H S
                                                            h = c sigma^2 (1 - a^2 sigma^2 / s^2)
        a = 0         g = V^H S                                       h = c sigma^2

    ``inner_steps`` times at a level: ``z <- z + h g + sqrt(2 h) n``. Exact at the last level but
    for the step: a coordinate's law there is that of the posterior with the prior's variance
    ``p + sigma^2`` and the noise ``s^2 - a^2 sigma^2``. The published code runs without the
    measurement where no singular value is 0, a mistake. Needs an SVD; ``DDIM`` with `MMPS` is
    exact without.

    Args:
        steps: noise levels.
        inner_steps: Langevin steps at each.
        step: c.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> SNIPS().inner_steps
        5
    """

    steps: int = 500
    inner_steps: int = 5
    step: float = 0.033
    sigma_max: float = 90.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(self.inner_steps >= 1, "SNIPS: inner_steps", "at least 1", self.inner_steps)
        require(0 < self.step < 1, "SNIPS: step", "0 < step < 1", self.step)

    @property
    def needs(self) -> frozenset[Need]:
        """A linear operator's SVD."""
        return frozenset({"linear", "svd"})

    @property
    def returns(self) -> Returns:
        """A sample."""
        return "sample"

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)
        svd, s = spectrum(problem.linear), float(problem.noise_std)
        a, u = svd.values, svd.data(problem.y)

        def step(_: int, x: Tensor, sigma: float, __: float) -> tuple[Tensor, Tensor]:
            gap = (a * sigma) ** 2 - s**2  # of the level's noise over that of y, in data units
            known = (a > 0) & (gap != 0)
            weight = torch.where(known, a / gap.abs(), 0)
            length = torch.where(
                gap > 0, gap / a.clamp(min=1e-12).square(),
                sigma**2 * (torch.where(known, -gap / s**2, 1) if s else 1))
            h = self.step * length
            for _i in range(self.inner_steps):
                D = prior(x, sigma)
                z, score = svd.coordinates(x), svd.coordinates((D - x) / sigma**2)
                g = weight * (u - a * z) + torch.where(gap > 0, 0, score)
                x = svd.image(z + h * g + (2 * h).sqrt() * svd.coordinates(run.noise(x)))
            return x, D

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(problem.empty_image()), step, run)
