"""Sampling masks that change from frame to frame, ``(time, ky, kx)``.

`CartesianMRI` takes them with ``time_ndim=1``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from medinv.errors import InputError
from medinv.operators.sampling import Mask, Seed, _generator, _lines


def over_time(draw: Callable[[torch.Generator], Mask], n_frames: int, *,
              rng: Seed = 0) -> Mask:
    """Independent masks, one for each frame.

    Args:
        draw: makes one, as ``lambda rng: random1d((64, 64), 4.0, rng=rng)``.
        n_frames: number of frames.
        rng: seed, or source of randomness.

    Returns:
        ``(time, *mask)``.

    Example:
        >>> from medinv.operators.sampling import random1d
        >>> over_time(lambda rng: random1d((8, 8), 2.0, rng=rng), 5).mask.shape
        torch.Size([5, 8, 8])
    """
    if n_frames < 1:
        raise InputError(f"over_time: n_frames is {n_frames}; pass at least 1.")
    generator = _generator(rng)
    return Mask(torch.stack([draw(generator).mask for _ in range(n_frames)]))


def kt_lattice(shape: tuple[int, int], acceleration: int, n_frames: int, *, shift: int = 1,
               center_fraction: float = 0.0, axis: int = -2) -> Mask:
    """Every ``acceleration``-th line, moved by ``shift`` lines from a frame to the next.

    Together, ``acceleration`` frames hold every line once where ``shift`` and ``acceleration``
    have no common factor. The centre is taken in addition.

    Args:
        shape: ``(ky, kx)``.
        acceleration: distance between lines, over 1.
        n_frames: number of frames.
        shift: lines by which the lattice moves.
        center_fraction: part of the lines, around the centre, that every frame takes.
        axis: axis along which lines are chosen; the other one is fully sampled.

    Returns:
        ``(time, ky, kx)``.

    Source:
        Tsao, Boesiger and Pruessmann, "k-t BLAST and k-t SENSE", Magn. Reson. Med. 50 (2003),
        1031.

    Example:
        >>> kt_lattice((4, 1), 2, 3).mask[..., 0].int().tolist()
        [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]
    """
    if n_frames < 1:
        raise InputError(f"kt_lattice: n_frames is {n_frames}; pass at least 1.")
    n, centre, _ = _lines("kt_lattice", shape, acceleration, center_fraction, axis)
    frames = torch.arange(n_frames)[:, None]
    lines = centre | ((torch.arange(n) - shift * frames) % acceleration == 0)
    across = lines.unsqueeze(-2 if axis in (-1, 1) else -1)
    return Mask(across.expand(n_frames, *shape).contiguous())
