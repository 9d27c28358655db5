"""PnP-DM: split Gibbs sampling with a diffusion prior."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from medinv.guidance.guided import Need, Returns
from medinv.operators.linalg import cg
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, ddim_split, descend
from medinv.solvers.base import require
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class PnPDM(Diffusion):
    """Plug-and-play diffusion models (Wu et al., NeurIPS 2024, arXiv:2405.18782), algorithm 1.

    Split Gibbs sampling of ``p(x) N(x; z, rho^2) p(y | z)``, with ``rho`` annealed:

        z ~ N(x, rho^2) p(y | z)       exactly, by perturbing and solving
        x ~ p(x0 | z)                  the prior's reverse SDE from the noise level rho

    At a fixed ``rho`` the stationary law is the posterior with the noise ``s^2 + rho^2 A A^H``.
    The published code often takes the probability-flow ODE for the second step, with which the
    likelihood counts twice.

    Args:
        iterations: of the two steps.
        steps: of the reverse SDE in each; the network is called ``iterations steps`` times.
        rho_max: first coupling, in prior units.
        rho_min: last coupling.
        cg_iter: conjugate gradient steps of the likelihood's step.
        sigma_min: lowest noise level of the SDE, over rho.

    Example:
        >>> PnPDM(iterations=20).rho_min
        0.05
    """

    iterations: int = 50
    steps: int = 10
    rho_max: float = 10.0
    rho_min: float = 0.05
    cg_iter: int = 20
    sigma_min: float = 0.02

    def __post_init__(self) -> None:
        geometric_sigmas(self.iterations, self.rho_min, self.rho_max)  # checks them
        geometric_sigmas(self.steps, self.sigma_min, 1.0)
        require(self.cg_iter >= 1, "PnPDM: cg_iter", "at least 1", self.cg_iter)

    @property
    def needs(self) -> frozenset[Need]:
        """A linear operator."""
        return frozenset({"linear"})

    @property
    def returns(self) -> Returns:
        """A sample, as rho goes to 0 and the chain converges."""
        return "sample"

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)
        A, s = problem.linear, float(problem.noise_std)

        def step(_: int, x: Tensor, rho: float, __: float) -> tuple[Tensor, Tensor]:
            weight = (s / rho) ** 2
            b = A.adjoint(problem.y + s * run.noise(problem.y))
            b = b.add_(x + rho * run.noise(x), alpha=weight)
            x = cg(lambda v: A.normal(v).add_(v, alpha=weight), b, x, max_iter=self.cg_iter,
                   batch_ndim=problem.batch_ndim)
            for sigma, sigma_next in pairwise(
                    geometric_sigmas(self.steps, self.sigma_min * rho, rho).tolist()):
                D = prior(x, sigma)
                c_eps, c_noise = ddim_split(1.0, sigma, sigma_next)
                x = x.sub_(D).mul_(c_eps / sigma).add_(D)
                if c_noise:
                    x.add_(run.noise(x), alpha=c_noise)
            return x, x

        rhos = geometric_sigmas(self.iterations, self.rho_min, self.rho_max).tolist()
        return descend(rhos, rhos[0] * run.noise(problem.empty_image()), step, run)
