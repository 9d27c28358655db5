"""Cartesian sampling masks, named as in the papers that use them.

Papers mean different things by an acceleration; each function says which, and a `Mask` reports the
true one, samples of the grid over samples taken. The same seed gives the same mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.errors import InputError

Seed = int | torch.Generator


@dataclass(frozen=True)
class Mask:
    """A sampling mask.

    Attributes:
        mask: bool, ``(ky, kx)``, ``(kz, ky, kx)`` or with time axes in front; pass it to
            `CartesianMRI`.

    Example:
        >>> Mask(torch.tensor([[True, False], [True, False]])).acceleration
        2.0
    """

    mask: Tensor

    @property
    def acceleration(self) -> float:
        """Samples of the grid over samples taken."""
        return self.mask.numel() / max(1, int(self.mask.sum()))

    def __and__(self, other: Mask) -> Mask:
        """The samples that both masks take."""
        return Mask(self.mask & other.mask)


def random1d(shape: tuple[int, int], acceleration: float, *, center_fraction: float = 0.08,
             axis: int = -1, rng: Seed = 0) -> Mask:
    """Each line outside the centre is taken by the toss of one coin.

    The centre counts in the budget: ``n / acceleration`` lines are taken *on average*, so the true
    acceleration varies from mask to mask.

    Args:
        shape: ``(ky, kx)``.
        acceleration: wanted mean acceleration, over 1.
        center_fraction: part of the lines, around the centre, that is always taken.
        axis: axis along which lines are chosen; the other one is fully sampled.
        rng: seed, or source of randomness.

    Source:
        Zbontar et al., "fastMRI", arXiv 1811.08839 (its random mask).

    Example:
        >>> random1d((64, 64), 4.0).mask.shape
        torch.Size([64, 64])
    """
    n, centre, outside = _lines("random1d", shape, acceleration, center_fraction, axis)
    chance = outside / max(1, n - int(centre.sum()))
    return _mask(shape, axis, centre | (torch.rand(n, generator=_generator(rng)) < chance))


def equispaced(shape: tuple[int, int], acceleration: float, *, center_fraction: float = 0.08,
               axis: int = -1, rng: Seed = 0) -> Mask:
    """Every ``acceleration``-th line from a random offset, and the centre in addition.

    The centre does not count in the budget, so the true acceleration is lower than
    ``acceleration``.

    Args:
        shape: ``(ky, kx)``.
        acceleration: distance between lines; a whole number.
        center_fraction: part of the lines, around the centre, that is always taken.
        axis: axis along which lines are chosen; the other one is fully sampled.
        rng: seed, or source of randomness.

    Source:
        Zbontar et al., "fastMRI", arXiv 1811.08839 (its equispaced mask).

    Example:
        >>> equispaced((64, 64), 4.0, center_fraction=0.0).acceleration
        4.0
    """
    n, centre, _ = _lines("equispaced", shape, acceleration, center_fraction, axis)
    step = round(acceleration)
    if step != acceleration:
        raise InputError(f"equispaced: acceleration is {acceleration}; the distance between lines "
                         "is a whole number, pass one or use uniform1d.")
    offset = int(torch.randint(step, (), generator=_generator(rng)))
    return _mask(shape, axis, centre | (torch.arange(n) % step == offset))


def equispaced_fraction(shape: tuple[int, int], acceleration: float, *,
                        center_fraction: float = 0.08, axis: int = -1, rng: Seed = 0) -> Mask:
    """`equispaced` with lines farther apart, so that the centre counts in the budget.

    About ``n / acceleration`` lines in all. Their distance is seldom whole and is rounded line by
    line; some fall into the centre, so the true acceleration differs a little from the wanted one.

    Args:
        shape: ``(ky, kx)``.
        acceleration: wanted acceleration, over 1.
        center_fraction: part of the lines, around the centre, that is always taken.
        axis: axis along which lines are chosen; the other one is fully sampled.
        rng: seed, or source of randomness.

    Source:
        The "equispaced fraction" mask of fastMRI's code, which made the masks of its challenge
        data; named plain "equispaced" before version 0.1.

    Example:
        >>> round(equispaced_fraction((64, 320), 4.0).acceleration, 1)
        4.0
    """
    n, centre, outside = _lines("equispaced_fraction", shape, acceleration, center_fraction, axis)
    if outside == 0:
        return _mask(shape, axis, centre)
    n_centre = int(centre.sum())
    distance = (n - n_centre) / (n / acceleration - n_centre)
    offset = int(torch.randint(round(distance), (), generator=_generator(rng)))
    lines = centre.clone()
    lines[torch.arange(offset, n - 1, distance, dtype=torch.float64).round().long()] = True
    return _mask(shape, axis, lines)


def magic(shape: tuple[int, int], acceleration: float, *, center_fraction: float = 0.08,
          axis: int = -1, rng: Seed = 0) -> Mask:
    """`equispaced`, shifted so that one half's lines mirror between those of the other half.

    Where k-space is nearly conjugate symmetric, the mirrored lines halve the distance. As for
    `equispaced`, the centre does not count in the budget.

    Args:
        shape: ``(ky, kx)``.
        acceleration: distance between lines; an even whole number.
        center_fraction: part of the lines, around the centre, that is always taken.
        axis: axis along which lines are chosen; the other one is fully sampled.
        rng: seed, or source of randomness.

    Source:
        Defazio, "Offset sampling improves deep learning based accelerated MRI reconstructions by
        exploiting symmetry", arXiv 1912.01101 (fastMRI's "magic" masks, which for 8-fold
        acceleration shift by 2 lines instead of 4).

    Example:
        >>> magic((1, 16), 4.0, center_fraction=0.0).mask.int()[0].tolist()
        [0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0]
    """
    n, centre, _ = _lines("magic", shape, acceleration, center_fraction, axis)
    step = round(acceleration)
    if step != acceleration or step % 2:
        raise InputError(f"magic: acceleration is {acceleration}; the distance between lines is "
                         "an even whole number, pass one or use equispaced.")
    offset = int(torch.randint(step, (), generator=_generator(rng)))
    k = torch.arange(n) - n // 2
    wanted = torch.where(k >= 0, offset, (step // 2 - offset) % step)
    return _mask(shape, axis, centre | (k % step == wanted))


def uniform1d(shape: tuple[int, int], acceleration: float, *, center_fraction: float = 0.08,
              axis: int = -1, rng: Seed = 0) -> Mask:
    """Exactly ``round(n / acceleration)`` lines: the centre, the others drawn without replacement.

    Args:
        shape: ``(ky, kx)``.
        acceleration: wanted acceleration, over 1; met to the rounding of one line.
        center_fraction: part of the lines, around the centre, that is always taken.
        axis: axis along which lines are chosen; the other one is fully sampled.
        rng: seed, or source of randomness.

    Source:
        Chung and Ye, "Score-based diffusion models for accelerated MRI", Med. Image Anal. 80
        (2022), as its text describes it.

    Example:
        >>> uniform1d((64, 64), 4.0).acceleration
        4.0
    """
    n, centre, outside = _lines("uniform1d", shape, acceleration, center_fraction, axis)
    free = torch.nonzero(~centre).flatten()
    order = torch.randperm(len(free), generator=_generator(rng))
    lines = centre.clone()
    lines[free[order[:outside]]] = True
    return _mask(shape, axis, lines)


def uniform1d_with_replacement(shape: tuple[int, int], acceleration: float, *,
                               center_fraction: float = 0.08, axis: int = -1,
                               rng: Seed = 0) -> Mask:
    """`uniform1d` as the published code does it: lines drawn with replacement, anywhere.

    Lines may repeat or fall into the centre, so fewer are taken and the true acceleration is
    higher than the nominal one (about 4.5 for 4). For comparison with published numbers only.

    Args:
        shape: ``(ky, kx)``.
        acceleration: nominal acceleration, over 1.
        center_fraction: part of the lines, around the centre, that is always taken.
        axis: axis along which lines are chosen; the other one is fully sampled.
        rng: seed, or source of randomness.

    Source:
        The masks of Score-MRI, DDS (Chung et al., arXiv 2303.05754) and DiffusionMBIR
        (arXiv 2211.10655).

    Example:
        >>> uniform1d_with_replacement((64, 64), 4.0).acceleration >= 4
        True
    """
    n, centre, outside = _lines("uniform1d_with_replacement", shape, acceleration,
                                center_fraction, axis)
    lines = centre.clone()
    lines[torch.randint(n, (outside,), generator=_generator(rng))] = True
    return _mask(shape, axis, lines)


def partial_fourier(shape: tuple[int, int], fraction: float, *, axis: int = -2) -> Mask:
    """All lines from one side of k-space to a little beyond its centre.

    Combine it with another mask by ``&``; `KnownPhase` tells how to reconstruct.

    Args:
        shape: ``(ky, kx)``.
        fraction: part of the lines that is taken, over 1/2 and up to 1; scanners use 5/8 to 7/8.
        axis: axis along which lines are left out, those of the lowest index.

    Source:
        Margosian, Schmitt and Purdy, "Faster MR imaging: imaging with half the data", Health Care
        Instrum. 1 (1986), 195.

    Example:
        >>> partial_fourier((8, 1), 0.75).mask[:, 0].int().tolist()
        [0, 0, 1, 1, 1, 1, 1, 1]
    """
    if not 0.5 < fraction <= 1:
        raise InputError(f"partial_fourier: fraction is {fraction}; pass a number over 1/2, so "
                         "that the centre is taken, and up to 1.")
    n = shape[axis]
    return _mask(shape, axis, torch.arange(n) >= n - round(fraction * n))


def caipirinha(shape: tuple[int, ...], acceleration: tuple[int, int], shift: int, *,
               calibration_width: int = 0) -> Mask:
    """A lattice in the plane of both phase encodings, sheared to keep aliases apart.

    Taken are ``ky = Ry m`` and ``kz = Rz n + shift m`` for whole ``m`` and ``n``, counted from the
    centre of k-space; the centre counts in addition.

    Args:
        shape: ``(kz, ky)``, or ``(kz, ky, kx)`` for readouts along ``kx``.
        acceleration: ``(Rz, Ry)``; without the calibration region the true one is their product.
        shift: lines along ``kz`` by which a column moves from its neighbour, from 0 (no shear)
            to ``Rz - 1``.
        calibration_width: side of a fully sampled central square.

    Source:
        Breuer et al., "Controlled aliasing in volumetric parallel imaging (2D CAIPIRINHA)", Magn.
        Reson. Med. 55 (2006), 549.

    Example:
        >>> caipirinha((4, 4), (2, 2), 1).mask.int().tolist()
        [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    """
    step_z, step_y = acceleration
    if step_z < 1 or step_y < 1 or not 0 <= shift < step_z:
        raise InputError(f"caipirinha: acceleration is {acceleration} and shift {shift}; pass "
                         f"whole numbers from 1 and a shift from 0 to {max(step_z - 1, 0)}.")
    kz, ky = (torch.arange(n) - n // 2 for n in shape[:2])
    column = torch.div(ky, step_y, rounding_mode="floor")
    taken = (ky % step_y == 0) & ((kz[:, None] - shift * column) % step_z == 0)
    return _along_readout(taken | _central_square(kz, ky, calibration_width), shape)


def poisson_disc(shape: tuple[int, ...], acceleration: float, *, calibration_width: int = 24,
                 tolerance: float = 0.1, crop_corner: bool = True, rng: Seed = 0) -> Mask:
    """Variable-density Poisson-disc points with a fully sampled central square, by sigpy.

    Args:
        shape: ``(ky, kx)``; or ``(kz, ky, kx)`` of a volume, with points in the plane of both
            phase encodings and readouts along ``kx``.
        acceleration: wanted acceleration, over 1.
        calibration_width: side of the central square.
        tolerance: how far the true acceleration may be from the wanted one.
        crop_corner: leave the corners outside the ellipse empty.
        rng: seed, or source of randomness.

    Raises:
        InputError: an acceleration that cannot be met.

    Source:
        Bridson, "Fast Poisson disk sampling in arbitrary dimensions", SIGGRAPH 2007.

    Example:
        >>> abs(poisson_disc((64, 64), 4.0, calibration_width=8).acceleration - 4) < 0.1
        True
        >>> poisson_disc((64, 64, 2), 4.0, calibration_width=8).mask.shape
        torch.Size([64, 64, 2])
    """
    import sigpy.mri

    _check_acceleration("poisson_disc", acceleration)
    seed = int(torch.randint(2**31, (), generator=_generator(rng)))
    plane = shape[:2]
    try:
        points = sigpy.mri.poisson(plane, acceleration, (calibration_width,) * 2, dtype=bool,
                                   crop_corner=crop_corner, seed=seed, tol=tolerance)
    except ValueError:
        raise InputError(
            f"poisson_disc: no mask of {plane} has acceleration {acceleration} within {tolerance} "
            f"and a sampled centre {calibration_width} wide; change one of them."
        ) from None
    return _along_readout(torch.from_numpy(points), shape)


def _generator(rng: Seed) -> torch.Generator:
    return torch.Generator().manual_seed(rng) if isinstance(rng, int) else rng


def _check_acceleration(name: str, acceleration: float) -> None:
    if not acceleration > 1:
        raise InputError(f"{name}: acceleration is {acceleration}; pass a number over 1.")


def _lines(name: str, shape: tuple[int, int], acceleration: float, center_fraction: float,
           axis: int) -> tuple[int, Tensor, int]:
    """Number of lines, the central ones as bool, and how many others the budget leaves."""
    _check_acceleration(name, acceleration)
    n = shape[axis]
    n_centre = round(n * center_fraction)
    outside = round(n / acceleration) - n_centre
    if not 0 <= center_fraction <= 1 or outside < 0:
        raise InputError(
            f"{name}: center_fraction {center_fraction} takes {n_centre} of {n} lines, but "
            f"acceleration {acceleration} leaves {round(n / acceleration)}; lower one of them."
        )
    first = n // 2 - n_centre // 2
    index = torch.arange(n)
    return n, (index >= first) & (index < first + n_centre), outside


def _mask(shape: tuple[int, int], axis: int, lines: Tensor) -> Mask:
    sizes = [1, 1]
    sizes[axis] = len(lines)
    return Mask(lines.reshape(sizes).expand(shape).contiguous())


def _central_square(kz: Tensor, ky: Tensor, width: int) -> Tensor:
    """Where both frequencies lie in the central ``width``."""
    z, y = ((k >= -(width // 2)) & (k < width - width // 2) for k in (kz, ky))
    return z[:, None] & y


def _along_readout(plane: Tensor, shape: tuple[int, ...]) -> Mask:
    """A mask of the phase encodings, for each sample of the readouts of a volume."""
    if len(shape) == 2:
        return Mask(plane)
    return Mask(plane.unsqueeze(-1).expand(shape).contiguous())
