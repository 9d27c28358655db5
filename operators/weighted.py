"""Weighted least squares for every solver: the operator ``W^(1/2) A``.

With ``W`` the inverse variances of ``y = A x + n``, ``||W^(1/2) (A x - y)||^2`` is the negative
log-likelihood, so a solver of ``min ||A x - y||^2`` that gets `whiten`'s pair minimises it without
knowing (penalised weighted least squares, where it has a penalty). The noise of the whitened
measurement has standard deviation 1, which is what a solver's ``noise_std`` then is.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from medinv.errors import ShapeError
from medinv.operators.base import LinearOperator, Space


@runtime_checkable
class Tomographic(Protocol):
    """An operator whose measurement begins with a view axis, ``(*batch, view, ...)``."""

    def views(self, index: Tensor) -> LinearOperator:
        """The operator of the views ``index``, ``(n,)``, in that order."""


class Weighted(LinearOperator):
    """``W^(1/2) A`` with one weight per sample; its normal operator is ``A^H W A``.

    Args:
        op: ``A``.
        weights: ``W``, ``(*slices, *A.codomain.shape)``, finite and at least 0. Weights of
            ``slices`` make those batch axes part of the operator.

    Raises:
        ShapeError: weights of another shape, negative or not finite.

    Example:
        >>> import torch
        >>> from medinv.operators import ParallelBeam
        >>> A = ParallelBeam((4, 4), torch.zeros(1), 1.0, n_cols=4)
        >>> Weighted(A, torch.tensor([[4.0, 0.0, 1.0, 1.0]]))(torch.ones(4, 4)).tolist()
        [[8.0, 0.0, 4.0, 4.0]]
    """

    root: Tensor

    def __init__(self, op: LinearOperator, weights: Tensor) -> None:
        _check(op, weights)
        self._n_slices = weights.ndim - len(op.codomain.shape)
        slices = tuple(weights.shape[: self._n_slices])
        super().__init__(_stacked(op.domain, slices), _stacked(op.codomain, slices))
        self.op = op
        self.register_buffer("root", weights.to(op.codomain.dtype.to_real()).sqrt())

    def _forward(self, x: Tensor) -> Tensor:
        return self.root * self.op._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.op._adjoint(self.root * y)

    def views(self, index: Tensor) -> LinearOperator:
        """The operator of some views with their weights (see `Tomographic`)."""
        if not isinstance(self.op, Tomographic):
            raise ShapeError(f"Weighted: {type(self.op).__name__} has no views to choose from.")
        return Weighted(self.op.views(index), self.root.index_select(self._n_slices, index) ** 2)


def whiten(A: LinearOperator, y: Tensor, weights: Tensor) -> tuple[Weighted, Tensor]:
    """``(W^(1/2) A, W^(1/2) y)``: what to pass to a solver for weighted least squares.

    `SIRT` and `SART` divide by row sums, so they see the square roots of the weights instead.

    Args:
        A: operator.
        y: measurement, ``(*batch, *A.codomain.shape)``.
        weights: inverse variance of each sample, ``(*slices, *A.codomain.shape)``, such as
            `medinv.operators.noise.statistical_weights` gives.

    Raises:
        ShapeError: weights of another shape, negative or not finite.

    Example:
        >>> import torch
        >>> from medinv.operators import ParallelBeam
        >>> A = ParallelBeam((4, 4), torch.zeros(1), 1.0, n_cols=4)
        >>> y = torch.full((1, 4), 8.0)
        >>> whitened, y_whitened = whiten(A, y, torch.full((1, 4), 4.0))
        >>> whitened.adjoint(y_whitened)[0, 0].item()  # A^T W y
        32.0
    """
    whitened = Weighted(A, weights)
    whitened.codomain.check(y, "whiten: y")
    return whitened, whitened.root * y


def _stacked(space: Space, slices: tuple[int, ...]) -> Space:
    axes = ("slice",) * len(slices) + space.axes if space.axes else ()
    return Space((*slices, *space.shape), space.dtype, axes)


def _check(op: LinearOperator, weights: Tensor) -> None:
    shape = op.codomain.shape
    if weights.ndim < len(shape) or tuple(weights.shape[weights.ndim - len(shape):]) != shape:
        raise ShapeError(f"Weighted: expected one weight per sample, {op.codomain}, got "
                         f"{tuple(weights.shape)}; pass weights shaped like the measurement.")
    if not weights.is_floating_point():
        raise ShapeError(f"Weighted: weights are {weights.dtype}; convert with .float().")
    wrong = int((~(weights.isfinite() & (weights >= 0))).sum())
    if wrong:
        raise ShapeError(f"Weighted: {wrong} of {weights.numel()} weights are negative or not "
                         "finite; a ray that should not count has weight 0.")
