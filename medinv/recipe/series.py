"""A recipe's result as a DICOM series, beside the series that it was computed from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medinv.data import Volume, write_dicom
from medinv.recipe.blocks import CTSimulated, MRISimulated, ThickSlices
from medinv.recipe.load import recipe_hash
from medinv.recipe.measurement import Measured
from medinv.recipe.schema import ReconstructRecipe


def write_series(
    volume: Volume,
    folder: Path,
    title: str,
    recipe: ReconstructRecipe,
    measured: Measured,
    source: Path | None,
) -> Path:
    """Write a volume as a derived series, with its provenance in the headers and beside it.

    Args:
        volume: HU for CT.
        folder: new or empty.
        title: of the method.
        recipe: what was run.
        measured: what it was run on.
        source: DICOM that shares patient, study and frame of reference; None for none.

    Raises:
        DataError: see `write_dicom`.
        OutputError: the folder is not empty, or cannot be written.
    """
    if volume.acquisition.modality is None and measured.unit == "HU":
        volume = replace(volume, acquisition=replace(volume.acquisition, modality="CT"))
    volume = replace(volume, metadata={**volume.metadata, "unit": measured.unit})
    provenance = {"recipe": recipe.name, "recipe_sha256": recipe_hash(recipe), "seed": recipe.seed}
    if "input_sha256" in measured.facts:
        provenance["input_sha256"] = measured.facts["input_sha256"]
    write_dicom(volume, folder, source, description=title, provenance=provenance,
                derivation=f"{title}, recipe {recipe.name}; {measured.origin}.")
    return folder


def source_series(recipe: ReconstructRecipe, path: Path | None) -> Path | None:
    """``path``, where it is DICOM that the recipe simulates its measurement from."""
    if not isinstance(recipe.measurement, CTSimulated | MRISimulated | ThickSlices):
        return None
    return None if path is None or path.name.lower().endswith((".nii", ".nii.gz")) else path
