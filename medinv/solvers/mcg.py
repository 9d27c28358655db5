"""MCG: a gradient in the null space, the measurement in the range."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medinv.guidance import denoise_with_residual_gradient
from medinv.guidance.guided import Need
from medinv.operators.linalg import cg
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, ddim_split, descend
from medinv.solvers.base import require
from medinv.solvers.diffusion import Diffusion
from medinv.solvers.dps import vp_factor


@dataclass(frozen=True)
class MCG(Diffusion):
    """Manifold constrained gradients (Chung, Sim, Ryu and Ye, NeurIPS 2022, arXiv:2206.00941).

        x' = ancestral step from (x_t, D)                 D = D(x_t), in the VE coordinate
        x' = x' - w (1000 / steps) / (s s') P g           g = grad ||A^+ (y - A D)||
        x_t = P x' + A^+ (y + sigma' A n)                 P = I - A^+ A

    for noiseless measurements: the range of ``A`` is overwritten with ``y`` noised to the level,
    and the gradient acts on the rest alone. The published code noises ``y`` to the level before
    and takes norms over the batch. ``A^+`` is applied by conjugate gradients. The norm of
    ``y - A D`` stands for that of ``A^+ (y - A D)``: they are one where the singular values are.

    Args:
        steps: noise levels; the network is called, and backpropagated through, once at each.
        w: step along the gradient, for 1000 steps.
        cg_iter: conjugate gradient steps of the pseudoinverse.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> MCG(steps=100).w
        1.0
    """

    steps: int = 1000
    w: float = 1.0
    cg_iter: int = 10
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(self.w >= 0, "MCG: w", "a number of at least 0", self.w)
        require(self.cg_iter >= 1, "MCG: cg_iter", "at least 1", self.cg_iter)

    @property
    def needs(self) -> frozenset[Need]:
        """A linear operator and the Jacobian."""
        return frozenset({"linear", "jacobian"})

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)
        A, items = problem.linear, problem.batch_ndim
        Ahy = A.adjoint(problem.y)
        w = self.w * 1000 / self.steps

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D, g = denoise_with_residual_gradient(prior, x, sigma, problem.y, A)
            c_eps, c_noise = ddim_split(1.0, sigma, sigma_next)
            x = x.sub_(D).mul_(c_eps / sigma).add_(D).add_(run.noise(x), alpha=c_noise)
            x.sub_(g, alpha=w * vp_factor(sigma, sigma_next))
            noised = Ahy + A.normal(sigma_next * run.noise(x))
            return cg(A.normal, noised, x, max_iter=self.cg_iter, batch_ndim=items), D

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(Ahy), step, run)
