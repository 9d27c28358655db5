"""What the solvers share: checks of settings, units, per-item stopping.

An *item* is one independent reconstruction: the axes of ``x`` before those that the operator or
the regulariser acts on count items. Every scalar that a solver derives from data (a unit, a
stopping decision) is per item, so that items of one batch never influence each other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medinv.errors import InputError
from medinv.operators.base import LinearOperator


def require(valid: bool, name: str, expected: str, got: object) -> None:
    """Raise `InputError` with the argument's name, what was expected and what came.

    NaN and infinity are never valid, in a tuple neither.

    Example:
        >>> require(True, "TV: weight", "a number >= 0", 0.1)
    """
    numbers = got if isinstance(got, tuple) else (got,)
    if not valid or not all(math.isfinite(n) for n in numbers if isinstance(n, float)):
        raise InputError(f"{name}: expected {expected}, got {got!r}")


def item_ndim(x: Tensor, A: LinearOperator, reach: int = 0) -> int:
    """Number of leading axes of an image that count independent items.

    Args:
        x: image, ``(*batch, *A.domain.shape)``.
        A: its operator.
        reach: number of trailing axes that the regulariser couples, where it couples more than
            ``A`` does (3D regularisation of slices that were measured one by one).
    """
    return max(x.ndim - max(len(A.domain.shape), reach), 0)


def item_norm(x: Tensor, items: int) -> Tensor:
    """Euclidean norm of each item, with singleton axes kept for broadcasting.

    Args:
        x: real or complex, ``(*items, ...)``.
        items: number of leading axes that count items.
    """
    axes = tuple(range(items, x.ndim))
    norm: Tensor = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
    return norm


def unit_vectors(x: Tensor, items: int) -> Tensor:
    """Each item divided by its norm; 0 where that is 0.

    Example:
        >>> unit_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 1).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    norm = item_norm(x, items)
    return torch.where(norm > 0, x / norm, 0.0)


def intensity_unit(backprojection: Tensor, items: int) -> Tensor:
    """The intensity unit of each item: ``max |A^H y|`` for an operator with ``||A|| = 1``.

    Weights of regularisers are stated in this unit, so that a weight means the same for k-space
    in any scanner's units and for attenuation in 1/mm.

    Args:
        backprojection: ``A^H y`` with both in units of ``||A|| = 1``, ``(*items, ...)``.
        items: number of leading axes that count items.

    Returns:
        A real tensor with singleton axes kept for broadcasting.
    """
    return backprojection.abs().amax(dim=tuple(range(items, backprojection.ndim)), keepdim=True)


class Stopping:
    """Stop each item when a step changes it by at most ``tol`` of its norm.

    An item that has stopped keeps its value while the others go on. ``tol = 0`` never stops and
    costs nothing.

    Args:
        tol: largest relative change ``||x_new - x|| / ||x_new||`` of a converged item.
        items: number of leading axes that count items.

    Example:
        >>> stopping = Stopping(tol=0.1, items=0)
        >>> for x in (torch.ones(2), torch.full((2,), 1.05)):
        ...     x = stopping.update(x)
        >>> stopping.finished
        True
    """

    def __init__(self, tol: float, items: int) -> None:
        self._tol, self._items = tol, items
        self._previous: Tensor | None = None
        self._done: Tensor | None = None

    def update(self, x: Tensor) -> Tensor:
        """The iterate ``x`` with converged items put back to the value they stopped at."""
        if self._tol == 0:
            return x
        if self._previous is not None:
            x = self._settle(x, self._previous)
        self._previous = x
        return x

    def _settle(self, x: Tensor, previous: Tensor) -> Tensor:
        if self._done is not None and self._done.any():
            x = torch.where(self._done, previous, x)
        change = item_norm(x - previous, self._items)
        self._done = change <= self._tol * item_norm(x, self._items)
        return x

    @property
    def finished(self) -> bool:
        """Whether every item has converged."""
        return self._done is not None and bool(self._done.all())
