"""Ordered subsets of views, which make the first passes over the data count more."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medinv.errors import InputError
from medinv.operators.base import LinearOperator
from medinv.operators.weighted import Tomographic

_GOLDEN = (math.sqrt(5) - 1) / 2


def view_subsets(A: LinearOperator, n_subsets: int | None,
                 name: str) -> list[tuple[Tensor, LinearOperator]]:
    """Interleaved subsets of views and their operators, in an order in which neighbours differ.

    Subset ``k`` has views ``k, k + n, k + 2 n, ...``; the subsets are visited by steps of the
    golden section (Köhler, IEEE Nucl. Sci. Symp. 2004, 3961).

    Args:
        A: operator with a view axis.
        n_subsets: number of subsets; None for one per view.
        name: of the solver, for the error message.

    Returns:
        Pairs of the views' indices and their operator.

    Raises:
        InputError: ``A`` has no views, or fewer than ``n_subsets``.

    Example:
        >>> from medinv.operators import ParallelBeam
        >>> A = ParallelBeam((4, 4), torch.arange(5) * torch.pi / 5, 1.0)
        >>> [index.tolist() for index, _ in view_subsets(A, 2, "SART")]
        [[0, 2, 4], [1, 3]]
    """
    if not isinstance(A, Tomographic):
        raise InputError(f"{name}: expected an operator with views, such as ParallelBeam or "
                         f"FanBeam, got {type(A).__name__}; use CGLS or SIRT")
    n_views = A.codomain.shape[view_axis(A)]
    n = n_views if n_subsets is None else n_subsets
    if n > n_views:
        raise InputError(f"{name}: subsets: expected at most {n_views}, the number of views, "
                         f"got {n}")
    order = sorted(range(n), key=lambda k: k * _GOLDEN % 1)
    indices = [torch.arange(k, n_views, n) for k in order]
    return [(index, A.views(index)) for index in indices]


def view_axis(A: LinearOperator) -> int:
    """The view axis of the measurement, counted from the end."""
    return -len(A.codomain.shape) + A.codomain.axes.index("view")
