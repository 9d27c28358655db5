"""Pseudoinverse guidance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from medinv.errors import InputError
from medinv.guidance.guided import Estimate, Guidance, through_jacobian


@dataclass(frozen=True)
class PiGDM(Guidance):
    """Pseudoinverse guidance (Song, Vahdat, Mardani and Kautz, ICLR 2023), in its score form.

    ``C = r^2 I`` with ``r^2 = sigma^2 p / (sigma^2 + p)``, the error of a Gaussian prior of
    variance ``p`` in each direction. Exact for that prior only. Where ``s = 0`` this is
    ``sigma^2 / r^2 J^H A^+ r``, the pseudoinverse of the title. The published sampler adds a term
    to each step of DDIM instead, whose weight differs between paper and codes and whose limit is
    ``y``; it is no approximation of a posterior and is not here.

    Args:
        data_variance: p, 1 in the paper.
        cg_iter: conjugate gradient steps of the solve.

    Example:
        >>> PiGDM()
        PiGDM(data_variance=1.0, cg_iter=20)
    """

    data_variance: float = 1.0
    cg_iter: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.data_variance < math.inf or self.cg_iter < 1:
            raise InputError("PiGDM: expected a positive data_variance and at least one cg_iter, "
                             f"got {self.data_variance} and {self.cg_iter}")

    def correction(self, at: Estimate) -> Tensor:
        """``sigma^2 J^H A^H (s^2 + r^2 A A^H)^-1 r``."""
        variance = at.sigma**2 * self.data_variance / (at.sigma**2 + self.data_variance)
        return through_jacobian(at, at.solve(lambda v: v * variance, self.cg_iter))
