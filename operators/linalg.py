"""Linear algebra on batched, possibly complex tensors, through plain callables.

Every inner product conjugates its first argument. Leading ``batch_ndim`` axes are items: scalars
(step sizes, norms, stopping) are per item, so that no item influences another.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _dot(a: Tensor, b: Tensor, batch_ndim: int) -> Tensor:
    """Real part of ``<a, b>`` per item, with singleton axes kept for broadcasting."""
    if batch_ndim == 0:
        return torch.vdot(a.flatten(), b.flatten()).real
    axes = tuple(range(batch_ndim, a.ndim))
    prod = a.conj() * b
    return (prod.real if prod.is_complex() else prod).sum(axes, keepdim=True)


def cg(matvec: Callable[[Tensor], Tensor], b: Tensor, x0: Tensor | None = None, *,
       max_iter: int, tol: float = 0.0, batch_ndim: int = 0) -> Tensor:
    """Solve ``M x = b`` for a Hermitian positive semidefinite ``M`` by conjugate gradients."""
    raise NotImplementedError


def power_norm(normal: Callable[[Tensor], Tensor], shape: tuple[int, ...], dtype: torch.dtype, *,
               device: torch.device | None = None, max_iter: int = 50, tol: float = 1e-4) -> float:
    """Spectral norm ``||A||`` from ``A^H A``."""
    raise NotImplementedError
