"""DiffPIR: plug-and-play restoration with a proximal data step."""

from __future__ import annotations

from dataclasses import dataclass

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
class DiffPIR(Diffusion):
    """Denoising diffusion models for plug-and-play restoration (Zhu et al., 2023).

    arXiv:2305.08995, algorithm 1, with ``s`` the noise of y:

        x0  = argmin ||y - A x||^2 / s^2 + lambda ||x - D||^2 / sigma^2
        x_t = x0 + sigma' (sqrt(1 - zeta) eps + sqrt(zeta) n)       eps = (x_t - x0) / sigma

    With ``lambda = 1`` and a flat prior ``x0`` is the posterior's mean. The published code takes
    the noise for data in [0, 1] and the level for data in [-1, 1], which makes its lambda a
    quarter of what it says; here both are in one unit. Of unmeasured directions a share of the
    variance is lost, as with every fixed share of fresh noise (see `medinv.samplers`).

    Args:
        steps: noise levels; the network is called once at each.
        lambda_: weight of the denoised image.
        zeta: share of fresh noise, in variance.
        cg_iter: conjugate gradient steps of the data step.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> DiffPIR(steps=20).lambda_
        1.0
    """

    steps: int = 100
    lambda_: float = 1.0
    zeta: float = 0.1
    cg_iter: int = 10
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(0 <= self.zeta <= 1, "DiffPIR: zeta", "0 <= zeta <= 1", self.zeta)
        require(self.lambda_ > 0, "DiffPIR: lambda_", "a positive number", self.lambda_)
        require(self.cg_iter >= 1, "DiffPIR: cg_iter", "at least 1", self.cg_iter)

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

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D = prior(x, sigma)
            rho = self.lambda_ * s**2 / sigma**2

            def matvec(v: Tensor) -> Tensor:
                return A.normal(v).add_(v, alpha=rho)

            x0 = cg(matvec, Ahy.add(D, alpha=rho), D, max_iter=self.cg_iter, batch_ndim=items,
                    overwrite=True)
            c_eps, c_noise = fixed_split(self.zeta**0.5, sigma, sigma_next)
            x = x.sub_(x0).mul_(c_eps / sigma).add_(x0)
            return (x.add_(run.noise(x), alpha=c_noise) if c_noise else x), x0

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(Ahy), step, run)
