"""Where the rotation axis falls on the detector of a measured parallel-beam scan."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from medinv.errors import InputError
from medinv.operators.ct_detector import cut_side

_PER_COLUMN = 64  # positions tried per column


@torch.no_grad()
def find_rotation_centre(sinogram: Float[Tensor, "*batch view col"],
                         angles: Float[Tensor, " view"]) -> float:
    """The detector's offset, in columns, that makes a parallel-beam sinogram consistent.

    Half a turn and its mirror image make a full turn. If the mirror stands at the right column,
    the angular Fourier coefficient ``n`` of an object within radius ``r`` of the axis is
    negligible at spatial frequencies ``w < |n| / r``; elsewhere the seams put energy there. That
    energy is a trigonometric polynomial in the mirror's position, so one FFT evaluates it at all
    positions, to 1/64 of a column. All rows are searched for one common offset.

    Args:
        sinogram: line integrals, at least half a turn.
        angles: view angles in radians, evenly spaced, ``(view,)``.

    Returns:
        ``offset`` in columns: pass ``col_offset_mm=offset * col_mm`` to `ParallelBeam`. The axis
        is seen at column ``(n_cols - 1) / 2 - offset``.

    Raises:
        InputError: the angles are not even, or span less than half a turn, or the object goes on
            beyond one side of the detector, whose mirror image then does not fit.

    Source:
        The double wedge of Vo et al., Optics Express 22 (2014), 19078, with energy in place of
        magnitude.

    Example:
        >>> angles = torch.arange(60) * torch.pi / 60
        >>> s = torch.arange(65.0) - 30  # the axis is seen at column 30, not 32
        >>> centre = 8 * angles.cos() - 5 * angles.sin()
        >>> sinogram = (9.0**2 - (s - centre[:, None]) ** 2).clamp(min=0).sqrt()
        >>> round(find_rotation_centre(sinogram, angles), 1)
        2.0
    """
    if cut_side(sinogram):
        raise InputError("find_rotation_centre: the object goes on beyond one side of the "
                         "detector (half acquisition?), so its mirror image does not fit; give "
                         "the centre by hand.")
    views = _half_turn(angles)
    half = sinogram[..., views, :].double()
    n_views, n_cols = half.shape[-2:]
    n = 2 ** math.ceil(math.log2(2 * n_cols))
    here = torch.fft.rfft(half, n)
    mirrored = torch.fft.rfft(half.flip(-1), n)
    first = torch.fft.fft(here, 2 * n_views, dim=-2)
    order = torch.fft.fftfreq(2 * n_views, 1 / (2 * n_views), dtype=torch.float64)
    second = torch.fft.fft(mirrored, 2 * n_views, dim=-2) * (-1) ** order.abs()[:, None]
    frequency = 2 * math.pi * torch.fft.rfftfreq(n, dtype=torch.float64)
    empty = order.abs()[:, None] > frequency * n_cols / 2 + 1
    cross = torch.where(empty, first.conj() * second, 0).sum(-2)
    cross = cross.reshape(-1, len(frequency)).sum(0)
    # energy(shift) = const + 2 Re sum_k cross_k exp(-2 pi i k shift / n)
    energy = torch.fft.irfft(cross.conj(), n * _PER_COLUMN)
    shift = torch.fft.fftfreq(n * _PER_COLUMN, 1 / n, dtype=torch.float64)
    allowed = shift.abs() < n_cols
    best = torch.where(allowed, energy, torch.inf).argmin()
    return -float(shift[best]) / 2


def _half_turn(angles: Tensor) -> Tensor:
    """Indices of the first half turn."""
    steps = torch.diff(angles.double())
    step = steps.mean()
    if len(steps) == 0 or not bool(((steps - step).abs() < 0.1 * step.abs()).all()):
        raise InputError("find_rotation_centre: expected evenly spaced angles in radians, in the "
                         "order of the views; sort or select views first.")
    turned = (angles - angles[0]).abs()
    if turned[-1] + 1.5 * step.abs() < math.pi:
        raise InputError("find_rotation_centre: expected views over 180 degrees, got "
                         f"{math.degrees(turned[-1] + step.abs()):.4g}; give the centre by hand.")
    return (turned < math.pi - step.abs() / 2).nonzero()[:, 0]
