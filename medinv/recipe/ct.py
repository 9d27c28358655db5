"""Simulated CT: line integrals of a real volume, with noise.

Projecting on the reconstruction's own grid makes reconstruction look easier than it is; with
``oversampled``, the volume is projected as it was before pooling, on finer detector columns, whose
line integrals are averaged.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Generator, Tensor

from medinv.data import Volume, crop, hu_to_mu, mu_to_hu, to_ras
from medinv.errors import DataError
from medinv.operators.base import LinearOperator
from medinv.operators.cone import ConeBeam
from medinv.operators.ct import FanBeam, ParallelBeam
from medinv.recipe.blocks import ConeScan, CTSimulated, FanScan
from medinv.recipe.measurement import Measured, add_noise, load_source, select


def measure(recipe: CTSimulated, path: Path | Volume | None, seed: int) -> Measured:
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
    fine = select(volume, recipe.slices, (1, 1, 1))
    volume = select(volume, recipe.slices, recipe.pool)
    width, height, _ = volume.spacing_mm
    if not math.isclose(width, height, rel_tol=1e-3):
        raise DataError(
            f"{source.title}: expected square pixels, found {width:.4g} x {height:.4g} mm; "
            "resample the volume or choose another measurement.pool"
        )
    mu = hu_to_mu(volume.data.real.float(), recipe.mu_water)
    angles = torch.arange(recipe.views) * (math.radians(recipe.arc_degrees) / recipe.views)
    A = _operator(recipe, volume, angles.double())
    clean = _oversampled(recipe, fine, A, angles.double()) if recipe.oversampled else A(mu)
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
            f"simulated {recipe.scan.kind}-beam CT of {source.title}: {recipe.views} views over "
            f"{recipe.arc_degrees:g} degrees, noise {100 * recipe.noise:g} % of the {of} line "
            f"integral, projected on {'the finer' if recipe.oversampled else 'the reconstruction'}"
            " grid"
        ),
        notes=source.notes,
        facts={
            "simulated": True, "views": recipe.views, "shape": list(mu.shape),
            "spacing_mm": [round(mm, 5) for mm in volume.spacing_mm],
            "noise_std": recipe.noise * level, "mu_water_per_mm": recipe.mu_water,
        },
    )


def _operator(recipe: CTSimulated, volume: Volume, angles: Tensor, finer: int = 1
              ) -> LinearOperator:
    """The operator of the recipe's scan, with ``finer`` times the columns."""
    n_z, n_y, n_x = volume.data.shape
    width, _, slice_mm = volume.spacing_mm
    scan = recipe.scan
    if isinstance(scan, ConeScan):
        return ConeBeam((n_z, n_y, n_x), angles, (slice_mm, width, width), scan.source_mm,
                        scan.detector_mm, scan.rows, finer * scan.columns, scan.row_mm,
                        scan.col_mm / finer, curved=scan.curved)
    if isinstance(scan, FanScan):
        return FanBeam((n_y, n_x), angles, width, scan.source_mm, scan.detector_mm,
                       finer * scan.columns, scan.col_mm / finer, curved=scan.curved)
    n_cols = finer * ParallelBeam((n_y // finer, n_x // finer), angles, width * finer).n_cols
    return ParallelBeam((n_y, n_x), angles, width, n_cols)


def _oversampled(recipe: CTSimulated, fine: Volume, A: LinearOperator, angles: Tensor) -> Tensor:
    """What ``A`` would measure of the volume on its own finer grid."""
    factor, slices = recipe.pool[1], recipe.pool[0]
    keep = [n // f * f for n, f in zip(fine.data.shape, recipe.pool, strict=True)]
    fine = crop(fine, (slice(keep[0]), slice(keep[1]), slice(keep[2])))
    mu = hu_to_mu(fine.data.real.float(), recipe.mu_water)
    y: Tensor = _operator(recipe, fine, angles, finer=factor)(mu)
    y = y.reshape(*y.shape[:-1], -1, factor).mean(-1)
    return y if isinstance(A, ConeBeam) else y.reshape(-1, slices, *y.shape[1:]).mean(1)
