"""Coupling of neighbouring slices by total variation along z, one ADMM sweep at a time."""

from __future__ import annotations

from torch import Tensor

from medinv.operators.linalg import (
    finite_difference,
    finite_difference_adjoint,
    soft_threshold,
)


class TotalVariationZ:
    """State of ADMM for ``weight ||D_z x||_1`` with the split ``z = D_z x`` and scaled dual ``w``.

    The state is kept from one diffusion step to the next (the variable sharing of DiffusionMBIR,
    arXiv:2211.10655). Only ``v = D_z x + w`` is stored: ``z = soft(v)`` and ``w = v - z`` follow.

    Args:
        weight: lambda, in units of a data term ``||A x - y||^2 / 2`` with ``||A|| = 1``.
        rho: the penalty of the split; it sets the speed, not the solution.
    """

    def __init__(self, weight: float, rho: float) -> None:
        self.weight, self.rho = weight, rho
        self.v: Tensor | None = None

    def normal(self, x: Tensor) -> Tensor:
        """``rho D_z^T D_z x``."""
        return finite_difference_adjoint(finite_difference(x, -3), -3).mul_(self.rho)

    def right_hand_side(self, x: Tensor) -> Tensor:
        """``rho D_z^T (z - w)``, with ``z = D_z x`` and ``w = 0`` before the first sweep."""
        if self.v is None:
            return self.normal(x)
        target = soft_threshold(self.v, self.weight / self.rho).mul_(2).sub_(self.v)
        return finite_difference_adjoint(target, -3).mul_(self.rho)

    def update(self, x: Tensor) -> None:
        """``z <- soft(D_z x + w)``, ``w <- w + D_z x - z``."""
        step = finite_difference(x, -3)
        if self.v is None:
            self.v = step
        else:  # w = v - soft(v)
            self.v = self.v.sub_(soft_threshold(self.v, self.weight / self.rho)).add_(step)
