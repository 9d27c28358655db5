"""sigpy's linear operators in torch, and ours in sigpy.

`from_sigpy` gives a `LinearOperator`: batched, differentiable, with sigpy's adjoint as its
backward. `to_sigpy` gives a ``sigpy.linop.Linop`` for sigpy's algorithms and apps. Tensors on the
CPU are seen as numpy arrays, those on a CUDA device as cupy arrays through DLPack, both without a
copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sigpy.linop
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from medinv.errors import DependencyError, ShapeError
from medinv.operators.base import LinearOperator, Space


class SigpyOperator(LinearOperator):
    """A ``sigpy.linop.Linop`` as a torch operator; build it with `from_sigpy`.

    Attributes:
        linop: as given.
    """

    def __init__(self, linop: sigpy.linop.Linop, dtype: torch.dtype) -> None:
        super().__init__(Space(tuple(linop.ishape), dtype), Space(tuple(linop.oshape), dtype))
        self.linop = linop

    def _forward(self, x: Tensor) -> Tensor:
        return self._apply_items(self.linop, x, self.domain, self.codomain)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._apply_items(self.linop.H, y, self.codomain, self.domain)

    def _normal(self, x: Tensor) -> Tensor:
        return self._apply_items(self.linop.N, x, self.domain, self.domain)

    def _apply_items(self, linop: sigpy.linop.Linop, x: Tensor, source: Space,
                     target: Space) -> Tensor:
        """Apply ``linop`` item by item: a Linop has no batch axes."""
        batch = x.shape[: source.batch_ndim(x)]
        result = x.new_empty(*batch, *target.shape)
        items = x.reshape(-1, *source.shape)
        for item, out in zip(items, result.view(-1, *target.shape), strict=True):
            value = linop(_to_array(item))
            if value.dtype.kind == "c" and not target.dtype.is_complex:
                raise ShapeError(f"from_sigpy: {linop.repr_str} gives {value.dtype} where "
                                 f"{target.dtype} is expected; pass dtype=torch.complex64.")
            _to_array(out)[...] = value
        return result


def from_sigpy(linop: sigpy.linop.Linop, dtype: torch.dtype = torch.complex64) -> LinearOperator:
    """A sigpy operator as a differentiable torch operator.

    It runs where its input is; arrays that the Linop holds (maps, coordinates) must be there
    already: in cupy, for a CUDA device. Batch items are applied one after another.

    Args:
        linop: any Linop.
        dtype: of its input and output, real only if the Linop keeps real values real. sigpy itself
            declares none.

    Raises:
        ShapeError: at the first call, if ``dtype`` is real and the Linop gives complex values.

    Example:
        >>> import sigpy
        >>> A = from_sigpy(sigpy.linop.FFT((4, 4)))
        >>> A(torch.ones(2, 4, 4, dtype=torch.complex64))[1, 2, 2].real.round().item()
        4.0
    """
    return SigpyOperator(linop, dtype)


def to_sigpy(A: LinearOperator, batch: Sequence[int] = ()) -> sigpy.linop.Linop:
    """A medinv operator as a sigpy Linop, for sigpy's algorithms and apps.

    It takes numpy arrays where the operator is on the CPU and cupy arrays where it is on CUDA, of
    the operator's dtypes. Its normal operator is the fused one.

    Args:
        A: the operator.
        batch: leading batch axes; the Linop maps ``(*batch, *domain)`` to ``(*batch, *codomain)``.

    Example:
        >>> import sigpy.app
        >>> from medinv.operators import Blur
        >>> A = Blur(torch.tensor([[0.2, 0.6, 0.2]]), (3, 8))
        >>> x = np.ones((3, 8), np.float32)
        >>> y = to_sigpy(A)(x)
        >>> app = sigpy.app.LinearLeastSquares(to_sigpy(A), y, show_pbar=False)
        >>> bool(abs(app.run() - x).max() < 1e-3)
        True
    """
    return _MedinvLinop(A, tuple(batch))


class _MedinvLinop(sigpy.linop.Linop):  # type: ignore[misc]
    """See `to_sigpy`."""

    def __init__(self, A: LinearOperator, batch: tuple[int, ...]) -> None:
        super().__init__([*batch, *A.codomain.shape], [*batch, *A.domain.shape],
                         repr_str=type(A).__name__)
        self.operator, self.batch = A, batch

    def _apply(self, input: Any) -> Any:  # noqa: A002, ANN401  (numpy or cupy; sigpy's own)
        with torch.no_grad():
            return _to_array(self.operator(_to_tensor(input)))

    def _adjoint_linop(self) -> sigpy.linop.Linop:
        return _MedinvLinop(self.operator.H, self.batch)

    def _normal_linop(self) -> sigpy.linop.Linop:
        return _MedinvLinop(_Normal(self.operator), self.batch)


class _Normal(LinearOperator):
    """``A^H A`` as an operator, fused where ``A`` has it fused."""

    def __init__(self, A: LinearOperator) -> None:
        super().__init__(A.domain, A.domain)
        self.A = A

    def _forward(self, x: Tensor) -> Tensor:
        return self.A._normal(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.A._normal(y)


def _to_array(x: Tensor) -> Any:  # noqa: ANN401  (numpy or cupy)
    """The same memory as an array."""
    if x.device.type == "cpu":
        return x.resolve_conj().numpy()
    return _cupy().from_dlpack(x.resolve_conj())


def _to_tensor(array: Any) -> Tensor:  # noqa: ANN401  (numpy or cupy)
    """The same memory as a tensor; copied where torch cannot see it (negative strides)."""
    if isinstance(array, np.ndarray):
        strided = array if min(array.strides, default=0) >= 0 else array.copy()
        return torch.from_numpy(strided)
    return from_dlpack(array)


def _cupy() -> Any:  # noqa: ANN401  (an optional module)
    try:
        import cupy
    except ImportError:
        raise DependencyError("sigpy on a CUDA device needs cupy; install medinv[cuda], or move "
                              "the input with .cpu().") from None
    return cupy
