"""SART: SIRT's update, view by view."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.problem import Problem
from medinv.samplers import OnStep
from medinv.solvers.base import require
from medinv.solvers.sirt import inverse_sums
from medinv.solvers.subsets import view_axis, view_subsets


@dataclass(frozen=True)
class SART:
    """``x <- x + relaxation C_k A_k^T R_k (y_k - A_k x)`` over ordered subsets ``k`` of views.

    Andersen and Kak, "Simultaneous algebraic reconstruction technique (SART)", Ultrasonic Imaging
    6 (1984), 81; ``R_k, C_k`` are the inverse row and column sums of the subset. One pass over all
    subsets costs what one step of `SIRT` costs and goes many times as far. On noisy data it ends
    in a cycle instead of a point, smaller with a smaller ``relaxation``; it starts from zero, and
    stopping early regularises.

    Args:
        max_iter: passes over all views.
        relaxation: step length, in (0, 2).
        subsets: number of ordered subsets; None for one per view.
        nonnegative: keep ``x >= 0``.

    Example:
        >>> SART(max_iter=3, nonnegative=True)
        SART(max_iter=3, relaxation=0.5, subsets=None, nonnegative=True)
    """

    max_iter: int = 10
    relaxation: float = 0.5
    subsets: int | None = None
    nonnegative: bool = False

    def __post_init__(self) -> None:
        require(self.max_iter >= 1, "SART: max_iter", "at least 1", self.max_iter)
        require(0 < self.relaxation < 2, "SART: relaxation", "a number in (0, 2)", self.relaxation)
        require(self.subsets is None or self.subsets >= 1, "SART: subsets", "at least 1",
                self.subsets)

    @torch.no_grad()
    def __call__(self, problem: Problem, *, on_step: OnStep | None = None) -> Tensor:
        """Reconstruct.

        Args:
            problem: y, line integrals, ``(*batch, *A.codomain.shape)``, real; A, its operator,
                with views (a projector).
            on_step: called after every pass.

        Returns:
            ``(*batch, *A.domain.shape)``.

        Raises:
            InputError: ``A`` has no views or too few; ``y`` has another shape or dtype than ``A``
                gives, or is not finite.
        """
        y, A = problem.y, problem.linear
        x = y.new_zeros(*y.shape[: A.codomain.batch_ndim(y)], *A.domain.shape)
        blocks = []
        for index, A_k in view_subsets(A, self.subsets, "SART"):
            R = inverse_sums(A_k(y.new_ones(A.domain.shape)), "SART: row")
            C = inverse_sums(A_k.adjoint(y.new_ones(A_k.codomain.shape)), "SART: column")
            blocks.append((y.index_select(view_axis(A), index.to(y.device)), A_k, R, C))
        for i in range(self.max_iter):
            for y_k, A_k, R, C in blocks:
                x = x + self.relaxation * C * A_k.adjoint(R * (y_k - A_k(x)))
                if self.nonnegative:
                    x.clamp_min_(0)
            if on_step is not None:
                on_step(i, x)
        return x
