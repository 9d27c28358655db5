"""Multi-coil MRI on a Cartesian grid.

``y_c = M F (S_c x)``: coil maps ``S``, the centred orthonormal Fourier transform ``F`` and a
sampling mask ``M``. With several map sets (soft-SENSE) ``x`` has one image per set and
``y_c = M F sum_s S_sc x_s``; over time, each frame has its mask and all share the maps. If
``sum_c |S_c|^2 <= 1`` everywhere, then ``||A|| <= 1``. What else a scanner does is composed with
it: `off_resonance`, `multislice`, `kspace_grid`, `partial_fourier`.

The normal operator is a convolution between the coil maps, ``A^H A = S^H (F^H M F) S``. Along an
axis on which the mask is constant, ``F^H F = I`` cancels, so only the others are transformed; and
a convolution commutes with the centring, which moves into the mask. Slices and coils pass in
blocks that stay in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import torch
from jaxtyping import Complex
from torch import Tensor

from medinv.arguments import checked
from medinv.errors import ShapeError
from medinv.operators import fourier
from medinv.operators.base import LinearOperator, Space

_BLOCK_BYTES = {"cpu": 2**21, "cuda": 2**29}
_AXES = {2: ("ky", "kx"), 3: ("kz", "ky", "kx")}


class CartesianMRI(LinearOperator):
    """Multi-coil, undersampled Fourier transform of slices (``ndim=2``) or of a volume (3).

    ``forward`` is 0 outside the mask; ``adjoint`` ignores what ``y`` holds there.

    Args:
        maps: coil maps, ``(*slices, [set,] coil, y, x)`` or ``([set,] coil, z, y, x)``.
        mask: bool or 0/1, broadcasts against ``(ky, kx)`` or ``(kz, ky, kx)``; with ``ndim=2``
            it may carry slice axes, ``(*slices, ky, kx)``; time axes come before those.
        ndim: number of Fourier axes, 2 or 3.
        sets: whether the maps have a set axis (soft-SENSE).
        time_ndim: number of leading axes of the mask that count frames. The maps have none:
            all frames share them, without a copy.

    Attributes:
        domain: ``(*time, *slices, [set,] y, x)`` or ``(*time, [set,] z, y, x)``.
        codomain: ``(*time, *slices, coil, ky, kx)`` or ``(*time, coil, kz, ky, kx)``.
        maps: as given.
        mask: bool, ``(*time, [*slices,] ky, kx)`` or ``(*time, kz, ky, kx)``.

    Raises:
        ShapeError: maps that are not complex, not finite or have too few axes, a mask that does
            not fit them, is not binary or lies on another device.

    Source:
        Pruessmann et al., "SENSE", Magn. Reson. Med. 42 (1999); several sets: Uecker et al.,
        "ESPIRiT", Magn. Reson. Med. 71 (2014).

    Example:
        >>> maps = torch.ones(4, 6, 6, dtype=torch.complex64) / 2
        >>> A = CartesianMRI(maps, torch.ones(6, 6))
        >>> x = torch.ones(6, 6, dtype=torch.complex64)
        >>> A(x).shape, torch.allclose(A.normal(x), x)
        (torch.Size([4, 6, 6]), True)
        >>> CartesianMRI(maps, torch.ones(10, 6, 6), time_ndim=1).codomain.shape
        (10, 4, 6, 6)
    """

    maps: Tensor
    mask: Tensor
    _spectrum: Tensor

    @checked
    def __init__(self, maps: Tensor, mask: Tensor, *, ndim: int = 2, sets: bool = False,
                 time_ndim: int = 0) -> None:
        _check_maps(maps, ndim, sets)
        _check_mask(mask, maps, ndim, time_ndim)
        time = tuple(mask.shape[:time_ndim])
        grid = tuple(maps.shape[-ndim:])
        slices = tuple(maps.shape[: maps.ndim - ndim - 1 - sets])
        n_sets = tuple(maps.shape[len(slices): len(slices) + sets])
        n_coils = maps.shape[-ndim - 1]
        image_axes = tuple(name.removeprefix("k") for name in _AXES[ndim])
        items, item_axes = (*time, *slices), ("time",) * time_ndim + ("slice",) * len(slices)
        super().__init__(
            Space((*items, *n_sets, *grid), maps.dtype,
                  (*item_axes, *("set",) * sets, *image_axes)),
            Space((*items, n_coils, *grid), maps.dtype, (*item_axes, "coil", *_AXES[ndim])),
        )
        self.ndim, self.sets, self.n_coils = ndim, sets, n_coils
        self._n_frames, self._n_items = mask.shape[:time_ndim].numel(), math.prod(slices)
        mask = _fit_mask(mask, maps, time, slices, grid)
        self.register_buffer("maps", maps)
        self.register_buffer("mask", mask)
        self._axes = tuple(a for a in range(-ndim, 0) if _varies(mask, a))
        self.register_buffer("_spectrum", self._make_spectrum(), persistent=False)

    def extra_repr(self) -> str:
        """The spaces and the undersampling, for ``repr``."""
        share = self.mask.numel() / max(1, int(self.mask.sum()))
        return f"{super().extra_repr()}, {share:.3g}x undersampled"

    def _make_spectrum(self) -> Tensor:
        """The mask of the uncentred transform, of size 1 along axes it does not depend on."""
        spectrum = self.mask
        for axis in set(range(-self.ndim, 0)) - set(self._axes):
            spectrum = spectrum.narrow(axis, 0, 1)
        if self._axes:
            spectrum = torch.fft.ifftshift(spectrum, self._axes)
        return spectrum.to(self.maps.dtype)

    def _forward(self, x: Tensor) -> Tensor:
        y = x.new_empty(*x.shape[: self.domain.batch_ndim(x)], *self.codomain.shape)
        images, signals = self._flat_images(x), self._flat_signals(y)
        axes = tuple(range(-self.ndim, 0))
        for batch, items, coils, maps in self._blocks(x):
            signal = fourier.fft(_to_coils(maps, images[batch, items]), axes)
            signals[batch, items, coils] = torch.where(self._of(self.mask, batch, items),
                                                       signal, 0)
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(*y.shape[: self.codomain.batch_ndim(y)], *self.domain.shape)
        images, signals = self._flat_images(x), self._flat_signals(y)
        axes = tuple(range(-self.ndim, 0))
        for batch, items, coils, maps in self._blocks(x):
            signal = torch.where(self._of(self.mask, batch, items),
                                 signals[batch, items, coils], 0)
            images[batch, items] += _from_coils(maps, fourier.ifft(signal, axes))
        return x

    def _normal(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x, memory_format=torch.contiguous_format)
        images, results = self._flat_images(x), self._flat_images(out)
        for batch, items, _, maps in self._blocks(x):
            signal = _to_coils(maps, images[batch, items])
            if self._axes:
                signal = torch.fft.fftn(signal, dim=self._axes)
            signal *= self._of(self._spectrum, batch, items)
            if self._axes:
                signal = torch.fft.ifftn(signal, dim=self._axes)
            results[batch, items] += _from_coils(maps, signal)
        return out

    def _flat_images(self, x: Tensor) -> Tensor:
        """View ``(*batch, *domain)`` as ``(batch and frame, item, set, *grid)``."""
        grid = self.domain.shape[-self.ndim:]
        n_sets = self.domain.shape[-self.ndim - 1] if self.sets else 1
        return x.reshape(self._n_batch(x, self.domain), self._n_items, n_sets, *grid)

    def _flat_signals(self, y: Tensor) -> Tensor:
        """View ``(*batch, *codomain)`` as ``(batch and frame, item, coil, *grid)``."""
        coil_and_grid = self.codomain.shape[-self.ndim - 1:]
        return y.reshape(self._n_batch(y, self.codomain), self._n_items, *coil_and_grid)

    def _n_batch(self, x: Tensor, space: Space) -> int:
        return x.shape[: space.batch_ndim(x)].numel() * self._n_frames

    def _of(self, mask: Tensor, batch: int, items: slice) -> Tensor:
        """The mask of some items of a frame, ``(item or 1, 1, *grid)``."""
        frames = mask.reshape(self._n_frames, -1, 1, *mask.shape[-self.ndim:])
        frame = frames[batch % self._n_frames]
        return frame if frame.shape[0] == 1 else frame[items]

    def _blocks(self, x: Tensor) -> Iterator[tuple[int, slice, slice, Tensor]]:
        """Indices of a block and its maps ``(item, set, coil, *grid)``."""
        grid = self.domain.shape[-self.ndim:]
        n_sets = self.domain.shape[-self.ndim - 1] if self.sets else 1
        maps = self.maps.reshape(-1, n_sets, self.n_coils, *grid)
        block = _BLOCK_BYTES.get(x.device.type, _BLOCK_BYTES["cuda"])
        images = max(1, block // (x.element_size() * maps[0, 0, 0].numel()))
        items, coils = max(1, images // self.n_coils), min(images, self.n_coils)
        for batch, i, c in product(range(self._n_batch(x, self.domain)),
                                   range(0, maps.shape[0], items),
                                   range(0, self.n_coils, coils)):
            chosen = slice(i, i + items), slice(c, c + coils)
            yield batch, *chosen, maps[chosen[0], :, chosen[1]]


def _to_coils(maps: Complex[Tensor, "item set coil *grid"],
              images: Complex[Tensor, "item set *grid"]) -> Complex[Tensor, "item coil *grid"]:
    """What each coil sees of the images."""
    if maps.shape[1] == 1:
        return maps[:, 0] * images
    return (maps * images.unsqueeze(2)).sum(1)


def _from_coils(maps: Complex[Tensor, "item set coil *grid"],
                signal: Complex[Tensor, "item coil *grid"]) -> Complex[Tensor, "item set *grid"]:
    """Adjoint of `_to_coils`."""
    return (signal.unsqueeze(1) * maps.conj()).sum(2)


def _varies(mask: Tensor, axis: int) -> bool:
    return not bool((mask == mask.narrow(axis, 0, 1)).all())


def _check_maps(maps: Tensor, ndim: int, sets: bool) -> None:
    if ndim not in _AXES:
        raise ShapeError(f"CartesianMRI: ndim is {ndim}; pass 2 for slices or 3 for a volume.")
    if maps.dtype not in (torch.complex64, torch.complex128):
        raise ShapeError(f"CartesianMRI: maps are {maps.dtype}; pass complex64 or complex128.")
    least = ndim + 1 + sets
    if maps.ndim < least or (ndim == 3 and maps.ndim > least):
        axes = ("*slices",) * (ndim == 2) + ("set",) * sets + ("coil",) + _AXES[ndim]
        expected = ", ".join(axis.removeprefix("k") for axis in axes)
        raise ShapeError(f"CartesianMRI: maps are {tuple(maps.shape)} but ndim={ndim}, "
                         f"sets={sets} need ({expected}); add the missing axis or drop the extra.")
    if not bool(torch.isfinite(torch.view_as_real(maps.resolve_conj())).all()):
        raise ShapeError("CartesianMRI: maps hold NaN or infinite values; pass "
                         "maps.nan_to_num() if those voxels lie outside the body.")


def _check_mask(mask: Tensor, maps: Tensor, ndim: int, time_ndim: int) -> None:
    if mask.device != maps.device:
        raise ShapeError(f"CartesianMRI: mask is on {mask.device} but maps are on {maps.device}; "
                         "move one of them with .to(device).")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ShapeError("CartesianMRI: mask has values other than 0 and 1; pass `mask != 0`.")
    if time_ndim < 0 or (time_ndim and mask.ndim < time_ndim + ndim):
        raise ShapeError(f"CartesianMRI: mask is {tuple(mask.shape)} but time_ndim={time_ndim} "
                         f"needs (*time, {', '.join(_AXES[ndim])}); give every axis, if need be "
                         "of size 1.")


def _fit_mask(mask: Tensor, maps: Tensor, time: tuple[int, ...], slices: tuple[int, ...],
              grid: tuple[int, ...]) -> Tensor:
    """``mask`` as bool, ``(*time, *grid)`` or, if it has slices, ``(*time, *slices, *grid)``."""
    has_slices = mask.ndim > len(time) + len(grid)
    shape = (*time, *slices, *grid) if has_slices else (*time, *grid)
    axes = ("time",) * len(time) + ("slices",) * (len(slices) if has_slices else 0)
    try:
        return mask.to(torch.bool).expand(shape).contiguous()
    except RuntimeError:
        raise ShapeError(
            f"CartesianMRI: mask is {tuple(mask.shape)} but maps are {tuple(maps.shape)}; crop "
            f"k-space or pass a mask for {', '.join((*axes, *_AXES[len(grid)]))} = "
            f"{', '.join(map(str, shape))}."
        ) from None
