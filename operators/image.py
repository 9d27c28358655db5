"""Measurements in the image itself: inpainting, blur, thick slices, patches.

Each acts on the last axes of a real or complex tensor (``dtype`` says which); all axes before them
are batch. The kernels (a point spread function, a slice profile) are used as given: one that sums
to 1 keeps a constant image constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from types import EllipsisType

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from medinv.arguments import checked
from medinv.errors import ShapeError
from medinv.operators.base import LinearOperator, Space

_AXES = ("z", "y", "x")
_Window = tuple[EllipsisType | slice, ...]


class Identity(LinearOperator):
    """``y = x``: denoising.

    Args:
        shape: ``(y, x)`` or ``(z, y, x)`` of an item.
        dtype: of the image, real or complex.

    Raises:
        ShapeError: a shape with other than 1 to 3 axes, or a dtype that is not floating.

    Example:
        >>> Identity((2, 2))(torch.eye(2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """

    @checked
    def __init__(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        space = _image_space("Identity", shape, dtype)
        super().__init__(space, space)

    def _forward(self, x: Tensor) -> Tensor:
        return x.clone()

    def _adjoint(self, y: Tensor) -> Tensor:
        return y.clone()

    def _normal(self, x: Tensor) -> Tensor:
        return x.clone()

    def norm(self) -> float:
        """1."""
        return 1.0


class Inpainting(LinearOperator):
    """Keep the pixels of a mask, set the others to 0.

    ``forward`` and ``adjoint`` ignore what lies outside the mask, NaN too.

    Args:
        mask: bool or 0/1, ``(y, x)`` or ``(z, y, x)``.
        dtype: of the image, real or complex.

    Attributes:
        mask: bool, as given.

    Raises:
        ShapeError: a mask that is not binary, or a dtype that is not floating.

    Example:
        >>> Inpainting(torch.tensor([[1, 0]]))(torch.tensor([[2.0, 3.0]])).tolist()
        [[2.0, 0.0]]
    """

    mask: Tensor

    @checked
    def __init__(self, mask: Tensor, dtype: torch.dtype = torch.float32) -> None:
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ShapeError("Inpainting: mask has values other than 0 and 1; pass `mask != 0`.")
        space = _image_space("Inpainting", mask.shape, dtype)
        super().__init__(space, space)
        self.register_buffer("mask", mask.to(torch.bool))

    def _forward(self, x: Tensor) -> Tensor:
        return torch.where(self.mask, x, 0)

    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.where(self.mask, y, 0)

    def _normal(self, x: Tensor) -> Tensor:
        return torch.where(self.mask, x, 0)

    def norm(self) -> float:
        """1, or 0 where the mask is empty."""
        return float(self.mask.any())


class Blur(LinearOperator):
    """Convolution with a known point spread function, by FFT; the image keeps its size.

    ``y[i] = sum_j psf[j] x[i - (j - n // 2)]`` along each axis: the PSF's centre is index
    ``n // 2``. Outside its field the image is 0, or repeats itself where ``periodic``. Then ``A^H
    A`` is one convolution and is fused; with zeros outside, what leaves the field is lost between
    ``A`` and ``A^H``, and the normal operator is the two in turn.

    Args:
        psf: real or complex, 2D ``(y, x)`` or 3D ``(z, y, x)``; not rescaled.
        shape: of the image, with as many axes as ``psf``.
        dtype: of the image; that of ``psf`` by default.
        periodic: whether the image repeats itself outside its field.

    Attributes:
        psf: as given, in ``dtype``.
        periodic: as given.

    Raises:
        ShapeError: a PSF that is not finite, has other axes than the image or is larger, or is
            complex where the image is real.

    Example:
        >>> A = Blur(torch.full((1, 3), 1 / 3), (1, 4))
        >>> A(torch.tensor([[0.0, 3.0, 0.0, 0.0]])).round(decimals=4).abs().tolist()
        [[1.0, 1.0, 1.0, 0.0]]
    """

    psf: Tensor
    _spectrum: Tensor

    @checked
    def __init__(self, psf: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None, *,
                 periodic: bool = False) -> None:
        space = _image_space("Blur", shape, dtype or psf.dtype)
        _check_psf(psf, space)
        super().__init__(space, space)
        self.periodic = periodic
        self.register_buffer("psf", psf.to(space.dtype))
        self._axes = tuple(range(-psf.ndim, 0))
        self._grid = space.shape if periodic else tuple(
            next_fast_len(n + k - 1) for n, k in zip(space.shape, psf.shape, strict=True))
        self.register_buffer("_spectrum", self._transfer_function(), persistent=False)

    def _transfer_function(self) -> Tensor:
        centred = self.psf.new_zeros(self._grid)
        centred[tuple(slice(n) for n in self.psf.shape)] = self.psf
        shifts = [-(n // 2) for n in self.psf.shape]
        return self._transform(centred.roll(shifts, self._axes))

    def _forward(self, x: Tensor) -> Tensor:
        return self._filter(x, self._spectrum)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._filter(y, self._spectrum.conj())

    def _normal(self, x: Tensor) -> Tensor:
        if self.periodic:
            return self._filter(x, self._spectrum.abs().square())
        return self._adjoint(self._forward(x))

    def _filter(self, x: Tensor, spectrum: Tensor) -> Tensor:
        """Multiply the spectrum of ``x``, which zeros extend to the transform's grid."""
        if x.numel() == 0:  # torch transforms no empty batch
            return x.clone()
        field: _Window = (..., *(slice(n) for n in self.domain.shape))
        return self._inverse(self._transform(x).mul_(spectrum))[field]

    def _transform(self, x: Tensor) -> Tensor:
        """The unscaled Fourier transform on the grid; half of it for a real image."""
        transform = torch.fft.fftn if x.is_complex() else torch.fft.rfftn
        spectrum: Tensor = transform(x, s=self._grid, dim=self._axes)
        return spectrum

    def _inverse(self, spectrum: Tensor) -> Tensor:
        inverse = torch.fft.ifftn if self.domain.dtype.is_complex else torch.fft.irfftn
        x: Tensor = inverse(spectrum, s=self._grid, dim=self._axes)
        return x

    def norm(self) -> float:
        """``||A||``: the largest gain of any frequency where periodic, else by Lanczos steps."""
        return float(self._spectrum.abs().max()) if self.periodic else super().norm()


class SliceDownsampling(LinearOperator):
    """Thick slices from thin ones: each is a weighted sum of ``factor`` or more thin slices.

    ``y[k] = sum_j profile[j] x[factor k + j - (n - factor) // 2]`` along z for a profile of ``n``
    weights, centred on the block of ``factor`` thin slices that the thick one stands for. A
    profile that is longer than ``factor`` overlaps with its neighbours'; outside the volume is 0.

    Args:
        shape: ``(z, y, x)`` of the thin slices; z is a multiple of ``factor``.
        factor: thin slices per thick one.
        profile: real slice profile ``(n,)``, not rescaled; the mean of ``factor`` slices by
            default.
        dtype: of the volume, real or complex.

    Attributes:
        domain: ``(z, y, x)``.
        codomain: ``(z / factor, y, x)``.
        profile: as given, in the real dtype of the volume.

    Raises:
        ShapeError: a z that is no multiple of ``factor``, or a profile that is complex, not
            finite or shorter than ``factor``.

    Source:
        Super-resolution along z: Lee et al., "Improving 3D imaging with pre-trained perpendicular
        2D diffusion models" (TPDM), arXiv 2303.08440.

    Example:
        >>> A = SliceDownsampling((4, 1, 1), factor=2)
        >>> A(torch.tensor([1.0, 3.0, 5.0, 9.0]).reshape(4, 1, 1)).flatten().tolist()
        [2.0, 7.0]
    """

    profile: Tensor

    @checked
    def __init__(self, shape: Sequence[int], factor: int, profile: Tensor | None = None,
                 dtype: torch.dtype = torch.float32) -> None:
        if profile is None:
            profile = torch.full((max(factor, 1),), 1 / max(factor, 1), dtype=torch.float64)
        thin = _image_space("SliceDownsampling", shape, dtype)
        _check_slices(thin.shape, factor, profile)
        thick = Space((thin.shape[0] // factor, *thin.shape[1:]), dtype, thin.axes)
        super().__init__(thin, thick)
        self.factor = factor
        self.register_buffer("profile", profile.to(dtype.to_real()))
        self._taps = _taps(self.profile.tolist(), factor, thin.shape[0])

    def _forward(self, x: Tensor) -> Tensor:
        y = x.new_zeros(*x.shape[:-3], *self.codomain.shape)
        for weight, thick, thin in self._taps:
            y[..., thick, :, :].add_(x[..., thin, :, :], alpha=weight)
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(*y.shape[:-3], *self.domain.shape)
        for weight, thick, thin in self._taps:
            x[..., thin, :, :].add_(y[..., thick, :, :], alpha=weight)
        return x


class Patches(LinearOperator):
    """Overlapping patches of an image; the adjoint puts them back and adds where they overlap.

    Along each axis patches start at 0, ``stride``, ``2 stride``...; where these leave a rest, one
    more patch ends at the border, so that every pixel is in a patch. ``A^H A`` multiplies by the
    number of patches that cover a pixel: ``A.adjoint(patches) / A.counts`` blends patches by their
    mean.

    Args:
        shape: ``(y, x)`` or ``(z, y, x)``.
        patch: size of a patch, as many axes.
        stride: distance between patches, as many axes; each at most the patch's size.
        dtype: of the image, real or complex.

    Attributes:
        domain: ``shape``.
        codomain: ``(n_patches, *patch)``, the last axis' position changing fastest.
        counts: how many patches cover each pixel, ``shape``, real.

    Raises:
        ShapeError: a patch that is larger than the image, or a stride that leaves gaps.

    Example:
        >>> A = Patches((1, 4), patch=(1, 2), stride=(1, 2))
        >>> A(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist()
        [[[1.0, 2.0]], [[3.0, 4.0]]]
    """

    counts: Tensor

    @checked
    def __init__(self, shape: Sequence[int], patch: Sequence[int], stride: Sequence[int],
                 dtype: torch.dtype = torch.float32) -> None:
        image = _image_space("Patches", shape, dtype)
        _check_patches(image.shape, patch, stride)
        starts = [[*range(0, n - p, s), n - p]
                  for n, p, s in zip(image.shape, patch, stride, strict=True)]
        corners = list(product(*starts))
        super().__init__(image, Space((len(corners), *patch), dtype, ("patch", *image.axes)))
        self._windows: list[_Window] = [
            (..., *(slice(i, i + p) for i, p in zip(corner, patch, strict=True)))
            for corner in corners]
        ones = torch.ones(self.codomain.shape, dtype=dtype)
        self.register_buffer("counts", self._adjoint(ones).real, persistent=False)

    def _forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[window] for window in self._windows], self.domain.batch_ndim(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        batch = self.codomain.batch_ndim(y)
        x = y.new_zeros(*y.shape[:batch], *self.domain.shape)
        for window, patch in zip(self._windows, y.unbind(batch), strict=True):
            x[window] += patch
        return x

    def _normal(self, x: Tensor) -> Tensor:
        return self.counts * x

    def norm(self) -> float:
        """The square root of the largest overlap."""
        return math.sqrt(float(self.counts.max()))


def _image_space(name: str, shape: Sequence[int], dtype: torch.dtype) -> Space:
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise ShapeError(f"{name}: shape is {tuple(shape)}; pass (y, x) or (z, y, x), each at "
                         "least 1 (other axes are batch axes of the input).")
    if not (dtype.is_floating_point or dtype.is_complex):
        raise ShapeError(f"{name}: dtype is {dtype}; pass a real or complex floating dtype, as "
                         "torch.float32.")
    return Space(tuple(shape), dtype, _AXES[-len(shape):])


def _check_psf(psf: Tensor, image: Space) -> None:
    if psf.ndim != len(image.shape) or any(
            k > n for k, n in zip(psf.shape, image.shape, strict=False)):
        raise ShapeError(f"Blur: psf is {tuple(psf.shape)} but the image is {image.shape}; pass a "
                         "psf with the image's axes that is not larger (crop what is near 0).")
    if psf.is_complex() and not image.dtype.is_complex:
        raise ShapeError(f"Blur: psf is {psf.dtype} but the image is {image.dtype}; pass "
                         "psf.real, or dtype=psf.dtype for complex images.")
    if not bool(psf.isfinite().all()):
        raise ShapeError("Blur: psf has NaN or infinite values; replace them.")


def _check_slices(shape: tuple[int, ...], factor: int, profile: Tensor) -> None:
    if len(shape) != 3 or factor < 1 or shape[0] % factor:
        raise ShapeError(f"SliceDownsampling: shape is {shape} and factor {factor}; pass "
                         "(z, y, x) with z a multiple of factor (crop or pad the volume).")
    if profile.ndim != 1 or len(profile) < factor or profile.is_complex():
        raise ShapeError(f"SliceDownsampling: profile is {profile.dtype} {tuple(profile.shape)}; "
                         f"pass real weights, at least factor = {factor} of them (zeros may pad).")
    if not bool(profile.isfinite().all()):
        raise ShapeError("SliceDownsampling: profile has NaN or infinite values; replace them.")


def _taps(profile: list[float], factor: int, n_thin: int) -> list[tuple[float, slice, slice]]:
    """For each weight of the profile: the thick slices that take part, and their thin ones."""
    taps = []
    for j, weight in enumerate(profile):
        offset = j - (len(profile) - factor) // 2
        first = max(0, math.ceil(-offset / factor))
        last = min(n_thin // factor, math.ceil((n_thin - offset) / factor))
        if first < last:
            thin = slice(first * factor + offset, (last - 1) * factor + offset + 1, factor)
            taps.append((weight, slice(first, last), thin))
    return taps


def _check_patches(shape: tuple[int, ...], patch: Sequence[int], stride: Sequence[int]) -> None:
    fits = len(patch) == len(stride) == len(shape) and all(
        1 <= s <= p <= n for n, p, s in zip(shape, patch, stride, strict=True))
    if not fits:
        raise ShapeError(f"Patches: image {shape}, patch {tuple(patch)}, stride {tuple(stride)}; "
                         "pass one number per axis with 1 <= stride <= patch <= image.")
