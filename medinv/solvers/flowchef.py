"""FlowChef: a flow steered without backpropagation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medinv.guidance.guided import Need
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, descend
from medinv.solvers.base import require
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class FlowChef(Diffusion):
    """Steering rectified flows (Patel et al., ICCV 2025, arXiv:2412.00100).

    Euler's step of the flow, and one along the data gradient at the denoised image, as if the
    network's Jacobian were the identity. In the flow's coordinate ``x_t = (1 - t) x0 + t n``,
    ``x_t' = x_t + (t' - t) v + k A^H (y - A D)``; in the VE coordinate:

        x = D + sigma' eps + k (1 + sigma') A^H (y - A D)

    for any differentiable operator. ``k = 0`` is DDIM with eta = 0. The published code takes the
    mean over pixels for the squared error, so its step (500) depends on their number. The last
    step is not steered.

    Args:
        steps: noise levels; the network is called once at each.
        k: step along the gradient of ``||y - A D||^2 / 2``, with ``||A|| = 1``.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> FlowChef(steps=50).k
        0.1
    """

    steps: int = 100
    k: float = 0.1
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(self.k >= 0, "FlowChef: k", "a number of at least 0", self.k)

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing; the operator may be nonlinear."""
        return frozenset()

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D = prior(x, sigma)
            x = x.sub_(D).mul_(sigma_next / sigma).add_(D)
            if sigma_next:
                g = problem.A.linearize(D).adjoint(problem.y - problem.A(D))
                x.add_(g, alpha=self.k * (1 + sigma_next))
            return x, D

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(problem.empty_image()), step, run)
