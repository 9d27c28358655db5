"""Singular value decompositions, where they are cheap: for methods that work in their basis.

``A = U diag(a) V^H``. A fast one exists where ``A`` masks an orthonormal transform, as Cartesian
MRI with one coil of unit magnitude (``V^H = F`` but for the coil's phase). Others are decomposed
densely up to a few thousand pixels; a multi-coil or CT operator of real size has none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from medinv.errors import InputError
from medinv.operators import fourier
from medinv.operators.base import LinearOperator, Scaled
from medinv.operators.mri import CartesianMRI

_LARGEST = 4096  # pixels of a dense decomposition: 128 MiB of V in single precision


class Spectrum(ABC):
    """The singular values of an operator, and its bases as functions.

    Attributes:
        values: ``a``, real, at least 0, for each coordinate of ``V^H x``; 0 in the null space.
    """

    values: Tensor

    @abstractmethod
    def coordinates(self, x: Tensor) -> Tensor:
        """``V^H x`` of images (*batch, *domain), with axes that ``values`` broadcasts to."""

    @abstractmethod
    def image(self, z: Tensor) -> Tensor:
        """``V z``."""

    @abstractmethod
    def data(self, y: Tensor) -> Tensor:
        """``U^H y`` in the places of ``values``, 0 where those are 0."""


def spectrum(A: LinearOperator) -> Spectrum:
    """The decomposition of ``A``.

    Raises:
        InputError: it is neither fast nor small.

    Example:
        >>> from medinv.operators import Inpainting
        >>> svd = spectrum(Inpainting(torch.tensor([[True, False], [True, True]])))
        >>> svd.values.sort().values.round(decimals=4).flatten().tolist()
        [0.0, 1.0, 1.0, 1.0]
    """
    if isinstance(A, Scaled) and isinstance(A.factor, float) and A.factor > 0:
        return _Scaled(spectrum(A.op), A.factor)
    if isinstance(A, CartesianMRI) and not A.sets and A.maps.shape[-A.ndim - 1] == 1 and bool(
            torch.allclose(A.maps.abs(), torch.ones_like(A.maps.abs()), atol=1e-5)):
        return _SingleCoil(A)
    n = torch.Size(A.domain.shape).numel()
    if n > _LARGEST:
        raise InputError(
            f"svd: {type(A).__name__} on images {tuple(A.domain.shape)} has no fast singular "
            "value decomposition; take a method that solves by conjugate gradients instead: "
            "DiffPIR or DDNM for DDRM, DDIM with MMPS for SNIPS")
    return _Dense(A)


class _Dense(Spectrum):
    """By `torch.linalg.svd` of the matrix."""

    def __init__(self, A: LinearOperator) -> None:
        shape = A.domain.shape
        n = torch.Size(shape).numel()
        identity = torch.eye(n, dtype=A.domain.dtype, device=A.device).reshape(n, *shape)
        U, values, Vh = torch.linalg.svd(A(identity).flatten(1).mT, full_matrices=True)
        values = torch.where(values > 1e-6 * values[0], values, 0)
        self.values = torch.cat([values, values.new_zeros(n - len(values))])
        self.U, self.Vh, self.shape, self.rows = U, Vh, shape, A.codomain.shape

    def coordinates(self, x: Tensor) -> Tensor:
        z: Tensor = x.flatten(-len(self.shape)) @ self.Vh.mT
        return z

    def image(self, z: Tensor) -> Tensor:
        x: Tensor = (z @ self.Vh.conj()).unflatten(-1, self.shape)
        return x

    def data(self, y: Tensor) -> Tensor:
        u = y.flatten(-len(self.rows)) @ self.U.conj()
        n = len(self.values)
        padded = torch.nn.functional.pad(u, (0, max(0, n - u.shape[-1])))[..., :n]
        return torch.where(self.values > 0, padded, 0)


class _SingleCoil(Spectrum):
    """``V^H = F S`` with ``|S| = 1``, and the mask for singular values."""

    def __init__(self, A: CartesianMRI) -> None:
        self.axes = tuple(range(-A.ndim, 0))
        self.coil = A.maps.squeeze(-A.ndim - 1)
        self.values = A.mask.to(A.maps.real.dtype)
        self.coil_axis = -A.ndim - 1

    def coordinates(self, x: Tensor) -> Tensor:
        return fourier.fft(self.coil * x, self.axes)

    def image(self, z: Tensor) -> Tensor:
        return self.coil.conj() * fourier.ifft(z, self.axes)

    def data(self, y: Tensor) -> Tensor:
        return self.values * y.squeeze(self.coil_axis)


class _Scaled(Spectrum):
    """Of ``a A`` for a positive number."""

    def __init__(self, of: Spectrum, factor: float) -> None:
        self.of, self.values = of, factor * of.values

    def coordinates(self, x: Tensor) -> Tensor:
        return self.of.coordinates(x)

    def image(self, z: Tensor) -> Tensor:
        return self.of.image(z)

    def data(self, y: Tensor) -> Tensor:
        return self.of.data(y)
