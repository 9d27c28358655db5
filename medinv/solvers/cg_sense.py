"""CG-SENSE: damped least squares by conjugate gradients on the normal equations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.operators import linalg
from medinv.problem import Problem
from medinv.samplers import OnStep
from medinv.solvers.base import require


@dataclass(frozen=True)
class CGSENSE:
    """``argmin ||A x - y||^2 + damping ||x||^2`` by conjugate gradients, item by item.

    Pruessmann, Weiger, Börnert and Boesiger, "Advances in sensitivity encoding with arbitrary
    k-space trajectories", Magn. Reson. Med. 46 (2001), 638. With ``damping = 0`` the number of
    iterations is the regulariser. Any `LinearOperator` will do; where its normal operator is
    fused, as in `CartesianMRI`, that is what runs.

    Args:
        max_iter: largest number of iterations.
        tol: an item stops at ``||r|| <= tol ||A^H y||``, with ``r`` the normal residual.
        damping: Tikhonov weight, in units of ``||A|| = 1``.

    Example:
        >>> CGSENSE(max_iter=20, damping=1e-3)
        CGSENSE(max_iter=20, tol=1e-06, damping=0.001)
    """

    max_iter: int = 30
    tol: float = 1e-6
    damping: float = 0.0

    def __post_init__(self) -> None:
        require(self.max_iter >= 1, "CGSENSE: max_iter", "at least 1", self.max_iter)
        require(self.tol >= 0, "CGSENSE: tol", "a number >= 0", self.tol)
        require(self.damping >= 0, "CGSENSE: damping", "a number >= 0", self.damping)

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
        damping = self.damping * A.norm() ** 2 if self.damping else 0.0
        return linalg.cg(lambda x: A.normal(x) + damping * x if damping else A.normal(x),
                         A.adjoint(y), max_iter=self.max_iter, tol=self.tol,
                         batch_ndim=A.codomain.batch_ndim(y), on_step=on_step)
