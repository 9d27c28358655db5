"""Moment matching."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from medinv.errors import InputError
from medinv.guidance.guided import Estimate, Guidance, Returns, through_jacobian


@dataclass(frozen=True)
class MMPS(Guidance):
    """Moment matching posterior sampling (Rozet et al., NeurIPS 2024, arXiv:2405.13712).

    ``C = sigma^2 J``, the denoiser's own covariance (Tweedie's second formula), applied by
    backpropagation, with the graph of one forward for all conjugate gradient steps. Exact for
    every Gaussian prior once the solve has converged; with a few steps it pulls too little.

    Args:
        cg_iter: conjugate gradient steps; a backpropagation each.
        tol: relative residual at which they stop.

    Example:
        >>> MMPS(cg_iter=3)
        MMPS(cg_iter=3, tol=0.001)
    """

    cg_iter: int = 3
    tol: float = 1e-3

    def __post_init__(self) -> None:
        if self.cg_iter < 1 or not 0 <= self.tol < math.inf:
            raise InputError("MMPS: expected at least one cg_iter and tol of at least 0, got "
                             f"{self.cg_iter} and {self.tol}")

    @property
    def returns(self) -> Returns:
        """A sample, as the solve converges."""
        return "sample"

    def correction(self, at: Estimate) -> Tensor:
        """``sigma^2 J^H A^H (s^2 + sigma^2 A J A^H)^-1 r``."""
        vjp = at.vjp
        assert vjp is not None
        w = at.solve(lambda v: vjp(v).mul_(at.sigma**2), self.cg_iter, self.tol)
        return through_jacobian(at, w)
