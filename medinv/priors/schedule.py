"""Noise levels, in the VE coordinate.

A schedule of a VP, flow or EDM network is a list of these levels: ``sigma = sqrt((1 - ab) / ab)``
for VP with cumulative signal ``ab``, ``sigma = t / (1 - t)`` for a flow; a sampler needs no more.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from medinv.errors import InputError


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, *,
                  rho: float = 7.0) -> Float[Tensor, " levels"]:
    """Levels from ``sigma_max`` to ``sigma_min``, then 0 (Karras et al. 2022, eq. 5), float64.

    Raises:
        InputError: fewer than one step, or not ``0 < sigma_min < sigma_max``.

    Example:
        >>> karras_sigmas(3, 0.01, 1.0).tolist()[::3]
        [1.0, 0.0]
    """
    if steps < 1 or not 0 < sigma_min < sigma_max < math.inf:
        raise InputError(
            f"expected steps >= 1 and finite 0 < sigma_min < sigma_max, got steps = {steps}, "
            f"sigma_min = {sigma_min}, sigma_max = {sigma_max}"
        )
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


def geometric_sigmas(steps: int, sigma_min: float, sigma_max: float) -> Float[Tensor, " levels"]:
    """Levels of constant ratio from ``sigma_max`` to ``sigma_min``, then 0, float64.

    The variance-exploding schedule of Song et al. 2021 (arXiv:2011.13456, appendix C).

    Raises:
        InputError: fewer than one step, or not ``0 < sigma_min < sigma_max``.

    Example:
        >>> geometric_sigmas(3, 0.01, 1.0).round(decimals=6).tolist()
        [1.0, 0.1, 0.01, 0.0]
    """
    karras_sigmas(steps, sigma_min, sigma_max)  # checks them
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    return torch.cat([sigma_max * (sigma_min / sigma_max) ** ramp, ramp.new_zeros(1)])


def geometric_start(steps: int, sigma_min: float, published: float) -> float:
    """Where geometric levels start, if few of them cannot reach as far as published.

    Neighbouring levels then differ by a fifth, but none starts below 1, the size of an image in
    prior units: coarser levels leave more noise in the image than there was to begin with.

    Args:
        steps: number of levels above 0.
        sigma_min: the lowest.
        published: the highest, where steps suffice.

    Example:
        >>> [round(geometric_start(n, 0.01, 378.0), 1) for n in (10, 30, 100)]
        [1.0, 2.0, 378.0]
    """
    return min(published, max(1.0, sigma_min * 1.2 ** min(steps - 1, 1000)))
