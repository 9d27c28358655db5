"""TPDM: two perpendicular 2D priors make a 3D one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medinv.errors import CheckpointError
from medinv.guidance import denoise_with_residual_gradient
from medinv.guidance.guided import Need
from medinv.operators.base import Operator
from medinv.priors.base import Prior
from medinv.priors.product import ProductPrior
from medinv.priors.schedule import geometric_sigmas, geometric_start
from medinv.problem import Problem
from medinv.samplers import Run, descend, langevin, reverse_diffusion
from medinv.solvers.base import require
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class TPDM(Diffusion):
    """Two perpendicular diffusion models (Lee et al., ICCV 2023, arXiv:2303.08440), algorithm 1.

    The score of the product ``p_primary(x)^(1 - 1/K) p_auxiliary(x)^(1/K)`` is sampled by turns:
    each level belongs to one of the two priors, which corrects and predicts, slice by slice in its
    own plane. The measurement enters on the primary's turns by diffusion posterior sampling,

        x <- x - zeta grad_x ||A D(x) - y||     after the corrector, and after the predictor

    For the same product with any other solver, pass a `ProductPrior` to it.

    ``zeta`` belongs to one slice and an operator with ``||A|| = 1``: where ``A`` acts on a whole
    volume, whose slices share one norm, it is multiplied by the square root of their number. The
    published code drops the predictor's noise between levels, takes norms over the mini-batch, and
    splits cubes only; here the noise stays, norms are of an item, and any volume goes.

    Args:
        steps: noise levels; the network is called ``2 steps`` times. Each moves the image towards
            the measurement by ``zeta``, so few of them don't reach it.
        K: the auxiliary prior has one turn in K: every K-th for a whole number, else at random
            with probability ``1 / K``.
        zeta: step along the data gradient, in prior units.
        snr: signal-to-noise ratio of the Langevin corrector.
        sigma_max: highest noise level, in prior units; None for the published 378, or less where
            there are fewer than about 60 steps (`geometric_start`).
        sigma_min: lowest noise level.

    Example:
        >>> from medinv.operators import ParallelBeam
        >>> from medinv.priors import GaussianPrior, SlicePrior
        >>> A = ParallelBeam((4, 4), torch.linspace(0, 3, 8), pixel_mm=1.0)
        >>> white = GaussianPrior(torch.zeros(4, 4), torch.eye(16))
        >>> prior = ProductPrior([SlicePrior(white, -3), SlicePrior(white, -2)])
        >>> TPDM(steps=3)(Problem(A(torch.ones(4, 4, 4)), A), prior).shape
        torch.Size([4, 4, 4])
    """

    steps: int = 2000
    K: float = 2
    zeta: float = 1.0
    snr: float = 0.16
    sigma_max: float | None = None
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        self.levels()  # checks them
        require(self.K > 1, "TPDM: K", "a number above 1", self.K)
        for name in ("zeta", "snr"):
            value = getattr(self, name)
            require(value > 0, f"TPDM: {name}", "a positive number", value)

    @property
    def needs(self) -> frozenset[Need]:
        """The Jacobian and a volume; the operator may be nonlinear."""
        return frozenset({"jacobian", "volume"})

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` (..., z, y, x) in the prior's units.

        Raises:
            CheckpointError: ``prior`` is no product of two.
        """
        primary, auxiliary = _pair(prior)
        problem = problem.scaled(run.unit)
        levels = self.levels()
        start: Tensor = levels[0] * run.noise(problem.empty_image())
        zeta = self.zeta * math.sqrt(_slices_per_item(start, problem.A))

        def step(i: int, x_t: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            guided = not self.is_auxiliary(i, run.rng)
            factor = primary if guided else auxiliary
            D, gradient = _denoise(factor, x_t, sigma, problem, guided)
            x_t = langevin(x_t, D, sigma, self.snr, 2, run.noise).sub_(gradient, alpha=zeta)
            D, gradient = _denoise(factor, x_t, sigma, problem, guided)
            x_t = reverse_diffusion(x_t, D, sigma, sigma_next, run.noise)
            return x_t.sub_(gradient, alpha=zeta), D

        return descend(levels, start, step, run)

    def levels(self) -> list[float]:
        """Noise levels, from the highest to 0."""
        start = self.sigma_max
        if start is None:
            start = geometric_start(self.steps, self.sigma_min, 378.0)
        return geometric_sigmas(self.steps, self.sigma_min, start).tolist()

    def is_auxiliary(self, i: int, rng: Generator | None) -> bool:
        """Whether level ``i`` is the auxiliary prior's turn."""
        if float(self.K).is_integer():
            return i % int(self.K) == int(self.K) - 1
        return bool(torch.rand((), generator=rng, device=rng.device if rng else None) < 1 / self.K)


def _denoise(prior: Prior, x: Tensor, sigma: float, problem: Problem,
             guided: bool) -> tuple[Tensor, Tensor]:
    """The denoised volume and the data gradient, which is 0 on the auxiliary prior's turns."""
    if guided:
        return denoise_with_residual_gradient(prior, x, sigma, problem.y, problem.A)
    return prior(x, sigma), x.new_zeros(())


def _slices_per_item(x: Tensor, A: Operator) -> int:
    """How many slices share one norm of the residual: 1 if ``A`` acts on slices."""
    return int(x.shape[-3]) if len(A.domain.shape) > 2 else 1


def _pair(prior: Prior) -> list[Prior]:
    factors = prior.factors() if isinstance(prior, ProductPrior) else []
    if len(factors) != 2:
        raise CheckpointError(
            f"TPDM: expected a ProductPrior of a primary and an auxiliary prior, got "
            f"{type(prior).__name__} with {len(factors)} factors; in a recipe, write "
            "`prior: {primary: ..., auxiliary: ...}`"
        )
    return factors
