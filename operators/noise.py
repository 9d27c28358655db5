"""Transmission physics: how counts are drawn, corrected, and turned into line integrals.

A ray of line integral ``p`` (without unit) lets ``I = I0 exp(-p)`` of ``I0`` incident photons
through (Beer and Lambert). The detector gives ``N = Poisson(I) + e n`` with electronic noise of
standard deviation ``e``, in counts. After the logarithm, ``p = -log(N / I0)``, the noise has
variance ``(N + e^2) / N^2`` to first order, and its inverse is the statistical weight of the ray
(Bouman and Sauer, IEEE Trans. Image Process. 5 (1996), 480; with electronic noise Thibault et
al., Proc. SPIE 6065 (2006)). See `medinv.operators.weighted` for what to do with it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from medinv.errors import InputError
from medinv.operators.linalg import standard_normal


def add_gaussian(y: Tensor, std: float, rng: Generator | None = None) -> Tensor:
    """``y`` plus white noise.

    Args:
        y: real or complex.
        std: standard deviation of each real component, in the units of ``y``.
        rng: source of randomness; torch's global one if None.

    Raises:
        InputError: ``std`` is negative.

    Example:
        >>> add_gaussian(torch.zeros(2, 3), 0.1).shape
        torch.Size([2, 3])
    """
    _require(std >= 0, f"add_gaussian: std: expected a number >= 0, got {std}")
    return y + std * standard_normal(y, rng)


def draw_counts(integrals: Float[Tensor, "*shape"], incident: float,
                rng: Generator | None = None, *, electronic_std: float = 0.0,
                ) -> Float[Tensor, "*shape"]:
    """Counts behind an object: ``Poisson(incident exp(-integrals))`` plus electronic noise.

    Args:
        integrals: line integrals.
        incident: mean photons per ray without an object, ``I0``.
        rng: source of randomness; torch's global one if None.
        electronic_std: standard deviation of the electronic noise, in counts. With it, a count
            may be negative.

    Raises:
        InputError: ``incident`` is not positive or ``electronic_std`` is negative.

    Example:
        >>> counts = draw_counts(torch.full((10_000,), 1.0), 100.0, torch.Generator())
        >>> round(counts.mean().item())  # 100 / e
        37
    """
    _require(incident > 0, f"draw_counts: incident: expected photons per ray > 0, got {incident}")
    _require(electronic_std >= 0,
             f"draw_counts: electronic_std: expected a number >= 0, got {electronic_std}")
    expected = incident * torch.exp(-integrals)
    device = expected.device if rng is None else rng.device
    counts = torch.poisson(expected.to(device), rng).to(expected.device)
    return add_gaussian(counts, electronic_std, rng) if electronic_std > 0 else counts


def flat_dark_correct(counts: Float[Tensor, "*view row_col"], flat: Float[Tensor, "*pixels"],
                      dark: Float[Tensor, "*pixels"]) -> Float[Tensor, "*view row_col"]:
    """Transmission ``(counts - dark) / (flat - dark)`` of each detector pixel.

    Args:
        counts: measurement with the object.
        flat: mean of the frames without an object; broadcasts against ``counts``.
        dark: mean of the frames without a beam; broadcasts against ``counts``.

    Raises:
        InputError: a pixel's flat field is not above its dark field.

    Example:
        >>> flat_dark_correct(torch.tensor([60.0]), torch.tensor([110.0]), torch.tensor([10.0]))
        tensor([0.5000])
    """
    gain = flat - dark
    dead = int((~(gain > 0)).sum())
    _require(dead == 0, f"flat_dark_correct: expected flat > dark in every pixel, got {dead} of "
                        f"{gain.numel()} pixels where it is not; are the two swapped? Interpolate "
                        "dead pixels first.")
    return (counts - dark) / gain


def log_transform(transmission: Float[Tensor, "*shape"], *, floor: float,
                  ) -> Float[Tensor, "*shape"]:
    """Line integrals ``-log(max(transmission, floor))``.

    Args:
        transmission: counts over incident counts (see `flat_dark_correct`).
        floor: smallest transmission taken at its word; half a photon, ``0.5 / incident``, is a
            usual choice. It biases rays below it, which should count little or not at all
            (`statistical_weights`).

    Raises:
        InputError: ``floor`` is not in (0, 1).

    Example:
        >>> log_transform(torch.tensor([0.0, 1.0]), floor=1e-3).round(decimals=3).abs()
        tensor([6.9080, 0.0000])
    """
    _require(0 < floor < 1, f"log_transform: floor: expected a number in (0, 1), got {floor}")
    return -transmission.clamp(min=floor).log()


def statistical_weights(counts: Float[Tensor, "*shape"], *, electronic_std: float = 0.0,
                        ) -> Float[Tensor, "*shape"]:
    """Inverse variance of the line integral behind each count, ``N^2 / (N + electronic_std^2)``.

    A count of 0 or less says nothing after the logarithm and weighs 0.

    Args:
        counts: photons per ray, ``N``.
        electronic_std: standard deviation of the electronic noise, in counts.

    Raises:
        InputError: ``electronic_std`` is negative.

    Example:
        >>> statistical_weights(torch.tensor([-3.0, 100.0]), electronic_std=5.0)
        tensor([ 0., 80.])
    """
    _require(electronic_std >= 0,
             f"statistical_weights: electronic_std: expected a number >= 0, got {electronic_std}")
    positive = counts.clamp(min=0)
    return torch.where(positive > 0, positive**2 / (positive + electronic_std**2), 0.0)


def _require(valid: bool, message: str) -> None:
    if not valid:
        raise InputError(message)
