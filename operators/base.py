"""Linear operators between declared spaces.

A `LinearOperator` is a map ``y = A x`` with its exact adjoint, ``<A x, y> = <x, A^H y>``, for the
Hermitian inner product ``<u, v> = sum conj(u) v``. Leading axes beyond `Space.shape` are batch
axes and never interact. The adjoint is also the backward of the forward (and the other way
round), so an operator needs no differentiable implementation. A subclass implements ``_forward``
and ``_adjoint`` (and ``_normal`` where a fused ``A^H A`` is faster); shapes and dtypes are checked
once, on entry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from medinv.errors import ShapeError
from medinv.operators import linalg


@dataclass(frozen=True)
class Space:
    """The shape (without batch axes) and dtype of an operator's input or output.

    Attributes:
        shape: sizes of the axes that the operator acts on.
        dtype: dtype of the elements.
        axes: names of the axes, for error messages only.

    Example:
        >>> Space((2, 3), torch.float32) == Space((2, 3), torch.float32, ("view", "col"))
        True
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    axes: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        """The shape, with the axes' names where they are known."""
        names = [f"{name} " for name in self.axes] or [""] * len(self.shape)
        sizes = "".join(f", {name}{n}" for name, n in zip(names, self.shape, strict=True))
        return f"(*batch{sizes})"

    def check(self, x: Tensor, name: str) -> None:
        """Raise `ShapeError` unless ``x`` is ``(*batch, *shape)`` of this dtype."""
        n = len(self.shape)
        if x.ndim < n or tuple(x.shape[x.ndim - n :]) != self.shape:
            raise ShapeError(
                f"{name}: expected {self}, got {tuple(x.shape)}; "
                "crop or reorder the input, or build the operator for its shape."
            )
        if x.dtype != self.dtype:
            raise ShapeError(f"{name}: expected {self.dtype}, got {x.dtype}; "
                             f"convert with .to({self.dtype}).")

    def batch_ndim(self, x: Tensor) -> int:
        """Number of leading batch axes of ``x``."""
        return x.ndim - len(self.shape)


_Map = Callable[[Tensor], Tensor]


class _AdjointBackward(torch.autograd.Function):
    """Apply a linear map whose derivative is itself and whose backward is its adjoint."""

    @staticmethod
    def forward(x: Tensor, apply: _Map, adjoint: _Map) -> Tensor:
        return apply(x)

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, _Map, _Map], output: Tensor) -> None:
        ctx.maps = inputs[1:]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None, None]:
        apply, adjoint = ctx.maps  # type: ignore[attr-defined]
        return _linear(grad, adjoint, apply), None, None

    @staticmethod
    def jvp(ctx: object, tangent: Tensor, *_: None) -> Tensor:
        apply, adjoint = ctx.maps  # type: ignore[attr-defined]
        return _linear(tangent, apply, adjoint)


def _linear(x: Tensor, apply: _Map, adjoint: _Map) -> Tensor:
    """``apply(x)``, with ``adjoint`` as its backward."""
    result: Tensor = _AdjointBackward.apply(x, apply, adjoint)  # type: ignore[no-untyped-call]
    return result


class LinearOperator(nn.Module, ABC):
    """A linear map ``A: domain -> codomain`` with its exact adjoint.

    Attributes:
        domain: shape and dtype of ``x``, without batch axes.
        codomain: shape and dtype of ``y``, without batch axes.
    """

    domain: Space
    codomain: Space

    def __init__(self, domain: Space, codomain: Space) -> None:
        super().__init__()
        self.domain, self.codomain = domain, codomain
        self._norm: float | None = None

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def _normal(self, x: Tensor) -> Tensor:
        return self._adjoint(self._forward(x))

    def forward(self, x: Tensor) -> Tensor:
        """``A x``: ``(*batch, *domain.shape)`` to ``(*batch, *codomain.shape)``."""
        self.domain.check(x, type(self).__name__)
        return _linear(x, self._forward, self._adjoint)

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^H y``: ``(*batch, *codomain.shape)`` to ``(*batch, *domain.shape)``."""
        self.codomain.check(y, f"{type(self).__name__}.adjoint")
        return _linear(y, self._adjoint, self._forward)

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``, fused where the operator has a faster form."""
        self.domain.check(x, f"{type(self).__name__}.normal")
        return _linear(x, self._normal, self._normal)

    @property
    def H(self) -> LinearOperator:
        """The adjoint as an operator."""
        return Adjoint(self)

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        return Composition(self, other)

    def __rmul__(self, factor: complex) -> LinearOperator:
        return Scaled(self, factor)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, other)

    def norm(self) -> float:
        """Spectral norm ``||A||``, by power iteration on ``A^H A`` (computed once)."""
        if self._norm is None:
            self._norm = linalg.power_norm(self._normal, self.domain.shape, self.domain.dtype,
                                           device=self.device)
        return self._norm

    def normalized(self) -> LinearOperator:
        """``A / ||A||``, the form in which data-consistency weights are stated."""
        if self.norm() == 0:
            raise ShapeError(f"{type(self).__name__}: the operator is 0 (is the mask empty, or "
                             "are the maps zero?); it has no normalized form.")
        return (1 / self.norm()) * self

    def solve(self, y: Tensor, *, damping: float = 0.0, x0: Tensor | None = None,
              max_iter: int = 50, tol: float = 1e-6) -> Tensor:
        """``argmin ||A x - y||^2 + damping ||x||^2`` by conjugate gradients, item by item.

        Args:
            y: ``(*batch, *codomain.shape)``.
            damping: weight of ``||x||^2``, at least 0.
            x0: start, ``(*batch, *domain.shape)``; zero if None.
            max_iter: largest number of steps.
            tol: relative residual of the normal equations at which an item stops.

        Returns:
            ``x``, ``(*batch, *domain.shape)``; its gradient in ``y`` solves the same equations.
        """
        def inverse(b: Tensor, start: Tensor | None = None) -> Tensor:
            return linalg.cg(lambda v: self._normal(v) + damping * v, b, start, max_iter=max_iter,
                             tol=tol, batch_ndim=self.domain.batch_ndim(b))

        return _linear(self.adjoint(y), lambda b: inverse(b, x0), inverse)

    @property
    def device(self) -> torch.device:
        """Device of the operator's buffers (CPU where it has none)."""
        return next(self.buffers(), torch.empty(0)).device


