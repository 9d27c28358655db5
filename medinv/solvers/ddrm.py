"""DDRM: restoration in the basis of the singular vectors."""

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
class DDRM(Diffusion):
    """Denoising diffusion restoration models (Kawar et al., NeurIPS 2022, arXiv:2201.11793).

    With ``A = U diag(a) V^H``, ``z = V^H x``, ``d = V^H D`` and ``u = U^H y``, by coordinate, from
    level sigma to sigma' (equations 7 and 8; ``s`` the noise of y):

        a = 0           z' = d + sqrt(1 - eta^2) sigma' (z - d) / sigma + eta sigma' n
        a sigma' < s    z' = d + sqrt(1 - eta^2) sigma' (u - a d) / s   + eta sigma' n
        a sigma' >= s   z' = (1 - eta_b) d + eta_b u / a + sqrt(sigma'^2 - eta_b^2 s^2 / a^2) n

    Not a sampler in the limit of many steps: an unmeasured coordinate of variance ``p`` ends with
    ``p (1 + sqrt(1 - eta^2)) / 2``, a measured one tends to ``u / a``; 20 to 50 steps are a tuned
    operating point. Needs an SVD (`medinv.operators.spectral`); `DiffPIR` is the form without.

    Args:
        steps: noise levels; the network is called once at each.
        eta: share of fresh noise.
        eta_b: share of the measurement where it is less noisy than the level.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> DDRM().steps
        20
    """

    steps: int = 20
    eta: float = 0.85
    eta_b: float = 1.0
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(0 <= self.eta <= 1, "DDRM: eta", "0 <= eta <= 1", self.eta)
        require(0 < self.eta_b <= 1, "DDRM: eta_b", "0 < eta_b <= 1", self.eta_b)

    @property
    def needs(self) -> frozenset[Need]:
        """A linear operator's SVD."""
        return frozenset({"linear", "svd"})

    @property
    def returns(self) -> Returns:
        """A sample of another law."""
        return "biased sample"

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)
        svd, s = spectrum(problem.linear), float(problem.noise_std)
        a, u = svd.values, svd.data(problem.y)
        null, inverse = a == 0, torch.where(a > 0, 1 / a, 0)
        kept = (1 - self.eta**2) ** 0.5

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D = prior(x, sigma)
            d, z = svd.coordinates(D), svd.coordinates(x)
            n = svd.coordinates(run.noise(x))
            noisy = (a * sigma_next < s) & ~null
            towards = torch.where(null, (z - d) / sigma, (u - a * d) / s if s else 0)
            loose = d + kept * sigma_next * towards + self.eta * sigma_next * n
            spread = (sigma_next**2 - (self.eta_b * s * inverse) ** 2).clamp(min=0).sqrt()
            tight = torch.lerp(d, u * inverse, self.eta_b) + spread * n
            return svd.image(torch.where(null | noisy, loose, tight)), D

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        n = svd.coordinates(run.noise(problem.empty_image()))
        spread = (levels[0] ** 2 - (s * inverse) ** 2).clamp(min=0).sqrt()
        known = ~null & (a * levels[0] > s)
        z = torch.where(known, u * inverse + spread * n, levels[0] * n)
        return descend(levels, svd.image(z), step, run)
