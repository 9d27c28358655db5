"""PaDIS: Langevin sampling with a patch prior."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medinv.guidance import denoise_with_residual_gradient
from medinv.guidance.guided import Need
from medinv.priors.base import Prior
from medinv.priors.schedule import karras_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, descend
from medinv.solvers.base import require
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class PaDIS(Diffusion):
    """Patch diffusion inverse solver (Hu et al., NeurIPS 2024, arXiv:2406.02462), algorithm 1.

    Annealed Langevin dynamics guided by the measurement, ``inner_steps`` times at each level:

        g = grad_x ||A D(x) - y||
        x <- x - zeta g + alpha / 2 (D - x) / sigma^2 + sqrt(alpha) n

    with ``alpha = step sigma^2``. ``D`` is a `PatchPrior` in the paper (a new shift of its tiling
    each time), and may be any.
    The last level adds no noise. The published code starts from a filtered backprojection without
    noise; here the start is noise, as in the paper.

    Args:
        steps: noise levels. Each moves the image towards the measurement by ``zeta``, so few of
            them don't reach it: with 20, a CT from 20 views scored less than FBP.
        inner_steps: Langevin steps at each; the network is called ``steps inner_steps`` times.
        zeta: step along the data gradient, with ``||A|| = 1``, in prior units.
        step: ``alpha / sigma^2``.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> import torch
        >>> from medinv.operators import CartesianMRI
        >>> from medinv.priors import GaussianPrior
        >>> A = CartesianMRI(torch.ones(1, 4, 4) + 0j, torch.ones(4, 4))
        >>> prior = GaussianPrior(torch.zeros(4, 4) + 0j, torch.eye(16))
        >>> PaDIS(steps=3)(Problem(A(prior.mean + 1), A), prior).shape
        torch.Size([4, 4])
    """

    steps: int = 100
    inner_steps: int = 10
    zeta: float = 0.3
    step: float = 0.5
    sigma_max: float = 10.0
    sigma_min: float = 0.003

    def __post_init__(self) -> None:
        karras_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(self.inner_steps >= 1, "PaDIS: inner_steps", "at least 1", self.inner_steps)
        for name in ("zeta", "step"):
            value = getattr(self, name)
            require(value > 0, f"PaDIS: {name}", "a positive number", value)

    @property
    def needs(self) -> frozenset[Need]:
        """The Jacobian; the operator may be nonlinear."""
        return frozenset({"jacobian"})

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            for _i in range(self.inner_steps):
                D, gradient = denoise_with_residual_gradient(prior, x, sigma, problem.y, problem.A)
                x.lerp_(D, self.step / 2).sub_(gradient, alpha=self.zeta)
                if sigma_next:
                    x.add_(run.noise(x), alpha=self.step**0.5 * sigma)
            return x, D

        levels = karras_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(problem.empty_image()), step, run)
