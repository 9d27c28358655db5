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
        mask: bool, ``(ky, kx)``; pass it to `CartesianMRI`.

    Example:
        >>> Mask(torch.tensor([[True, False], [True, False]])).acceleration
        2.0
    """

    mask: Tensor

    @property
    def acceleration(self) -> float:
        """Samples of the grid over samples taken."""
        return self.mask.numel() / max(1, int(self.mask.sum()))


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


def poisson_disc(shape: tuple[int, int], acceleration: float, *, calibration_width: int = 24,
                 tolerance: float = 0.1, crop_corner: bool = True, rng: Seed = 0) -> Mask:
    """Variable-density Poisson-disc points with a fully sampled central square, by sigpy.

    Args:
        shape: ``(ky, kx)``, or ``(kz, ky)`` of a volume whose readout is ``kx``
            (``mask.unsqueeze(-1)`` then fits `CartesianMRI`).
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
    """
    import sigpy.mri

    _check_acceleration("poisson_disc", acceleration)
    seed = int(torch.randint(2**31, (), generator=_generator(rng)))
    try:
        points = sigpy.mri.poisson(shape, acceleration, (calibration_width,) * 2, dtype=bool,
                                   crop_corner=crop_corner, seed=seed, tol=tolerance)
    except ValueError:
        raise InputError(
            f"poisson_disc: no mask of {shape} has acceleration {acceleration} within {tolerance} "
            f"and a sampled centre {calibration_width} wide; change one of them."
        ) from None
    return Mask(torch.from_numpy(points))


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
