"""Simulated thick slices: means of neighbouring slices of a real volume, with noise."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Generator, Tensor

from medinv.data import Volume, crop, hu_to_mu, mu_to_hu, to_ras
from medinv.errors import DataError
from medinv.operators import SliceDownsampling
from medinv.recipe.blocks import ThickSlices
from medinv.recipe.measurement import Measured, add_noise, load_source, select


def measure(recipe: ThickSlices, path: Path | Volume | None, seed: int) -> Measured:
    """Average the axial slices of a volume in groups; a rest at the end is left out.

    Args:
        recipe: the measurement block.
        path: a volume to use instead of the recipe's.
        seed: of the noise.

    Raises:
        DataError: no volume, an empty one, or one with fewer slices than a thick slice takes.
    """
    source = load_source(recipe.volume, path)
    volume = source.volume if source.volume.orientation[2] in "SI" else to_ras(source.volume)
    if source.phantom and recipe.modality == "ct":  # 1 in the phantom is water
        volume = volume.with_data(1000 * (volume.data - 1))
    volume = select(volume, recipe.slices, recipe.pool)
    n_slices = volume.data.shape[0] // recipe.factor * recipe.factor
    if not n_slices:
        raise DataError(f"{source.title}: {volume.data.shape[0]} slices make no thick slice of "
                        f"{recipe.factor}; lower measurement.factor")
    volume = crop(volume, (slice(0, n_slices), slice(None), slice(None)))
    x = _physical(volume, recipe)
    A = SliceDownsampling((int(x.shape[0]), int(x.shape[1]), int(x.shape[2])), recipe.factor,
                          dtype=x.dtype)
    std = recipe.noise * float(x.abs().max())
    if not std >= 0 or not float(x.abs().max()) > 0:
        raise DataError(f"{source.title}: the volume is empty; check the file and its unit")
    y = add_noise(A(x), std, Generator().manual_seed(seed))
    thick_mm = recipe.factor * volume.spacing_mm[2]

    def to_volume(image: Tensor) -> Volume:
        image = mu_to_hu(image, recipe.mu_water) if recipe.modality == "ct" else image
        return volume.with_data(image)

    return Measured(
        y=y, A=A, noise_std=std, to_volume=to_volume, reference=x,
        unit="HU" if recipe.modality == "ct" else "scanner units",
        origin=(
            f"simulated {thick_mm:.4g} mm slices of {source.title}, each the mean of "
            f"{recipe.factor}, noise {100 * recipe.noise:g} % of the largest voxel"
        ),
        notes=source.notes,
        facts={"simulated": True, "factor": recipe.factor, "shape": list(x.shape),
               "spacing_mm": [round(mm, 5) for mm in volume.spacing_mm], "noise_std": std},
    )


def _physical(volume: Volume, recipe: ThickSlices) -> Tensor:
    """CT in 1/mm; MR by its magnitude, as a complex image without phase."""
    if recipe.modality == "ct":
        return hu_to_mu(volume.data.real.float(), recipe.mu_water)
    return volume.data.abs().to(torch.complex64)
