"""Score-SDE with projections onto the measurement."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.guidance.guided import Need, Returns
from medinv.operators.linalg import cg
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, descend, langevin
from medinv.solvers.base import require
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class ScoreSDE(Diffusion):
    """Solving inverse problems with score-based models (Song, Shen, Xing and Ermon, ICLR 2022).

    arXiv:2111.08005: before each corrector and predictor step the measured part of ``x`` is pulled
    to ``y``, noised to the level:

        x <- x + lambda A^+ (y + sigma A n - A x)

    for noiseless measurements. ``A`` is a mask of an orthogonal transform in the paper; here
    ``A^+`` is applied by conjugate gradients, for any. The last step is a denoised image with
    ``lambda = 1``. Not a sampler: where measured and unmeasured directions are correlated, too
    little of ``y`` reaches the latter, unless there are many corrector steps. The published MRI
    code drops the phase.

    Args:
        steps: noise levels; the network is called ``2 steps`` times, or more with correctors.
        correctors: Langevin steps at each level.
        lambda_: how far to go to the measurement, 1 all the way.
        snr: signal-to-noise ratio of the corrector.
        cg_iter: conjugate gradient steps of the pseudoinverse.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> ScoreSDE(steps=500).snr
        0.246
    """

    steps: int = 1000
    correctors: int = 1
    lambda_: float = 1.0
    snr: float = 0.246
    cg_iter: int = 10
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(self.correctors >= 0, "ScoreSDE: correctors", "at least 0", self.correctors)
        require(0 < self.lambda_ <= 1, "ScoreSDE: lambda_", "0 < lambda_ <= 1", self.lambda_)
        require(self.snr > 0, "ScoreSDE: snr", "a positive number", self.snr)
        require(self.cg_iter >= 1, "ScoreSDE: cg_iter", "at least 1", self.cg_iter)

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
        A, Ahy, _ = problem.backprojected(run.unit)
        items = problem.batch_ndim

        def project(x: Tensor, sigma: float, share: float) -> Tensor:
            b = Ahy + A.normal(sigma * run.noise(x)) if sigma else Ahy
            measured = cg(A.normal, b, x, max_iter=self.cg_iter, batch_ndim=items)
            return torch.lerp(x, measured, share)

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            for _i in range(self.correctors):
                x = project(x, sigma, self.lambda_)
                x = langevin(x, prior(x, sigma), sigma, self.snr, prior.ndim,
                             run.noise)
            x = project(x, sigma, self.lambda_)
            D = prior(x, sigma)
            if not sigma_next:
                return project(D, 0.0, 1.0), D
            x = x.lerp_(D, 1 - sigma_next**2 / sigma**2)
            return x.add_(run.noise(x), alpha=(sigma**2 - sigma_next**2) ** 0.5), D

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(Ahy), step, run)
