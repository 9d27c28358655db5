"""The two halves of ESPIRiT: a kernel from calibration data, maps from the kernel.

Every window of ``k x k`` neighbouring samples over all coils lies in a small subspace, with
projector ``P``. Averaging ``P`` over the windows that hold a sample gives a convolution between
coils, ``C_cc'(d) = k^-n sum_{j - j' = d} P[cj, c'j']``; in the image it is a Hermitian matrix
between coils at every voxel, ``G(q) = sum_d C(d) exp(2 pi i d q)``, whose eigenvectors of
eigenvalue 1 are the coil maps. ``G`` is not kept: its Fourier sum is taken slab by slab, exactly.

Source: Uecker et al., "ESPIRiT", Magn. Reson. Med. 71 (2014), 990.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from jaxtyping import Complex, Float
from torch import Tensor

_SLAB_BYTES = 2**25


def calibration_kernel(calibration: Complex[Tensor, " coil *width"], kernel_width: int,
                       threshold: float) -> Complex[Tensor, "coil coil *lags"]:
    """``C``, from a fully sampled centre of k-space.

    Args:
        calibration: ``(coil, [width,] width, width)``.
        kernel_width: side ``k`` of the window.
        threshold: singular values below ``threshold`` times the largest are taken for noise.

    Returns:
        ``(coil, coil, *lags)`` with ``2 k - 1`` lags along each axis, the lag 0 in the middle.

    Example:
        >>> C = calibration_kernel(torch.randn(3, 12, 12, dtype=torch.complex64), 4, 0.02)
        >>> C.shape
        torch.Size([3, 3, 7, 7])
    """
    power, vectors = torch.linalg.eigh(_window_covariance(calibration, kernel_width))
    signal = vectors[:, power > threshold**2 * power[-1]]
    n_coils, n = calibration.shape[0], calibration.ndim - 1
    window = (kernel_width,) * n
    projector = (signal @ signal.mH).reshape(n_coils, *window, n_coils, *window)
    kernel: Tensor = projector.new_zeros(n_coils, n_coils, *(2 * kernel_width - 1,) * n)
    every = (slice(None),)
    for offset in product(range(kernel_width), repeat=n):
        lags = tuple(slice(kernel_width - 1 - j, 2 * kernel_width - 1 - j) for j in offset)
        column = projector[(*every * (n + 2), *offset)]
        kernel[(*every * 2, *lags)] += column.movedim(-1, 1)
    return kernel / math.prod(window)


def _window_covariance(calibration: Tensor, kernel_width: int) -> Tensor:
    """``sum p p^H`` over the windows ``p`` of all coils, row of windows by row of windows."""
    n = calibration.ndim - 1
    size = calibration.shape[0] * kernel_width**n
    total = calibration.new_zeros(size, size)
    for start in range(calibration.shape[1] - kernel_width + 1):
        windows = calibration[:, start: start + kernel_width].movedim(1, -1).unsqueeze(-1)
        for axis in range(2, n + 1):
            windows = windows.unfold(axis - 1, kernel_width, 1)
        windows = windows.squeeze(n)
        rows = windows.movedim(0, n - 1).reshape(-1, size)
        total += rows.T @ rows.conj()
    return total


def eigenmaps(kernel: Complex[Tensor, "coil coil *lags"], shape: tuple[int, ...],
              n_sets: int) -> tuple[
                  Complex[Tensor, "set coil *grid"], Float[Tensor, " set *grid"]]:
    """Eigenvectors of ``G`` with the largest eigenvalues, at every voxel.

    A volume goes plane by plane and a plane by slabs of rows, so that besides the result no
    more than a few slabs of `_SLAB_BYTES` are held.

    Args:
        kernel: ``C``, as `calibration_kernel` returns it.
        shape: size of the image, ``([z,] y, x)``.
        n_sets: number of eigenvectors.

    Returns:
        Maps ``(set, coil, *shape)`` of unit length over the coils and their eigenvalues
        ``(set, *shape)``, largest first.

    Example:
        >>> kernel = torch.eye(2, dtype=torch.complex64)[:, :, None, None]
        >>> maps, values = eigenmaps(kernel, (4, 5), 1)
        >>> maps.shape, values.min().item()
        (torch.Size([1, 2, 4, 5]), 1.0)
    """
    n_coils, n_lags = kernel.shape[1:3]
    maps = kernel.new_empty(n_sets, n_coils, *shape)
    values = kernel.new_empty(n_sets, *shape, dtype=kernel.dtype.to_real())
    phases = _phases(shape[0], n_lags, kernel)
    if len(shape) == 3:
        for z in range(shape[0]):
            plane = torch.tensordot(kernel, phases[:, z], ([2], [0]))
            maps[:, :, z], values[:, z] = eigenmaps(plane, shape[1:], n_sets)
        return maps, values
    rows = max(1, _SLAB_BYTES // (n_coils**2 * shape[1] * kernel.element_size()))
    columns = _phases(shape[1], n_lags, kernel)
    for start in range(0, shape[0], rows):
        slab = slice(start, start + rows)
        partial = torch.tensordot(kernel, phases[:, slab], ([2], [0]))  # coil, coil, lag, row
        G = torch.tensordot(partial, columns, ([2], [0])).permute(2, 3, 0, 1)
        value, vector = torch.linalg.eigh(G)
        maps[:, :, slab] = vector[..., -n_sets:].flip(-1).permute(3, 2, 0, 1)
        values[:, slab] = value[..., -n_sets:].flip(-1).permute(2, 0, 1)
    return maps, values


def _phases(n: int, n_lags: int, like: Tensor) -> Complex[Tensor, "lag {n}"]:
    """``exp(2 pi i d q)`` for centred lags and voxels."""
    lags = torch.arange(n_lags, dtype=torch.float64, device=like.device) - n_lags // 2
    q = (torch.arange(n, dtype=torch.float64, device=like.device) - n // 2) / n
    angle = 2 * math.pi * lags[:, None] * q
    return torch.polar(torch.ones_like(angle), angle).to(like.dtype)
