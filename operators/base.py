"""Operators between declared spaces.

An `Operator` is a differentiable map ``y = F(x)`` that knows its derivative. A `LinearOperator` is
its own derivative, ``y = A x``, with the exact adjoint ``<A x, y> = <x, A^H y>`` for the Hermitian
inner product ``<u, v> = sum conj(u) v``. Leading axes beyond `Space.shape` are batch axes and
never interact, so `torch.func.vmap` is one more of them. The adjoint is also the backward of the
forward (and the other way round), so a linear operator needs no differentiable implementation: a
subclass implements ``_forward`` and ``_adjoint`` (and ``_normal`` where a fused ``A^H A`` is
faster). Shape, dtype and device are checked once, on entry.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from medinv.arguments import checked
from medinv.errors import InputError, ShapeError
from medinv.operators import linalg


@checked
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
            numpy_name = str(self.dtype).removeprefix("torch.")
            raise ShapeError(f"{name}: expected {self.dtype}, got {x.dtype}; convert with "
                             f".to({self.dtype}), in NumPy with .astype({numpy_name!r}).")

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

    @staticmethod
    def vmap(info: object, in_dims: tuple[int, None, None], x: Tensor, apply: _Map,  # noqa: ARG004
             adjoint: _Map) -> tuple[Tensor, int]:
        return _linear(x.movedim(in_dims[0], 0), apply, adjoint), 0


def _linear(x: Tensor, apply: _Map, adjoint: _Map) -> Tensor:
    """``apply(x)``, with ``adjoint`` as its backward."""
    result: Tensor = _AdjointBackward.apply(x, apply, adjoint)  # type: ignore[no-untyped-call]
    return result


class Operator(nn.Module, ABC):
    """A differentiable map ``F: domain -> codomain``, linear or not, that knows its derivative.

    A subclass implements ``_forward``, in terms that torch differentiates, and `linearize`.

    Attributes:
        domain: shape and dtype of ``x``, without batch axes.
        codomain: shape and dtype of ``y``, without batch axes.

    Raises:
        ShapeError: an axis of size 0; a batch may be empty.
    """

    domain: Space
    codomain: Space

    def __init__(self, domain: Space, codomain: Space) -> None:
        super().__init__()
        if 0 in (*domain.shape, *codomain.shape):
            raise ShapeError(f"{type(self).__name__}: expected at least one element along each "
                             f"axis, got {domain} to {codomain}; check that there is a coil, a "
                             "slice, a view and a pixel.")
        self.domain, self.codomain = domain, codomain

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def linearize(self, x: Tensor) -> LinearOperator:
        """The derivative ``J`` of ``F`` at ``x``, ``F(x + v) = F(x) + J v + O(|v|^2)``.

        Where ``F`` is not holomorphic, as a magnitude, ``J`` is linear over the reals only and its
        adjoint belongs to ``Re <u, v>``: torch's own convention for gradients, and enough for
        `linalg.cg` and `LinearOperator.solve`.

        Args:
            x: ``(*batch, *domain.shape)``; ``J`` then acts on items of the same batch.
        """

    @checked
    def forward(self, x: Tensor) -> Tensor:
        """``F(x)``: ``(*batch, *domain.shape)`` to ``(*batch, *codomain.shape)``."""
        self._check(self.domain, x)
        return self._forward(x)

    @checked
    def jvp(self, x: Tensor, v: Tensor) -> Tensor:
        """``J v``, the derivative at ``x`` in the direction ``v``; both ``(*batch, *domain)``."""
        y: Tensor = self.linearize(x)(v)
        return y

    @checked
    def vjp(self, x: Tensor, w: Tensor) -> Tensor:
        """``J^H w`` at ``x``: the gradient in ``x`` where ``w`` is the one in ``F(x)``."""
        return self.linearize(x).adjoint(w)

    def extra_repr(self) -> str:
        """The spaces, for ``repr``."""
        dtype = str(self.domain.dtype).removeprefix("torch.")
        return f"{self.domain} {dtype} -> {self.codomain}"

    @property
    def device(self) -> torch.device:
        """Device of the operator's buffers (CPU where it has none)."""
        return next(self.buffers(), torch.empty(0)).device

    def _check(self, space: Space, x: Tensor, method: str = "") -> None:
        """Raise unless ``x`` fits the space and lies where the operator's buffers lie."""
        name = type(self).__name__ + method
        space.check(x, name)
        for buffer in self.buffers():
            if buffer.device != x.device:
                raise InputError(
                    f"{name}: the operator is on {buffer.device} but its input on {x.device}; "
                    f'move one of them: operator.to("{x.device}") or x.to("{buffer.device}").'
                )
            return


