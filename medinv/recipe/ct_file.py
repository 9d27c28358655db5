"""Measured CT: projections from a file, their operator and noise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from medinv.data import Volume, load_manifest, mu_to_hu
from medinv.data.ct.projections import read_sinogram
from medinv.data.ct.sinogram import Sinogram, fitted
from medinv.errors import DataError, InputError, ShapeError
from medinv.operators.ct import ParallelBeam
from medinv.operators.rotation_centre import find_rotation_centre
from medinv.recipe.blocks import CTFile, ProjectionSource
from medinv.recipe.measurement import Measured

_ASSUMED = (
    "the projections do not say how the object or patient lay: axial slices, centred on the axis, "
    "are assumed"
)
_BEAMS = {"ParallelBeam": "parallel-beam", "FanBeam": "fan-beam", "ConeBeam": "cone-beam"}


def measure(recipe: CTFile, path: Path | Sinogram | None) -> Measured:
    """Read projections; the geometry comes from the file.

    Args:
        recipe: the measurement block.
        path: a file, a folder or a sinogram to use instead of the recipe's projections.

    Raises:
        DataError: no such file, rows that the detector lacks, a grid that the scan cannot have,
            or a rotation centre that cannot be found.
    """
    if isinstance(path, Sinogram):
        sinogram = path if recipe.rows is None else path.rows(*recipe.rows)
    else:
        sinogram = read_sinogram(_locate(recipe.projections, path), rows=recipe.rows,
                                 pixel_mm=recipe.pixel_mm, angle_unit=recipe.angle_unit)
    sinogram, centre = _centred(sinogram, recipe)
    sinogram = _on_grid(sinogram.every(recipe.every).binned(recipe.bin_rows, recipe.bin_columns),
                        recipe)
    y, A = sinogram.measurement(), sinogram.operator()
    noise_std, geometry = sinogram.noise(), sinogram.geometry

    def to_volume(x: Tensor) -> Volume:
        volume = sinogram.volume(x)
        if not recipe.mu_water:
            return volume
        return replace(volume, data=mu_to_hu(x, recipe.mu_water),
                       metadata={**volume.metadata, "unit": "HU"})

    notes = sinogram.metadata.get("notes", ())
    told = notes if isinstance(notes, tuple) else ()
    return Measured(
        y=y, A=A, noise_std=noise_std, unit="HU" if recipe.mu_water else "1/mm", reference=None,
        to_volume=to_volume,
        origin=(
            f"measured {_BEAMS[type(A).__name__]} projections: {geometry.n_views} views, "
            f"{geometry.n_rows} row(s), {geometry.n_cols} columns; noise {noise_std:.3g}, "
            + ("from the file's photon counts" if sinogram.noise_std is not None
               else "estimated from differences of neighbouring samples")
        ),
        notes=told if sinogram.orientation else (*told, _ASSUMED),
        facts={
            "simulated": False, "views": geometry.n_views, "shape": list(geometry.shape),
            "spacing_mm": [round(mm, 5) for mm in reversed(geometry.voxel_mm)],
            "noise_std": noise_std, "geometry": str(geometry),
            **({} if centre is None else {"rotation_centre": centre}),
            **({} if recipe.mu_water is None else {"mu_water_per_mm": recipe.mu_water}),
        },
    )


def _centred(sinogram: Sinogram, recipe: CTFile) -> tuple[Sinogram, float | None]:
    """The projections with the axis where the recipe says, and the column that sees it."""
    wanted = recipe.rotation_centre
    if wanted is None:
        return sinogram, None
    A, middle = sinogram.operator(), (sinogram.geometry.n_cols - 1) / 2
    if not isinstance(A, ParallelBeam):
        raise DataError("measurement.rotation_centre: expected parallel-beam slices, got "
                        f"{type(A).__name__}; state offsets in the file's own geometry")
    if wanted == "find":
        try:
            wanted = middle - find_rotation_centre(sinogram.measurement(), A.angles)
        except InputError as error:
            raise DataError(f"measurement.rotation_centre: {error}") from error
    seen = middle - A.col_offset_mm / A.col_mm
    moved = sinogram.shifted(seen - wanted)
    grid = fitted(moved.geometry)  # wider where the axis lies at the detector's side
    return moved.on_grid(grid.shape, moved.geometry.voxel_mm), wanted


def _on_grid(sinogram: Sinogram, recipe: CTFile) -> Sinogram:
    """The projections for the recipe's grid; what it leaves open is the file's."""
    if recipe.shape is None and recipe.voxel_mm is None:
        return sinogram
    geometry = sinogram.geometry
    voxel_mm = recipe.voxel_mm or geometry.voxel_mm
    extent = zip(geometry.extent_mm, voxel_mm, strict=True)
    z, y, x = recipe.shape or tuple(max(1, math.ceil(mm / step - 1e-6)) for mm, step in extent)
    try:
        return sinogram.on_grid((z, y, x), voxel_mm)
    except ShapeError as error:
        raise DataError(f"measurement.shape and voxel_mm: {error}") from error


def _locate(source: ProjectionSource, path: Path | None) -> Path:
    if path is not None:
        return path
    if source.path is not None:
        return Path(source.path)
    manifest = load_manifest(source.manifest or "")
    if source.file not in manifest.files:
        raise DataError(
            f"{manifest.name}: no file {source.file!r}; it has {', '.join(sorted(manifest.files))}"
        )
    return manifest.fetch()[source.file]
