"""MPGD: the gradient on the denoised image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medinv.guidance.guided import Need
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, ddim_split, descend
from medinv.solvers.base import require, unit_vectors
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class MPGD(Diffusion):
    """Manifold preserving guided diffusion (He et al., ICLR 2024, arXiv:2311.16424), "w/o proj".

        x0  = D - c (1000 / steps) grad_D ||y - A D||             squared: D + k A^H (y - A D)
        x_t = x0 + c_eps eps + c_noise n                          eps = (x_t - D) / sigma, DDIM's

    No gradient passes through the network. In the published code ``c`` is 4 at 100 steps, 7.5 at
    50 and 17.5 at 20 for images of 256 pixels in [-1, 1], with the norm over the batch; here the
    norm is of an item, and c counts for 1000 steps. With ``squared`` this is one step of steepest
    descent where `DDS` takes several conjugate gradients. The projection onto an auto-encoder's
    manifold has no counterpart for medical images here.

    Args:
        steps: noise levels; the network is called once at each.
        c: step along the gradient, or k for the squared residual, per level.
        squared: take the gradient of ``||y - A D||^2 / 2`` instead of the norm's.
        eta: share of fresh noise in DDIM's rule.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> MPGD(steps=50).eta
        0.5
    """

    steps: int = 100
    c: float = 0.4
    squared: bool = False
    eta: float = 0.5
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(0 <= self.eta <= 1, "MPGD: eta", "0 <= eta <= 1", self.eta)
        require(self.c >= 0, "MPGD: c", "a number of at least 0", self.c)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing; the operator may be nonlinear."""
        return frozenset()

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D = prior(x, sigma)
            c_eps, c_noise = ddim_split(self.eta, sigma, sigma_next)
            x0 = D + self._towards(problem, D)
            x = x.sub_(D).mul_(c_eps / sigma).add_(x0)
            return (x.add_(run.noise(x), alpha=c_noise) if c_noise else x), x0

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(problem.empty_image()), step, run)

    def _towards(self, problem: Problem, D: Tensor) -> Tensor:
        """The step along minus the gradient."""
        residual = problem.y - problem.A(D)
        if not self.squared:
            residual = self.c * 1000 / self.steps * unit_vectors(residual, problem.batch_ndim)
        else:
            residual = self.c * residual
        return problem.A.linearize(D).adjoint(residual)
