"""OSEM: maximum likelihood for emission counts, by ordered subsets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.operators.base import LinearOperator
from medinv.problem import Problem
from medinv.samplers import OnStep
from medinv.solvers.base import require
from medinv.solvers.sirt import inverse_sums
from medinv.solvers.subsets import view_axis, view_subsets


@dataclass(frozen=True)
class OSEM:
    """``x <- x / (A_k^T 1) A_k^T (y_k / (A_k x + background))`` over ordered subsets of views.

    Hudson and Larkin, "Accelerated image reconstruction using ordered subsets of projection data",
    IEEE Trans. Med. Imaging 13 (1994), 601. For emission counts ``y ~ Poisson(A x + background)``
    (PET, SPECT), whose likelihood one subset maximises: EM of Shepp and Vardi, IEEE Trans. Med.
    Imaging 1 (1982), 113. More subsets go faster and end near the maximum, in a cycle. For CT line
    integrals it is a nonnegative method without a noise model; for transmission counts take the
    logarithm and weighted least squares (`medinv.operators.weighted.whiten`). It starts from the
    uniform image with the right total count; stopping early regularises.

    Args:
        max_iter: passes over all views.
        subsets: number of ordered subsets.
        background: expected counts per sample that do not come from ``x`` (randoms, scatter).

    Example:
        >>> OSEM(max_iter=4, subsets=8)
        OSEM(max_iter=4, subsets=8, background=0.0)
    """

    max_iter: int = 10
    subsets: int = 1
    background: float = 0.0

    def __post_init__(self) -> None:
        require(self.max_iter >= 1, "OSEM: max_iter", "at least 1", self.max_iter)
        require(self.subsets >= 1, "OSEM: subsets", "at least 1", self.subsets)
        require(self.background >= 0, "OSEM: background", "a number >= 0", self.background)

    @torch.no_grad()
    def __call__(self, problem: Problem, *, on_step: OnStep | None = None) -> Tensor:
        """Reconstruct.

        Args:
            problem: y, counts, ``(*batch, *A.codomain.shape)``, at least 0; A, expected counts
                per activity, without negative entries, with views.
            on_step: called after every pass.

        Returns:
            Activity, ``(*batch, *A.domain.shape)``, at least 0.

        Raises:
            InputError: ``A`` has no views or too few; ``y`` has another shape or dtype than ``A``
                gives, or is negative or not finite.
        """
        y, A = problem.y, problem.linear
        least = float(y.min()) if y.numel() else 0.0
        require(least >= 0, "OSEM: y", "counts >= 0", least)
        blocks = []
        for index, A_k in view_subsets(A, self.subsets, "OSEM"):
            C = inverse_sums(A_k.adjoint(y.new_ones(A_k.codomain.shape)), "OSEM: column")
            blocks.append((y.index_select(view_axis(A), index.to(y.device)), A_k, C))
        x = _uniform(y, A)
        for i in range(self.max_iter):
            for y_k, A_k, C in blocks:
                expected = A_k(x) + self.background
                ratio = torch.where(expected > 0, y_k / expected, 0.0)
                x = torch.where(C > 0, x * C * A_k.adjoint(ratio), x)
            if on_step is not None:
                on_step(i, x)
        return x


def _uniform(y: Tensor, A: LinearOperator) -> Tensor:
    """The constant image whose expected counts sum to those of ``y``, item by item."""
    axes = tuple(range(-len(A.codomain.shape), 0))
    seen = (A.adjoint(y.new_ones(A.codomain.shape)) > 0).to(y)
    level: Tensor = y.sum(axes) / A(seen).sum()
    return level.reshape(*level.shape, *(1,) * len(A.domain.shape)) * seen
