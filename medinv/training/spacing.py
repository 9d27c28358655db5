"""How large the pixels of training images are: what their prior knows, and its card tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medinv.data.sets.manifests import load_manifest
from medinv.data.sets.slices import PLANES, SliceStack
from medinv.training.config import Images, Source
from medinv.training.sources import TrainingSlices, source_volumes

_DIGITS = 4


def pixel_range(images: Images) -> tuple[float, float] | None:
    """Smallest and largest side of a training pixel, mm, before images are zoomed at random.

    Returns:
        None where no source knows its spacing: phantoms, arrays without a header.
    """
    sides = [mm for source in images.sources for mm in _sides(source, images)]
    return (round(min(sides), _DIGITS), round(max(sides), _DIGITS)) if sides else None


def _sides(source: Source, images: Images) -> list[float]:
    manifest = None if source.manifest is None else load_manifest(source.manifest)
    stated = None if manifest is None else manifest.geometry.spacing_mm
    return [mm for volume in source_volumes(source, images, "train") for placed in volume
            for mm in _pixel(placed.stack, stated)]


def _pixel(stack: SliceStack, stated: tuple[float | None, ...] | None) -> list[float]:
    """The two sides of a stack's pixels; none where they are unknown."""
    prepare: Any = stack.prepare
    if not isinstance(prepare, TrainingSlices):
        return []
    named = not isinstance(prepare.plane, int)
    spacing = _header(stack.source, ras=named)
    if spacing is None and stated is not None and not named and None not in stated:
        spacing = tuple(mm for mm in stated if mm is not None)
    if spacing is None or len(spacing) != 3:
        return []
    axis = PLANES.index(prepare.plane) if named else prepare.plane
    return [mm * factor for i, (mm, factor) in enumerate(zip(spacing, prepare.pool, strict=True))
            if i != axis]


def _header(path: Path, *, ras: bool) -> tuple[float, ...] | None:
    """Spacing of a NIfTI file along its array's axes, or along z, y, x of the patient."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return None
    import nibabel

    image: Any = nibabel.load(path)  # typed by nibabel as an image without a header
    sides = np.linalg.norm(image.affine[:3, :3], axis=0)
    if not ras:
        return tuple(float(mm) for mm in sides)
    order = nibabel.io_orientation(image.affine)[:, 0]  # of each array axis: x, y or z
    along = {int(axis): float(mm) for axis, mm in zip(order, sides, strict=True)}
    return along[2], along[1], along[0]
