"""A small dense operator, so that solvers can be compared with dense algebra."""

import torch

from medinv.operators.base import LinearOperator, Space


class MatrixOperator(LinearOperator):
    """``y = M vec(x)`` for ``x`` of any shape; ``M`` is ``(m, n)``."""

    def __init__(self, matrix, shape):
        super().__init__(Space(tuple(shape), matrix.dtype), Space(matrix.shape[:1], matrix.dtype))
        self.register_buffer("matrix", matrix)

    def _forward(self, x):
        return x.flatten(-len(self.domain.shape)) @ self.matrix.mT

    def _adjoint(self, y):
        return (y @ self.matrix.conj()).unflatten(-1, self.domain.shape)


def random_operator(m, shape, dtype=torch.float64, seed=0):
    """A Gaussian matrix with unit-variance columns."""
    rng = torch.Generator().manual_seed(seed)
    n = torch.Size(shape).numel()
    return MatrixOperator(torch.randn(m, n, dtype=dtype, generator=rng) / m**0.5, shape)


def random_image(shape, dtype=torch.float64, seed=1):
    """White noise."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
