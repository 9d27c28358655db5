"""The nonuniform Fourier transform, to a stated accuracy, and its normal operator.

For frequencies ``k`` in cycles per field of view, ``x`` on a grid of ``n`` pixels per axis (``N``
in all), and index ``n // 2`` as the origin, as in `medinv.operators.fourier`:
``y(k) = N^-1/2 sum_j x[j] exp(-2 pi i k . (j - n//2) / n)``. Whole numbers ``k`` give the FFT.

``F^H W F`` is a convolution with the point spread function ``p[d] = N^-1 sum_k w_k exp(2 pi i
k . d / n)``, ``|d| < n``, so it is diagonal on a grid of ``2 n`` frequencies. Its even and odd
frequencies are ``2^ndim`` grids of ``n``, each shifted by 0 or half a step along every axis; on
each, the padded transform is an FFT of the unpadded image times a linear phase. The sum over these
grids is the Toeplitz embedding without padding: it needs no memory beyond the image, and the
spectrum is real because ``p[-d] = conj(p[d])`` (Fessler et al., IEEE Trans. Signal Process. 53
(2005), 3393; Wajer and Pruessmann, ISMRM 2001).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from medinv.errors import DependencyError, InputError

# Rounding of coordinates in single precision, relative to the number of pixels along an axis:
# measured 2e-5 to 6e-5 on grids of 320.
_SINGLE_ROUNDING = 2e-7
_FINEST = 1e-13
# finufft aims at the accuracy asked of it, and misses it by up to 2.5.
_MARGIN = 3.0
_Execute = Callable[[Tensor, Tensor], None]


class NUFFT:
    """Fourier sums at fixed, arbitrary frequencies, and their adjoint, by (cu)finufft.

    Plans are made at first use, for each number of transforms, device and number of threads (or
    CUDA stream), and kept; they are not copied or pickled. Where ``eps`` is finer than single
    precision can give on this grid, plans compute in double, whatever the dtype of the data.

    Args:
        trajectory: ``(sample, axis)``, real, cycles per field of view, axes as the grid's.
        grid: pixels along each of the 1 to 3 axes.
        eps: relative accuracy, between 1e-13 and 0.1; results are rounded to the dtype of the
            data, so complex64 ends at 1e-7.

    Raises:
        InputError: an accuracy out of reach.

    Source:
        Barnett, Magland and af Klinteberg, "A parallel nonuniform fast Fourier transform library
        based on an exponential of semicircle kernel", arXiv 1808.06736; on CUDA: Shih et al.,
        arXiv 2102.08463.

    Example:
        >>> F = NUFFT(torch.tensor([[0.0], [1.0]]), (4,), eps=1e-6)
        >>> F.forward(torch.ones(1, 4, dtype=torch.complex64)).abs().round(decimals=4).tolist()
        [[2.0, 0.0]]
    """

    def __init__(self, trajectory: Tensor, grid: Sequence[int], eps: float = 1e-6) -> None:
        if not _FINEST <= eps <= 0.1:
            raise InputError(f"NUFFT: eps is {eps}; pass an accuracy between {_FINEST} and 0.1.")
        self.trajectory, self.grid, self.eps = trajectory.double(), tuple(grid), eps
        self._plans: dict[object, tuple[_Execute, _Execute]] = {}

    def __getstate__(self) -> dict[str, object]:
        """Everything but the plans."""
        return {**self.__dict__, "_plans": {}}

    def forward(self, images: Tensor) -> Tensor:
        """``(n, *grid)`` to ``(n, sample)``."""
        out = images.new_empty(len(images), len(self.trajectory), dtype=self._dtype(images))
        self._plan(images)[0](images.to(out.dtype).resolve_conj().contiguous(), out)
        return out.mul_(math.prod(self.grid) ** -0.5).to(images.dtype)

    def adjoint(self, signals: Tensor) -> Tensor:
        """``(n, sample)`` to ``(n, *grid)``."""
        out = signals.new_empty(len(signals), *self.grid, dtype=self._dtype(signals))
        self._plan(signals)[1](signals.to(out.dtype).resolve_conj().contiguous(), out)
        return out.mul_(math.prod(self.grid) ** -0.5).to(signals.dtype)

    def _dtype(self, x: Tensor) -> torch.dtype:
        reachable = self.eps >= _SINGLE_ROUNDING * max(self.grid)
        return x.dtype if reachable else torch.complex128

    def _plan(self, x: Tensor) -> tuple[_Execute, _Execute]:
        """The transform and its adjoint, for data like ``x``."""
        key = len(x), self._dtype(x), x.device, _thread_or_stream(x.device)
        if key not in self._plans:
            make = _cuda_plan if x.device.type == "cuda" else _cpu_plan
            radians = 2 * math.pi / self.trajectory.new_tensor(self.grid) * self.trajectory
            points = radians.to(x.device, self._dtype(x).to_real()).T.contiguous()
            self._plans[key] = make(points, self.grid, len(x), self.eps / _MARGIN)
        return self._plans[key]


def _cpu_plan(points: Tensor, grid: tuple[int, ...], n: int,
              eps: float) -> tuple[_Execute, _Execute]:
    import finufft

    plan = finufft.Plan(2, grid, n, eps, -1, _complex_name(points),
                        nthreads=torch.get_num_threads())
    plan.setpts(*points.numpy())
    return (lambda x, out: plan.execute(*_arrays(x, out)),
            lambda y, out: plan.execute_adjoint(*_arrays(y, out)))


def _arrays(data: Tensor, out: Tensor) -> tuple[Any, Any]:
    """Numpy views, without the leading axis where it counts one transform."""
    views = (data[0], out[0]) if len(data) == 1 else (data, out)
    return views[0].numpy(), views[1].numpy()


def _cuda_plan(points: Tensor, grid: tuple[int, ...], n: int,
               eps: float) -> tuple[_Execute, _Execute]:
    """Two plans: cufinufft has no adjoint execution."""
    try:
        import cufinufft
    except ImportError:
        raise DependencyError(
            "NUFFT: a CUDA tensor needs cufinufft, which is not installed; "
            "pip install 'medinv[cuda]' or move the tensors to the CPU.") from None

    def make(kind: int, sign: int) -> _Execute:
        plan = cufinufft.Plan(kind, grid, n, eps, sign, _complex_name(points),
                              gpu_device_id=points.device.index,
                              gpu_stream=_thread_or_stream(points.device))
        plan.setpts(*points)
        return lambda data, out: plan.execute(data, out)

    return make(2, -1), make(1, 1)


def _thread_or_stream(device: torch.device) -> int:
    """What a plan is bound to: the number of threads, or the CUDA stream."""
    if device.type == "cuda":
        return int(torch.cuda.current_stream(device).cuda_stream)
    return torch.get_num_threads()


def _complex_name(points: Tensor) -> str:
    return "complex64" if points.dtype == torch.float32 else "complex128"


def toeplitz_spectrum(trajectory: Tensor, weights: Tensor, grid: Sequence[int],
                      eps: float = 1e-6) -> Tensor:
    """Spectrum of ``F^H W F`` on the half-shifted grids, for `toeplitz_normal`.

    Args:
        trajectory: ``(sample, axis)``, cycles per field of view.
        weights: ``(sample,)``, real.
        grid: pixels along each axis.
        eps: relative accuracy.

    Returns:
        ``(2^ndim, *grid)``, float64, in the order of an uncentred FFT.

    Example:
        >>> k = torch.arange(-2.0, 2.0)[:, None]  # a Cartesian grid: F^H F = 1
        >>> spectrum = toeplitz_spectrum(k, torch.ones(4), (4,), eps=1e-9)
        >>> spectrum.mean().round(decimals=6).item()
        1.0
    """
    ndim, doubled = len(grid), tuple(2 * n for n in grid)
    signal = weights.to(torch.complex128)[None]
    # The same frequencies in cycles per doubled field of view; 2^ndim pixels for each of grid.
    psf = NUFFT(2 * trajectory, doubled, eps).adjoint(signal)[0]
    psf *= 2 ** (ndim / 2) * math.prod(grid) ** -0.5
    for axis in range(ndim):
        psf.narrow(axis, 0, 1).zero_()  # d = -n never occurs, and has no mirror image
    spectrum = torch.fft.fftn(torch.fft.ifftshift(psf)).real
    cosets = [spectrum[tuple(slice(p, None, 2) for p in parity)] for parity in _parities(ndim)]
    return torch.stack(cosets)


def toeplitz_normal(image: Tensor, maps: Tensor, spectrum: Tensor, *, axes: Sequence[int],
                    shifted: Sequence[int], block: int) -> Tensor:
    """``S^H T S x``: a convolution given by its spectrum, between coil maps.

    Args:
        image: ``(*grid)``.
        maps: ``(coil, *grid)``.
        spectrum: ``(2^len(shifted), *grid)``, real; size 1 along axes that are not transformed.
        axes: axes of the grid to transform, negative.
        shifted: those along which the spectrum has half-shifted grids, negative.
        block: coils to transform at once.

    Example:
        >>> image, maps = torch.eye(4, dtype=torch.complex64), torch.ones(1, 4, 4) + 0j
        >>> spectrum = torch.ones(4, 4, 4)
        >>> out = toeplitz_normal(image, maps, spectrum, axes=(-2, -1), shifted=(-2, -1), block=1)
        >>> torch.allclose(out, image)
        True
    """
    out = torch.zeros_like(image)
    for parity, part in zip(_parities(len(shifted)), spectrum, strict=True):
        axes_to_shift = [axis for axis, odd in zip(shifted, parity, strict=True) if odd]
        modulated, total = image, torch.zeros_like(image)
        for axis in axes_to_shift:
            modulated = modulated * _half_step(image, axis)
        for first in range(0, len(maps), block):
            coils = maps[first: first + block]
            signal = torch.fft.fftn(coils * modulated, dim=tuple(axes))
            signal *= part
            signal = torch.fft.ifftn(signal, dim=tuple(axes))
            total += torch.linalg.vecdot(coils, signal, dim=0)
        for axis in axes_to_shift:
            total *= _half_step(image, axis).conj()
        out += total
    return out / len(spectrum)


def _parities(ndim: int) -> Iterator[tuple[int, ...]]:
    """Which axes are shifted by half a step, for each grid."""
    return product((0, 1), repeat=ndim)


def _half_step(like: Tensor, axis: int) -> Tensor:
    """The linear phase that moves the frequencies along ``axis`` by half a step."""
    n = like.shape[axis]
    phase = -math.pi / n * torch.arange(n, device=like.device, dtype=torch.float64)
    ramp = torch.polar(torch.ones_like(phase), phase).to(like.dtype)
    return ramp.reshape(-1, *(1,) * (-axis - 1))
