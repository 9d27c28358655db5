"""Training images: random crops of the slices of real volumes, in prior units."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from medinv.data.manifests import load_manifest
from medinv.errors import DataError
from medinv.training.augment import (
    random_affine,
    random_contrast,
    random_flip,
    random_phase,
    uniform,
)
from medinv.training.config import Images, Source


@dataclass(frozen=True)
class _Part:
    """One volume in prior units, its planes and its share of the images."""

    volume: Tensor
    planes: tuple[int, ...]
    weight: float


def read_array(path: Path, key: str | None) -> Tensor:
    """The array of a NIfTI or .npz file, in the file's axis order, float32."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            if key not in archive:
                raise DataError(f"{path.name}: no array {key!r}; it holds {sorted(archive)}")
            return torch.from_numpy(archive[key].astype(np.float32))
    import nibabel

    image: Any = nibabel.load(path)  # typed by nibabel as an image without data
    return torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32))


def _units(volume: Tensor, images: Images) -> Tensor:
    """Prior units: CT in attenuations of water, MR in a high percentile of the volume."""
    if images.kind == "ct":
        return (1 + volume / 1000).clamp_(min=0, max=4)
    return volume / float(np.quantile(volume.numpy(), images.percentile / 100))


def _load(source: Source, images: Images, split: str) -> _Part | None:
    """A source's training or validation part, pooled; None where it has no such part."""
    manifest = load_manifest(source.manifest)
    if split not in (manifest.splits or ("train",)):
        return None
    file = manifest.files[source.file]
    volume = _units(read_array(manifest.fetch()[source.file], file.key), images)
    planes = source.planes
    if split in manifest.splits:
        part = manifest.splits[split]
        axis = "ijk".index(part.axis)
        volume = volume.narrow(axis, part.start, part.stop - part.start)
        if split == "validation":  # too thin for whole images in the other planes
            planes = (axis,)
    if source.pool != (1, 1, 1):
        volume = F.avg_pool3d(volume[None, None], source.pool)[0, 0]
    return _Part(volume.contiguous(), planes, source.weight)


class ImageSampler:
    """Random training images from the sources of a recipe.

    ``batch(n, rng)`` depends on the generator's state alone: a run can stop and resume anywhere.
    """

    def __init__(self, images: Images, *, validation: bool = False) -> None:
        self.images, self.validation = images, validation
        split = "validation" if validation else "train"
        loaded = (_load(source, images, split) for source in images.sources)
        self.parts = [part for part in loaded if part is not None]
        if not self.parts:
            names = ", ".join(source.manifest for source in images.sources)
            raise DataError(f"none of {names} has a {split} split; add one to a manifest")

    def batch(self, n: int, rng: Generator) -> Tensor:
        """``n`` images (n, crop, crop): complex64 for MR, float32 for CT."""
        weights = torch.tensor([part.weight for part in self.parts])
        picks = torch.multinomial(weights, n, replacement=True, generator=rng).tolist()
        x = torch.stack([self._crop(self.parts[i], rng) for i in picks])
        if self.validation:
            return random_phase(x, rng) if self.images.kind == "complex-mr" else x
        x = random_affine(random_flip(x, rng), rng)
        if self.images.kind == "ct":
            return x.clamp(min=0)
        x = random_contrast(x.clamp(min=0), rng)
        return random_phase(x * 1.4 ** uniform(-1, 1, (n, 1, 1), rng), rng)

    def _crop(self, part: _Part, rng: Generator) -> Tensor:
        """One square image; of up to four places, the first that is not mostly air."""
        size = self.images.crop
        for _ in range(4):
            axis = part.planes[_integer(len(part.planes), rng)]
            image = part.volume.select(axis, _integer(part.volume.shape[axis], rng))
            short = [max(0, size - side) for side in image.shape]
            if any(short):
                image = F.pad(image, (short[1] // 2, short[1] - short[1] // 2,
                                      short[0] // 2, short[0] - short[0] // 2))
            top, left = (_integer(side - size + 1, rng) for side in image.shape)
            image = image[top : top + size, left : left + size]
            if (image > 0.1).float().mean() > 0.15:
                break
        return image


def _integer(stop: int, rng: Generator) -> int:
    return int(torch.randint(stop, (), generator=rng))
