"""CGLS: least squares by conjugate gradients on the measurement residual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.problem import Problem
from medinv.samplers import OnStep
from medinv.solvers.base import item_norm, require


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is 0 (an item that is already solved)."""
    return torch.where(denominator > 0, numerator / denominator, 0.0)


@dataclass(frozen=True)
class CGLS:
    """``argmin ||A x - y||^2`` by CGLS, item by item; the iteration number is the regulariser.

    Hestenes and Stiefel, J. Res. Natl. Bur. Stand. 49 (1952), 409; in this form Björck,
    "Numerical methods for least squares problems" (1996), algorithm 7.4.1, whose names are kept.
    In exact arithmetic its iterates are those of `CGSENSE` without damping. It carries the
    residual ``r = y - A x`` itself, which loses fewer digits on ill-conditioned operators, and
    takes one ``A`` and one ``A^H`` per iteration.

    Args:
        max_iter: largest number of iterations.
        tol: an item stops at ``||A^H r|| <= tol ||A^H y||``.

    Example:
        >>> CGLS(max_iter=10)
        CGLS(max_iter=10, tol=1e-06)
    """

    max_iter: int = 30
    tol: float = 1e-6

    def __post_init__(self) -> None:
        require(self.max_iter >= 1, "CGLS: max_iter", "at least 1", self.max_iter)
        require(self.tol >= 0, "CGLS: tol", "a number >= 0", self.tol)

    @torch.no_grad()
    def __call__(self, problem: Problem, *, on_step: OnStep | None = None) -> Tensor:
        """Reconstruct.

        Args:
            problem: y, measurement, ``(*batch, *A.codomain.shape)``; its operator.
            on_step: called with every iterate.

        Returns:
            ``(*batch, *A.domain.shape)``.

        Raises:
            InputError: ``y`` has another shape or dtype than ``A`` gives, or is not finite.
        """
        problem = problem.whitened()
        y, A = problem.y, problem.linear
        items = A.codomain.batch_ndim(y)
        r, s = y, A.adjoint(y)
        x, p = torch.zeros_like(s), s
        gamma = item_norm(s, items) ** 2
        target = self.tol**2 * gamma
        for i in range(self.max_iter):
            active = gamma > target
            if not active.any():
                break
            q = A(p)
            squared = item_norm(q, items) ** 2
            alpha = active * _ratio(gamma, squared.reshape(gamma.shape))
            x = x + alpha * p
            r = r - alpha.reshape(squared.shape) * q
            s = A.adjoint(r)
            gamma, previous = item_norm(s, items) ** 2, gamma
            p = s + _ratio(gamma, previous) * p
            if on_step is not None:
                on_step(i, x)
        return x
