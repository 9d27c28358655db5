"""Images on another grid than k-space was acquired on: crop, zero-fill, oversampling.

The origin stays at index ``n // 2``. With orthonormal transforms none of this changes the standard
deviation of the noise per sample, except that `interpolate` keeps intensities and so scales it.
"""

from __future__ import annotations

import math

from torch import Tensor

from medinv.arguments import checked
from medinv.errors import ShapeError
from medinv.operators import fourier
from medinv.operators.base import LinearOperator, Space


class CentreCrop(LinearOperator):
    """The central part of the last axes; its adjoint fills with zeros.

    After a `CartesianMRI` on a fine grid it gives the k-space that was acquired, so that the image
    is larger than k-space: ``CentreCrop(A.codomain, (160, 160)) @ A``.

    Args:
        space: what is cropped.
        sizes: what is left of the last axes, each at most as large as in ``space``.

    Raises:
        ShapeError: a size that is larger than the axis or not positive, or too many sizes.

    Example:
        >>> import torch
        >>> crop = CentreCrop(Space((5,), torch.float32), (2,))
        >>> crop(torch.arange(5.0)), crop.adjoint(torch.ones(2))
        (tensor([1., 2.]), tensor([0., 1., 1., 0., 0.]))
    """

    @checked
    def __init__(self, space: Space, sizes: tuple[int, ...]) -> None:
        kept = len(space.shape) - len(sizes)
        full = space.shape[max(kept, 0):]
        if kept < 0 or not all(0 < m <= n for m, n in zip(sizes, full, strict=True)):
            raise ShapeError(f"CentreCrop: sizes are {sizes} but the last axes are {full}; pass "
                             "for each axis a size from 1 to its own.")
        super().__init__(space, Space((*space.shape[:kept], *sizes), space.dtype, space.axes))
        self.sizes = sizes

    def _part(self, x: Tensor) -> Tensor:
        for axis, size in zip(range(-len(self.sizes), 0), self.sizes, strict=True):
            x = x.narrow(axis, x.shape[axis] // 2 - size // 2, size)
        return x

    def _forward(self, x: Tensor) -> Tensor:
        return self._part(x).contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(*y.shape[: self.codomain.batch_ndim(y)], *self.domain.shape)
        self._part(x).copy_(y)
        return x


def interpolate(image: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Zero-filled interpolation: the same image on a finer grid, by Fourier series.

    Args:
        image: real or complex, ``(*batch, [z,] y, x)``.
        sizes: new sizes of the last axes, each at least the old one.

    Returns:
        A complex image with the same intensities.

    Raises:
        ShapeError: a size that is smaller than the axis.

    Example:
        >>> import torch
        >>> interpolate(torch.tensor([1.0, 1.0, 1.0]), (6,)).real.round(decimals=4).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    axes = range(-len(sizes), 0)
    spectrum = fourier.fft(image, axes)
    shape = (*image.shape[: image.ndim - len(sizes)], *sizes)
    filled = CentreCrop(Space(shape, spectrum.dtype), tuple(image.shape[-len(sizes):]))
    gain = math.prod(sizes) / math.prod(image.shape[-len(sizes):])
    return fourier.ifft(filled.adjoint(spectrum), axes) * math.sqrt(gain)


def remove_oversampling(kspace: Tensor, n: int, axis: int = -1) -> Tensor:
    """Crop the field of view along the readout to its central ``n`` voxels.

    Args:
        kspace: fully sampled along ``axis``; any shape.
        n: voxels to keep, usually half of the samples.
        axis: the readout, counted from the end.

    Returns:
        k-space with ``n`` samples along ``axis``; the noise keeps its standard deviation.

    Raises:
        ShapeError: ``n`` larger than the axis or not positive.

    Example:
        >>> import torch
        >>> remove_oversampling(torch.ones(4, 8, 12, dtype=torch.complex64), 6).shape
        torch.Size([4, 8, 6])
    """
    if not 0 < n <= kspace.shape[axis]:
        raise ShapeError(f"remove_oversampling: n is {n} but the readout has "
                         f"{kspace.shape[axis]} samples; pass a number from 1 to that.")
    image = fourier.ifft(kspace, [axis])
    return fourier.fft(image.narrow(axis, kspace.shape[axis] // 2 - n // 2, n), [axis])
