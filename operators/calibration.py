"""The calibration region: the block around the centre of k-space that is fully sampled.

It is a rectangle (a box in 3D), as wide along each axis as is sampled there: lines along the
readout are sampled in full, however few of them there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medinv.errors import InputError, ShapeError

Width = int | Sequence[int] | None

_USUAL_WIDTH = 24


def calibration_region(name: str, kspace: Tensor, requested: Width, ndim: int,
                       least: int) -> tuple[Tensor, tuple[int, ...]]:
    """k-space as ``(slice, coil, *grid)`` and the widths of its calibration region.

    Args:
        name: of the caller, for messages.
        kspace: ``(*slices, coil, ky, kx)``, or ``(coil, kz, ky, kx)`` with ``ndim=3``; zero where
            not sampled.
        requested: width along each axis, one number for all axes alike, or None for the largest
            that is fully sampled in every slice, at most 24 along an axis.
        ndim: number of Fourier axes, 2 or 3.
        least: the smallest width along any axis.

    Raises:
        ShapeError: k-space that is not complex or lacks axes.
        InputError: a region that is empty, too small, not fully sampled or not finite.

    Example:
        >>> kspace = torch.zeros(2, 64, 48, dtype=torch.complex64)
        >>> kspace[:, :, 18:30] = 1
        >>> calibration_region("example", kspace, None, 2, 6)[1]
        (24, 12)
    """
    check_kspace(name, kspace, ndim)
    slices = kspace.reshape(-1, *kspace.shape[-ndim - 1:])
    sampled = (slices != 0).any(1).all(0)
    largest = sampled_block(sampled, (_USUAL_WIDTH,) * ndim)
    if 0 in largest:
        raise InputError(f"{name}: the calibration region is empty: k-space is 0 at its centre; "
                         "check that the zero frequency is at n // 2, or pass maps from another "
                         "scan.")
    widths = largest if requested is None else per_axis(name, requested, ndim)
    fits = all(w <= n for w, n in zip(widths, sampled.shape, strict=True))
    if min(widths) < least or not fits or not bool(centre_block(sampled, widths).all()):
        raise InputError(
            f"{name}: calibration_width is {_text(widths)}, but the fully sampled centre of "
            f"k-space is {_text(sampled_block(sampled, sampled.shape))} wide and the least is "
            f"{least}; pass a width between the two, or maps from another scan."
        )
    if not bool(torch.isfinite(torch.view_as_real(centre_block(slices, widths))).all()):
        raise InputError(f"{name}: k-space holds NaN or infinite samples; check the file.")
    return slices, widths


def per_axis(name: str, width: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """One width for each axis.

    Raises:
        InputError: another number of widths than axes.

    Example:
        >>> per_axis("example", 24, 2), per_axis("example", [24, 12], 2)
        ((24, 24), (24, 12))
    """
    widths = (width,) * ndim if isinstance(width, int) else tuple(width)
    if len(widths) != ndim:
        raise InputError(f"{name}: calibration_width is {list(widths)}; pass one number, or "
                         f"{ndim} of them in the order of the axes of k-space.")
    return widths


def sampled_block(sampled: Tensor, most: Sequence[int]) -> tuple[int, ...]:
    """Widths of the central block in which everything is sampled; axes grow in turn.

    Args:
        sampled: bool, ``(*grid)``.
        most: no axis grows beyond.

    Example:
        >>> sampled_block(torch.ones(8, 3) > 0, (24, 24))
        (8, 3)
    """
    if not bool(centre_block(sampled, (1,) * sampled.ndim).all()):
        return (0,) * sampled.ndim
    widths, growing = [1] * sampled.ndim, list(range(sampled.ndim))
    while growing:
        for axis in tuple(growing):
            wider = [w + (i == axis) for i, w in enumerate(widths)]
            if wider[axis] <= min(most[axis], sampled.shape[axis]) and bool(
                    centre_block(sampled, wider).all()):
                widths = wider
            else:
                growing.remove(axis)
    return tuple(widths)


def centre_block(x: Tensor, widths: Sequence[int]) -> Tensor:
    """The view of ``x`` around index ``n // 2`` of its last axes, ``widths`` wide.

    Example:
        >>> centre_block(torch.arange(6), [3])
        tensor([2, 3, 4])
    """
    for axis, width in zip(range(-len(widths), 0), widths, strict=True):
        x = x.narrow(axis, x.shape[axis] // 2 - width // 2, width)
    return x


def check_kspace(name: str, kspace: Tensor, ndim: int) -> None:
    """Refuse what is not k-space of coils, or has no slice or no coil.

    Raises:
        ShapeError: see above.
    """
    if not kspace.is_complex() or kspace.ndim < ndim + 1:
        raise ShapeError(f"{name}: k-space is {tuple(kspace.shape)}, {kspace.dtype}; pass a "
                         f"complex tensor (*slices, coil{', kz' * (ndim == 3)}, ky, kx).")
    if 0 in kspace.shape:
        raise ShapeError(f"{name}: k-space is {tuple(kspace.shape)}, so it holds no sample; pass "
                         "at least one slice, one coil and one point along each axis.")


def _text(widths: Sequence[int]) -> str:
    """``24`` for a square, else ``24 x 12``."""
    return str(widths[0]) if len(set(widths)) == 1 else " x ".join(map(str, widths))
