"""SIRT: weighted gradient descent with the row and column sums of the operator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.errors import InputError
from medinv.problem import Problem
from medinv.samplers import OnStep
from medinv.solvers.base import Stopping, require


def inverse_sums(sums: Tensor, which: str) -> Tensor:
    """``1 / sums``, and 0 for a ray that meets no voxel or a voxel that meets no ray.

    Raises:
        InputError: the sums, which ``which`` names, are complex or negative.

    Example:
        >>> inverse_sums(torch.tensor([0.0, 2.0]), "SIRT: row")
        tensor([0.0000, 0.5000])
    """
    if sums.is_complex() or (sums < 0).any():
        raise InputError(f"{which} sums: expected a real operator without negative entries, got "
                         f"{'complex' if sums.is_complex() else 'negative'} sums; use CGLS")
    return torch.where(sums > 0, 1 / sums, 0.0)


@dataclass(frozen=True)
class SIRT:
    """``x <- x + relaxation C A^T R (y - A x)`` with ``R, C`` the inverse row and column sums.

    Gilbert, "Iterative methods for the three-dimensional reconstruction of an object from
    projections", J. Theor. Biol. 36 (1972), 105; in this form Gregor and Benson, IEEE Trans. Med.
    Imaging 27 (2008), 918. It starts from zero and converges to ``argmin (y - A x)^T R (y - A x)``
    for every relaxation in (0, 2), because ``C A^T R A`` has no eigenvalue above 1. Stopping early
    regularises.

    Args:
        max_iter: largest number of iterations.
        tol: an item stops when a step changes it by at most this, relative to its norm.
        relaxation: step length, in (0, 2).
        nonnegative: keep ``x >= 0``.

    Example:
        >>> SIRT(max_iter=100, nonnegative=True)
        SIRT(max_iter=100, tol=0.0, relaxation=1.0, nonnegative=True)
    """

    max_iter: int = 100
    tol: float = 0.0
    relaxation: float = 1.0
    nonnegative: bool = False

    def __post_init__(self) -> None:
        require(self.max_iter >= 1, "SIRT: max_iter", "at least 1", self.max_iter)
        require(self.tol >= 0, "SIRT: tol", "a number >= 0", self.tol)
        require(0 < self.relaxation < 2, "SIRT: relaxation", "a number in (0, 2)", self.relaxation)

    @torch.no_grad()
    def __call__(self, problem: Problem, *, on_step: OnStep | None = None) -> Tensor:
        """Reconstruct.

        Args:
            problem: y, measurement, ``(*batch, *A.codomain.shape)``, real; A, its operator,
                without negative entries (a projector).
            on_step: called with every iterate.

        Returns:
            ``(*batch, *A.domain.shape)``.

        Raises:
            InputError: ``y`` has another shape or dtype than ``A`` gives, or is not finite; or
                ``A`` is complex or has negative row or column sums.
        """
        y, A = problem.y, problem.linear
        items = A.codomain.batch_ndim(y)
        x = y.new_zeros(*y.shape[:items], *A.domain.shape, dtype=A.domain.dtype)
        R = inverse_sums(A(x.new_ones(A.domain.shape)), "SIRT: row")
        C = self.relaxation * inverse_sums(A.adjoint(y.new_ones(A.codomain.shape)), "SIRT: column")
        stopping = Stopping(self.tol, items)
        for i in range(self.max_iter):
            x = x + C * A.adjoint(R * (y - A(x)))
            if self.nonnegative:
                x.clamp_min_(0)
            x = stopping.update(x)
            if on_step is not None:
                on_step(i, x)
            if stopping.finished:
                break
        return x
