"""Several measurements of one image as one operator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medinv.arguments import checked
from medinv.errors import ShapeError
from medinv.operators.base import LinearOperator, Space, _check_devices, _mapping


class Stack(LinearOperator):
    """Several operators of one domain; ``y`` is ``(*batch, n, *codomain.shape)``."""

    def __init__(self, ops: Sequence[LinearOperator]) -> None:
        if not ops:
            raise ShapeError("stack: got no operator; pass at least one.")
        first = ops[0]
        for i, op in enumerate(ops):
            if (op.domain, op.codomain) != (first.domain, first.codomain):
                raise ShapeError(f"stack: operator 0 is {_mapping(first)} but operator {i} is "
                                 f"{_mapping(op)}; build all for the same shapes and dtypes.")
        _check_devices("stack", *ops)
        shape = (len(ops), *first.codomain.shape)
        super().__init__(first.domain, Space(shape, first.codomain.dtype))
        self.ops = nn.ModuleList(ops)

    def _forward(self, x: Tensor) -> Tensor:
        axis = -1 - len(self.codomain.shape[1:])
        return torch.stack([op._forward(x) for op in self.ops], dim=axis)  # type: ignore[operator]

    def _adjoint(self, y: Tensor) -> Tensor:
        parts = y.unbind(-len(self.codomain.shape))
        return sum(op._adjoint(p) for op, p in zip(self.ops, parts, strict=True))  # type: ignore


@checked
def stack(ops: Sequence[LinearOperator]) -> LinearOperator:
    """Several measurements of one ``x`` as one operator (see `Stack`)."""
    return Stack(ops)