class Adjoint(LinearOperator):
    """``A^H`` as an operator."""

    def __init__(self, op: LinearOperator) -> None:
        super().__init__(op.codomain, op.domain)
        self.op = op

    def _forward(self, x: Tensor) -> Tensor:
        return self.op._adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.op._forward(y)

    def norm(self) -> float:
        """``||A^H|| = ||A||``."""
        return self.op.norm()

    @property
    def H(self) -> LinearOperator:
        """The operator itself."""
        return self.op


class Composition(LinearOperator):
    """``A B``."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        if outer.domain != inner.codomain:
            raise ShapeError(
                f"A @ B: A takes {outer.domain} but B gives {inner.codomain}; they must be equal"
            )
        super().__init__(inner.domain, outer.codomain)
        self.outer, self.inner = outer, inner

    def _forward(self, x: Tensor) -> Tensor:
        return self.outer._forward(self.inner._forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner._adjoint(self.outer._adjoint(y))

    def _normal(self, x: Tensor) -> Tensor:
        return self.inner._adjoint(self.outer._normal(self.inner._forward(x)))


class Scaled(LinearOperator):
    """``a A`` for a number ``a``."""

    def __init__(self, op: LinearOperator, factor: complex) -> None:
        super().__init__(op.domain, op.codomain)
        self.op = op
        self.factor = factor if isinstance(factor, complex) else float(factor)

    def _forward(self, x: Tensor) -> Tensor:
        return self.factor * self.op._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.factor.conjugate() * self.op._adjoint(y)

    def _normal(self, x: Tensor) -> Tensor:
        return abs(self.factor) ** 2 * self.op._normal(x)

    def norm(self) -> float:
        """``|a| ||A||``."""
        return abs(self.factor) * self.op.norm()


class Sum(LinearOperator):
    """``A + B``."""

    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        if (left.domain, left.codomain) != (right.domain, right.codomain):
            raise ShapeError(
                f"A + B: {left.domain} -> {left.codomain} and {right.domain} -> {right.codomain} "
                "must be equal"
            )
        super().__init__(left.domain, left.codomain)
        self.left, self.right = left, right

    def _forward(self, x: Tensor) -> Tensor:
        return self.left._forward(x) + self.right._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.left._adjoint(y) + self.right._adjoint(y)


class Stack(LinearOperator):
    """Several operators of one domain; ``y`` is ``(*batch, n, *codomain.shape)``."""

    def __init__(self, ops: Sequence[LinearOperator]) -> None:
        first = ops[0]
        if any((op.domain, op.codomain) != (first.domain, first.codomain) for op in ops):
            raise ShapeError("stack: all operators must share domain and codomain")
        shape = (len(ops), *first.codomain.shape)
        super().__init__(first.domain, Space(shape, first.codomain.dtype))
        self.ops = nn.ModuleList(ops)

    def _forward(self, x: Tensor) -> Tensor:
        axis = -1 - len(self.codomain.shape[1:])
        return torch.stack([op._forward(x) for op in self.ops], dim=axis)  # type: ignore[operator]

    def _adjoint(self, y: Tensor) -> Tensor:
        parts = y.unbind(-len(self.codomain.shape))
        return sum(op._adjoint(p) for op, p in zip(self.ops, parts, strict=True))  # type: ignore


def stack(ops: Sequence[LinearOperator]) -> LinearOperator:
    """Several measurements of one ``x`` as one operator (see `Stack`)."""
    return Stack(ops)