class LinearOperator(Operator):
    """A linear map ``A: domain -> codomain`` with its exact adjoint.

    Attributes:
        domain: shape and dtype of ``x``, without batch axes.
        codomain: shape and dtype of ``y``, without batch axes.
    """

    def __init__(self, domain: Space, codomain: Space) -> None:
        super().__init__(domain, codomain)
        self._norm: float | None = None

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def _normal(self, x: Tensor) -> Tensor:
        return self._adjoint(self._forward(x))

    @checked
    def forward(self, x: Tensor) -> Tensor:
        """``A x``: ``(*batch, *domain.shape)`` to ``(*batch, *codomain.shape)``."""
        self._check(self.domain, x)
        return _linear(x, self._forward, self._adjoint)

    @checked
    def adjoint(self, y: Tensor) -> Tensor:
        """``A^H y``: ``(*batch, *codomain.shape)`` to ``(*batch, *domain.shape)``."""
        self._check(self.codomain, y, ".adjoint")
        return _linear(y, self._adjoint, self._forward)

    @checked
    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``, fused where the operator has a faster form."""
        self._check(self.domain, x, ".normal")
        return _linear(x, self._normal, self._normal)

    def linearize(self, x: Tensor) -> LinearOperator:  # noqa: ARG002  (the same everywhere)
        """The operator itself, at any ``x``."""
        return self

    @property
    def H(self) -> LinearOperator:
        """The adjoint as an operator."""
        return Adjoint(self)

    @checked
    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        return Composition(self, other)

    @checked
    def __rmul__(self, factor: complex) -> LinearOperator:
        return Scaled(self, factor)

    @checked
    def __add__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, other)

    def norm(self) -> float:
        """Spectral norm ``||A||``, by Lanczos steps on ``A^H A`` (computed once)."""
        if self._norm is None:
            self._norm = linalg.spectral_norm(self._normal, self.domain.shape, self.domain.dtype,
                                              device=self.device)
        return self._norm

    def normalized(self) -> LinearOperator:
        """``A / ||A||``, the form in which data-consistency weights are stated."""
        if self.norm() == 0:
            raise ShapeError(f"{type(self).__name__}: the operator is 0 (is the mask empty, or "
                             "are the maps zero?); it has no normalized form.")
        return (1 / self.norm()) * self

    @checked
    def solve(self, y: Tensor, *, damping: float = 0.0, x0: Tensor | None = None,
              max_iter: int = 50, tol: float = 1e-6) -> Tensor:
        """``argmin ||A x - y||^2 + damping ||x||^2`` by conjugate gradients, item by item.

        Args:
            y: ``(*batch, *codomain.shape)``.
            damping: weight of ``||x||^2``, at least 0.
            x0: start, ``(*batch, *domain.shape)``; zero if None. `torch.func.vmap` may map over
                ``y``, not over ``x0``.
            max_iter: largest number of steps.
            tol: relative residual of the normal equations at which an item stops.

        Returns:
            ``x``, ``(*batch, *domain.shape)``; its gradient in ``y`` solves the same equations.

        Raises:
            ShapeError: ``y`` or ``x0`` does not fit the operator.
            InputError: a setting out of its range.
        """
        if not 0 <= damping < math.inf or max_iter < 0 or not tol >= 0:
            raise InputError(f"{type(self).__name__}.solve: expected damping, max_iter and tol of "
                             f"at least 0, got {damping}, {max_iter} and {tol}")
        if x0 is not None:
            self._check(self.domain, x0, ".solve")
            _check_start(x0, (*y.shape[:self.codomain.batch_ndim(y)], *self.domain.shape))

        def inverse(b: Tensor, start: Tensor | None = None) -> Tensor:
            start = None if start is None else start.expand(b.shape)
            return linalg.cg(lambda v: self._normal(v) + damping * v, b, start, max_iter=max_iter,
                             tol=tol, batch_ndim=self.domain.batch_ndim(b))

        return _linear(self.adjoint(y), lambda b: inverse(b, x0), inverse)


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
                f"A @ B: A takes {_described(outer.domain)} but B gives "
                f"{_described(inner.codomain)}; build one of them for the other's shape and dtype."
            )
        _check_devices("A @ B", outer, inner)
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
        if isinstance(factor, complex) and not op.codomain.dtype.is_complex:
            raise ShapeError(f"a * A: a is {factor} but A gives {_described(op.codomain)}; pass "
                             "a real factor, or build the operator for complex values.")
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
            raise ShapeError(f"A + B: A is {_mapping(left)} but B is {_mapping(right)}; build "
                             "both for the same shapes and dtypes.")
        _check_devices("A + B", left, right)
        super().__init__(left.domain, left.codomain)
        self.left, self.right = left, right

    def _forward(self, x: Tensor) -> Tensor:
        return self.left._forward(x) + self.right._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.left._adjoint(y) + self.right._adjoint(y)


def _check_start(x0: Tensor, shape: tuple[int, ...]) -> None:
    try:
        x0.expand(shape)
    except RuntimeError:
        raise ShapeError(f"solve: x0 is {tuple(x0.shape)}; pass a start {shape}, as the batch of "
                         "y asks.") from None


def _described(space: Space) -> str:
    return f"{space} of {space.dtype}"


def _mapping(op: Operator) -> str:
    return f"{_described(op.domain)} -> {_described(op.codomain)}"


def _check_devices(name: str, *ops: Operator) -> None:
    devices = sorted({str(buffer.device) for op in ops for buffer in op.buffers()})
    if len(devices) > 1:
        raise InputError(f"{name}: the operators are on {' and '.join(devices)}; move them to "
                         f'one device, with .to("{devices[-1]}").')
