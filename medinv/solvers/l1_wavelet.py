"""L1-wavelet: compressed sensing with an orthogonal wavelet transform.

``min_x 0.5 ||A x - y||^2 + weight unit ||W x||_1`` with ``||A|| = 1``, by FISTA. The transform is
sigpy's (PyWavelets, zero extension), through numpy, one image at a time. Its proximal map is
taken as ``W^H soft(W x)``, as sigpy and BART do; it is exact where ``W`` is orthogonal, which zero
extension breaks at the border of the image only.

With cycle spinning each step shrinks the image moved by some pixels, another way each time, so
that no grid of blocks stays in it (Coifman and Donoho, "Translation-invariant de-noising", 1995;
as BART does). It approaches the mean of the proximal maps of all shifts, not a minimiser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.operators import linalg
from medinv.problem import Problem
from medinv.samplers import OnStep
from medinv.solvers.base import (
    Stopping,
    intensity_unit,
    item_ndim,
    require,
)

_PERIOD = 32  # of the coarsest wavelets that matter
_ROOTS = {1: 1.6180339887, 2: 1.3247179572, 3: 1.2207440846}  # x^(ndim + 1) = x + 1


def _is_orthogonal(wavelet: str) -> bool:
    import pywt

    return wavelet in pywt.wavelist(kind="discrete") and bool(pywt.Wavelet(wavelet).orthogonal)


class _WaveletShrinkage:
    """``W^H soft(W x)`` for every image of ``(*images, *shape)``, each with its own threshold."""

    def __init__(self, shape: tuple[int, ...], wavelet: str) -> None:
        import sigpy.linop

        self._shape = shape
        self._transform = sigpy.linop.Wavelet(shape, wave_name=wavelet)

    def __call__(self, x: Tensor, threshold: Tensor) -> Tensor:
        ndim = len(self._shape)
        thresholds = threshold.expand(*x.shape[:-ndim], *(1,) * ndim).reshape(-1)
        images = x.reshape(-1, *self._shape)
        shrunk = [self._shrink(*pair) for pair in zip(images, thresholds, strict=True)]
        return torch.stack(shrunk).reshape(x.shape)

    def _shrink(self, image: Tensor, threshold: Tensor) -> Tensor:
        coefficients = torch.from_numpy(self._transform(image.numpy(force=True)))
        kept = linalg.soft_threshold(coefficients, threshold.cpu())
        return torch.from_numpy(self._transform.H(kept.numpy())).to(image)


def _shift(step: int, ndim: int) -> tuple[int, ...]:
    """Pixels along each axis, from 0 to 31, spread evenly over the steps (Roberts' R sequence).

    >>> _shift(0, 2), _shift(1, 2)
    ((0, 0), (24, 18))
    """
    root = _ROOTS[ndim]
    return tuple(int(_PERIOD * (step / root ** (axis + 1) % 1)) for axis in range(ndim))


@dataclass(frozen=True)
class L1Wavelet:
    """L1-wavelet reconstruction by FISTA.

    Lustig, Donoho and Pauly, "Sparse MRI", Magn. Reson. Med. 58 (2007), 1182; the algorithm is
    Beck and Teboulle, SIAM J. Imaging Sci. 2 (2009), 183, with constant step 1 / ||A||^2.

    Args:
        weight: weight of the L1 norm, with ``||A|| = 1`` and ``y`` scaled so that
            ``max |A^H y| = 1`` for each item (`intensity_unit`).
        max_iter: largest number of iterations.
        tol: an item stops when a step changes it by at most this, relative to its norm.
        wavelet: an orthogonal wavelet of PyWavelets.
        ndim: number of trailing axes to transform: 2 for slices, 3 for a volume.
        cycle_spinning: move the image before each shrinkage and back after it.

    Example:
        >>> L1Wavelet(weight=0.01, wavelet="db2", cycle_spinning=True).wavelet
        'db2'
    """

    weight: float
    max_iter: int = 100
    tol: float = 0.0
    wavelet: str = "db4"
    ndim: int = 2
    cycle_spinning: bool = False

    def __post_init__(self) -> None:
        require(self.weight >= 0, "L1Wavelet: weight", "a number >= 0", self.weight)
        require(self.max_iter >= 1, "L1Wavelet: max_iter", "at least 1", self.max_iter)
        require(self.tol >= 0, "L1Wavelet: tol", "a number >= 0", self.tol)
        require(_is_orthogonal(self.wavelet), "L1Wavelet: wavelet",
                "an orthogonal wavelet of PyWavelets, as 'haar', 'db4' or 'sym4'", self.wavelet)
        require(self.ndim in (1, 2, 3), "L1Wavelet: ndim", "1, 2 or 3", self.ndim)

    @torch.no_grad()
    def __call__(self, problem: Problem, *, on_step: OnStep | None = None) -> Tensor:
        """Reconstruct.

        Args:
            problem: y, measurement, ``(*batch, *A.codomain.shape)``; its operator.
            on_step: called with every iterate.

        Returns:
            ``(*batch, *A.domain.shape)``.

        Raises:
            InputError: ``y`` has another shape or dtype than ``A`` gives, is not finite, or
                its image has fewer than ``ndim`` axes.
        """
        problem = problem.whitened()
        y, A = problem.y, problem.linear
        squared_norm = A.norm() ** 2
        backprojection = A.adjoint(y) / squared_norm
        require(backprojection.ndim >= self.ndim, "L1Wavelet: ndim",
                f"at most the image's {backprojection.ndim} axes", self.ndim)
        items = item_ndim(backprojection, A, self.ndim)
        threshold = self.weight * intensity_unit(backprojection, items)
        shape = tuple(backprojection.shape[backprojection.ndim - self.ndim :])
        shrink = _WaveletShrinkage(shape, self.wavelet)
        stopping = Stopping(self.tol, items)
        x = z = torch.zeros_like(backprojection)
        t = 1.0
        for i in range(self.max_iter):
            moved = _shift(i, self.ndim) if self.cycle_spinning else (0,) * self.ndim
            axes = tuple(range(-self.ndim, 0))
            gradient = z - A.normal(z) / squared_norm + backprojection
            shrunk = shrink(gradient.roll(moved, axes), threshold)
            previous, x = x, shrunk.roll([-n for n in moved], axes)
            x = stopping.update(x)
            t_previous, t = t, (1 + math.sqrt(1 + 4 * t * t)) / 2
            z = x + (t_previous - 1) / t * (x - previous)
            if on_step is not None:
                on_step(i, x)
            if stopping.finished:
                break
        return x
