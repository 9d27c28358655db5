"""Warn where pixels are far from what a prior saw in training."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from medinv.priors import Prior, read_card
from medinv.recipe.measurement import Measured
from medinv.recipe.schema import PriorProduct

_AXES = "zyx"
_TOLERANCE = 1.2  # training zooms images a little, so that a prior knows more than its range


def pixel_notes(setting: str | PriorProduct, measured: Measured) -> tuple[str, ...]:
    """What people should know of the size of the image's pixels; empty where it fits.

    Args:
        setting: the recipe's prior.
        measured: the measurement; its volume says how large a voxel is.
    """
    spacing = _spacing(measured)
    if spacing is None:
        return ()
    notes = []
    for name, axis in _priors(setting):
        card = read_card(name)
        sides = [mm for letter, mm in zip(_AXES, spacing, strict=True) if letter != axis]
        across = spacing[_AXES.index(axis)]
        for what, found, known in (
                (f"pixels are {sides[0]:.3g} x {sides[1]:.3g} mm", sides, card.pixel_mm),
                (f"slices are {across:.3g} mm apart", [across], card.slice_mm)):
            if known is None or all(known[0] / _TOLERANCE <= mm <= known[1] * _TOLERANCE
                                    for mm in found):
                continue
            low, high = (f"{mm:.3g}" for mm in known)
            seen = low if low == high else f"{low} to {high}"
            notes.append(f"warning: {what}, but the prior "
                         f"{prior_name(name)} was trained on {seen} mm; it may draw what is not "
                         "there, so compare with the baselines, or resample (measurement.pool)")
    return tuple(notes)


def at_spacing(prior: Prior, measured: Measured) -> Prior:
    """The prior for the measurement's voxels, if they are known and it is told them."""
    spacing = _spacing(measured)
    if spacing is None:
        return prior
    z, y, x = spacing
    return prior.at_spacing((math.sqrt(y * x), z))


def prior_name(name: str) -> str:
    """A prior without its folder.

    >>> prior_name("runs/mine.safetensors")
    'mine'
    """
    return name.rpartition("/")[2].removesuffix(".safetensors")


def _priors(setting: str | PriorProduct) -> Iterator[tuple[str, str]]:
    """Names, and the axis that each prior's slices are perpendicular to."""
    if isinstance(setting, str):
        yield setting, "z"
    else:
        yield setting.primary, setting.primary_axis
        yield setting.auxiliary, setting.auxiliary_axis


def _spacing(measured: Measured) -> tuple[float, float, float] | None:
    """Along z, y, x of the image; None where the file does not tell."""
    batch = measured.y.shape[:measured.A.codomain.batch_ndim(measured.y)]
    domain = measured.A.domain
    image = torch.zeros(*batch, *domain.shape, dtype=domain.dtype)
    volume = measured.to_volume(image)
    if str(volume.metadata.get("voxel_size", "")).startswith("unknown"):
        return None
    x, y, z = volume.spacing_mm
    return z, y, x
