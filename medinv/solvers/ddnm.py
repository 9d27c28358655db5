"""DDNM: the denoised image's null space, and the measurement's range."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.guidance.guided import Need, Returns
from medinv.operators.linalg import cg
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, descend, fixed_split
from medinv.solvers.base import require
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class DDNM(Diffusion):
    """Denoising diffusion null-space model (Wang, Yu and Zhang, ICLR 2023, arXiv:2212.00490).

        x0  = A^+ y + (I - A^+ A) D = D + A^+ (y - A D)
        x_t = x0 + sigma' (sqrt(1 - eta^2) eps + eta n)           eps = (x_t - D) / sigma

    With ``plus`` (DDNM+, section 3.4, for singular values 0 and 1) the noise of y, ``s``, counts:
    ``x0 = D + l A^+ (y - A D)`` with ``l = min(1, sigma' / s)``, and the range of ``A`` gets no
    more fresh noise than fills it up to the level, ``sigma'^2 - l^2 s^2``. ``A^+`` is applied by
    conjugate gradients, so no SVD is needed. A measured direction tends to ``A^+ y`` as steps
    grow, with no variance.

    Args:
        steps: noise levels; the network is called once at each.
        plus: whether the noise counts.
        eta: share of fresh noise.
        cg_iter: conjugate gradient steps of the pseudoinverse.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> DDNM().eta
        0.85
    """

    steps: int = 100
    plus: bool = False
    eta: float = 0.85
    cg_iter: int = 10
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(0 <= self.eta <= 1, "DDNM: eta", "0 <= eta <= 1", self.eta)
        require(self.cg_iter >= 1, "DDNM: cg_iter", "at least 1", self.cg_iter)

    @property
    def needs(self) -> frozenset[Need]:
        """A linear operator."""
        return frozenset({"linear"})

    @property
    def returns(self) -> Returns:
        """A sample of another law."""
        return "biased sample"

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        A, Ahy, s = problem.backprojected(run.unit)
        items = problem.batch_ndim

        def measured(b: Tensor, start: Tensor) -> Tensor:
            """``start`` with its range replaced by ``(A^H A)^+ b``."""
            return cg(A.normal, b, start, max_iter=self.cg_iter, batch_ndim=items)

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D = prior(x, sigma)
            c_eps, c_noise = fixed_split(self.eta, sigma, sigma_next)
            noise = run.noise(x)
            below = c_eps * (x - D) / sigma + c_noise * noise
            x0 = measured(Ahy, D)
            if self.plus:
                share = min(1.0, sigma_next / s) if s else 1.0
                fresh = max(sigma_next**2 - (share * s) ** 2, 0.0) ** 0.5
                x0 = torch.lerp(D, x0, share)
                below = measured(A.normal(fresh * noise), below)
            return x0 + below, x0

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(Ahy), step, run)
