"""How large the voxels of training images are: what their prior knows, and its card tells."""

from __future__ import annotations

from medinv.training.config import Images
from medinv.training.sources import source_volumes

_DIGITS = 4
Range = tuple[float, float]


def pixel_range(images: Images) -> Range | None:
    """Smallest and largest side of a training pixel, mm, before images are zoomed at random.

    Returns:
        None where no source knows its spacing: phantoms, arrays without a header.
    """
    sides = [mm for voxel in _voxels(images, alone=True) for mm in voxel[:2]]
    return _range(sides, 0.0 if images.stack is None else images.stack.coarsest_mm[0])


def slice_range(images: Images) -> Range | None:
    """Smallest and largest distance of neighbouring slices, mm, averaged ones among them.

    Returns:
        None where images are no stacks, or no source knows its spacing.
    """
    if images.stack is None:
        return None
    return _range([voxel[2] for voxel in _voxels(images, alone=False)],
                  images.stack.coarsest_mm[1])


def _voxels(images: Images, *, alone: bool) -> list[tuple[float, float, float]]:
    """Of the volumes, those of a single slice among them or not."""
    return [placed.voxel_mm for source in images.sources
            for volume in source_volumes(source, images, "train") for placed in volume
            if placed.voxel_mm is not None and (alone or len(placed.stack) > 1)]


def _range(sides: list[float], averaged: float) -> Range | None:
    """From the smallest to the largest side, or to what is averaged to that size."""
    if not sides:
        return None
    return round(min(sides), _DIGITS), round(max(*sides, averaged), _DIGITS)
