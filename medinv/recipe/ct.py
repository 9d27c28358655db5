"""Simulated sparse-view CT: line integrals of a real volume, with noise."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Generator

from medinv.data import hu_to_mu, mu_to_hu, to_ras
from medinv.errors import DataError
from medinv.operators.ct import ParallelBeam
from medinv.recipe.measurement import Measured, add_noise, load_source, select
from medinv.recipe.schema import CTSimulated


def measure(recipe: CTSimulated, path: Path | None, seed: int) -> Measured:
    """Simulate the sinogram of a CT volume in HU.

    Args:
        recipe: the measurement block.
        path: a NIfTI file to use instead of the recipe's volume.
        seed: of the noise.

    Raises:
        DataError: no volume, no square pixels, or an empty volume.
    """
    source = load_source(recipe.volume, path)
    volume = source.volume if source.volume.orientation[2] in "SI" else to_ras(source.volume)
    if source.phantom:  # 1 in the phantom is the attenuation of water
        volume = volume.with_data(1000 * (volume.data - 1))
    volume = select(volume, recipe.slices, recipe.pool)
    width, height, _ = volume.spacing_mm
    if not math.isclose(width, height, rel_tol=1e-3):
        raise DataError(
            f"{source.title}: expected square pixels, found {width:.4g} x {height:.4g} mm; "
            "resample the volume or choose another measurement.pool"
        )
    mu = hu_to_mu(volume.data.real.float(), recipe.mu_water)
    angles = torch.arange(recipe.views) * (math.radians(recipe.arc_degrees) / recipe.views)
    n_rows, n_cols = mu.shape[1:]
    A = ParallelBeam((n_rows, n_cols), angles.double(), width)
    clean = A(mu)
    level = float(clean.max()) if recipe.noise_of == "max" else float(clean.square().mean().sqrt())
    if not level > 0:
        raise DataError(
            f"{source.title}: expected a CT volume in HU, found nothing denser than air; check "
            "that the file is in HU"
        )
    y = add_noise(clean, recipe.noise * level, Generator().manual_seed(seed))
    of = "largest" if recipe.noise_of == "max" else "rms"
    return Measured(
        y=y, A=A, noise_std=recipe.noise * level, unit="HU", reference=mu,
        to_volume=lambda x: volume.with_data(mu_to_hu(x, recipe.mu_water)),
        origin=(
            f"simulated parallel-beam CT of {source.title}: {recipe.views} views over "
            f"{recipe.arc_degrees:g} degrees, noise {100 * recipe.noise:g} % of the {of} line "
            "integral, projected on the reconstruction grid"
        ),
        notes=source.notes,
        facts={
            "simulated": True, "views": recipe.views, "shape": list(mu.shape),
            "spacing_mm": [round(mm, 5) for mm in volume.spacing_mm],
            "noise_std": recipe.noise * level, "mu_water_per_mm": recipe.mu_water,
        },
    )
