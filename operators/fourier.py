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
        >>> fft(torch.ones(4), [-1]).real.tolist()
        [0.0, 0.0, 2.0, 0.0]
    """
    axes = tuple(axes)
    spectrum: Tensor = torch.fft.fftn(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho")
    return spectrum.roll([spectrum.shape[a] // 2 for a in axes], axes)


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
    image: Tensor = torch.fft.ifftn(torch.fft.ifftshift(x, axes), dim=axes, norm="ortho")
    return image.roll([image.shape[a] // 2 for a in axes], axes)
