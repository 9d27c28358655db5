"""Coupling of neighbouring slices by total variation along z, one ADMM sweep at a time."""

from __future__ import annotations

from torch import Tensor

from medinv.operators.linalg import (
    clip_magnitude,
    finite_difference,
    finite_difference_adjoint,
)


class TotalVariationZ:
    """State of ADMM for ``weight ||D_z x||_1`` with the split ``z = D_z x`` and scaled dual ``w``.

    The state is kept from one diffusion step to the next (the variable sharing of DiffusionMBIR,
    arXiv:2211.10655). Only ``v = D_z x + w`` is stored: the new ``w`` is ``v`` with its magnitude
    clipped to ``weight / rho``, and ``z = v - w`` is the soft threshold.

    Args:
        weight: lambda, in units of a data term ``||A x - y||^2 / 2`` with ``||A|| = 1``.
        rho: the penalty of the split; it sets the speed, not the solution.
    """

    def __init__(self, weight: float, rho: float) -> None:
        self.weight, self.rho = weight, rho
        self.v: Tensor | None = None

    def add_normal(self, out: Tensor, x: Tensor) -> Tensor:
        """Add ``rho D_z^T D_z x`` to ``out``, without temporaries."""
        n, rho = x.shape[-3], self.rho
        for here, there in ((0, 1), (1, 0)):  # each slice against the next, then the previous
            part = out.narrow(-3, here, n - 1)
            part.add_(x.narrow(-3, here, n - 1), alpha=rho)
            part.sub_(x.narrow(-3, there, n - 1), alpha=rho)
        return out

    def add_right_hand_side(self, out: Tensor, x: Tensor) -> Tensor:
        """Add ``rho D_z^T (z - w)``; before the first sweep ``z = D_z x`` and ``w = 0``."""
        if self.v is None:
            return self.add_normal(out, x)
        target = self.v.sub(self._dual(), alpha=2)
        return out.add_(finite_difference_adjoint(target, -3), alpha=self.rho)

    def update(self, x: Tensor) -> None:
        """``z <- soft(D_z x + w)``, ``w <- w + D_z x - z``."""
        step = finite_difference(x, -3)
        self.v = step if self.v is None else step.add_(self._dual())

    def _dual(self) -> Tensor:
        """``w``."""
        assert self.v is not None
        return clip_magnitude(self.v, self.weight / self.rho)
