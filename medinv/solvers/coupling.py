"""Coupling of neighbouring voxels by total variation, one ADMM sweep at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from medinv.operators.linalg import (
    cg,
    clip_magnitude,
    finite_difference,
    finite_difference_adjoint,
)


class SplitTV:
    """State of ADMM for ``weight ||D x||_1``: the split ``z = D x`` and the scaled dual ``w``.

    The state is kept from one diffusion step to the next (the variable sharing of DiffusionMBIR,
    arXiv:2211.10655). Only ``v = D x + w`` is stored: the new ``w`` is ``v`` with its magnitude
    clipped to ``weight / rho``, and ``z = v - w`` is the soft threshold.

    Args:
        weight: lambda, in units of a data term ``||A x - y||^2 / 2`` with ``||A|| = 1``.
        rho: the penalty of the split; it sets the speed, not the solution.
        axes: axes that are differenced, counted from the end; -3 couples slices.
        periodic: whether the last voxel neighbours the first, as in the published code; a body
            that ends at the border does not wrap (Neumann).

    Example:
        >>> import torch
        >>> tv, x = SplitTV(weight=0.25, rho=1.0), torch.tensor([0.0, 1.0]).reshape(2, 1, 1)
        >>> for _ in range(50):  # min ||x - b||^2 / 2 + weight ||D x||_1
        ...     x = tv.sweep(x, torch.tensor([0.0, 1.0]).reshape(2, 1, 1), torch.clone, 2)
        >>> x.flatten().round(decimals=3).tolist()
        [0.25, 0.75]
    """

    def __init__(self, weight: float, rho: float, axes: tuple[int, ...] = (-3,), *,
                 periodic: bool = False) -> None:
        self.weight, self.rho, self.axes, self.periodic = weight, rho, axes, periodic
        self.v: dict[int, Tensor] = {}

    def state(self) -> dict[str, Any]:
        """``v`` by axis, for a snapshot."""
        return {"v": self.v}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self.v = state["v"]

    def sweep(self, x: Tensor, b: Tensor, normal: Callable[[Tensor], Tensor],
              cg_iter: int) -> Tensor:
        """One sweep for ``<x, M x> / 2 - <b, x> + weight ||D x||_1``, in the memory of ``x``.

        Args:
            x: start (..., z, y, x); lost.
            b: ``A^H y``; lost.
            normal: ``M``, ``A^H A`` (plus a multiple of the identity); returns a new tensor.
            cg_iter: conjugate gradient steps, all voxels with common step sizes.
        """
        self.add_right_hand_side(b, x)
        x = cg(lambda v: self.add_normal(normal(v), v), b, x, max_iter=cg_iter, overwrite=True)
        self.update(x)
        return x

    def add_normal(self, out: Tensor, x: Tensor) -> Tensor:
        """Add ``rho D^T D x`` to ``out``, without temporaries."""
        for axis in self.axes:
            n = x.shape[axis]
            pairs = [(0, 1, n - 1), (1, 0, n - 1)]  # each against the next, then the previous
            pairs += [(0, n - 1, 1), (n - 1, 0, 1)] if self.periodic else []
            for here, there, length in pairs:
                part = out.narrow(axis, here, length)
                part.add_(x.narrow(axis, here, length), alpha=self.rho)
                part.sub_(x.narrow(axis, there, length), alpha=self.rho)
        return out

    def add_right_hand_side(self, out: Tensor, x: Tensor) -> Tensor:
        """Add ``rho D^T (z - w)``; before the first sweep ``z = D x`` and ``w = 0``."""
        if not self.v:
            return self.add_normal(out, x)
        for axis, v in self.v.items():
            target = v.sub(self._dual(v), alpha=2)
            out.add_(finite_difference_adjoint(target, axis, self.periodic), alpha=self.rho)
        return out

    def update(self, x: Tensor) -> None:
        """``z <- soft(D x + w)``, ``w <- w + D x - z``."""
        for axis in self.axes:
            step = finite_difference(x, axis, self.periodic)
            self.v[axis] = step.add_(self._dual(self.v[axis])) if axis in self.v else step

    def _dual(self, v: Tensor) -> Tensor:
        """``w``."""
        return clip_magnitude(v, self.weight / self.rho)
