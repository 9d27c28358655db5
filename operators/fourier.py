"""The centred, orthonormal Fourier transform.

Index ``n // 2`` is the origin in both domains, for even and odd ``n``, and the transform is
unitary: ``X[k] = n^-1/2 sum_j x[j] exp(-2 pi i (j - n//2) (k - n//2) / n)`` along each axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def fft(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Image to k-space over ``axes``.

    Args:
        x: real or complex tensor of any shape.
        axes: the axes to transform.

    Returns:
        A complex tensor of the same shape.

    Example:
        >>> fft(torch.ones(3), [-1]).real.round(decimals=4).tolist()
        [0.0, 1.7321, 0.0]
    """
    axes = tuple(axes)
    shifted = torch.fft.fftn(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho")
    return torch.fft.fftshift(shifted, axes)


def ifft(x: Tensor, axes: Sequence[int]) -> Tensor:
    """k-space to image over ``axes``: the inverse and the adjoint of `fft`.

    Args:
        x: real or complex tensor of any shape.
        axes: the axes to transform.

    Returns:
        A complex tensor of the same shape.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 3.0])
        >>> torch.allclose(ifft(fft(x, [0]), [0]).real, x)
        True
    """
    axes = tuple(axes)
    shifted = torch.fft.ifftn(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho")
    return torch.fft.fftshift(shifted, axes)
