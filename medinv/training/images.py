"""Training images: random crops of the slices of real volumes, in prior units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from medinv.errors import DataError
from medinv.training.augment import (
    random_affine,
    random_contrast,
    random_flip,
    random_mirror,
    random_phase,
    uniform,
)
from medinv.training.config import Images
from medinv.training.ellipses import random_ellipses
from medinv.training.sources import Place, Volume, source_volumes


def generator(seed: int, step: int) -> Generator:
    """The random numbers of one update."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


@dataclass(frozen=True)
class Examples:
    """Training images and what is known of each of them.

    Attributes:
        images: (b, y, x) in prior units, real or complex.
        known: what ``denoise`` takes beside images and levels, by name, each (b, ...).
    """

    images: Tensor
    known: Mapping[str, Tensor] = field(default_factory=dict)

    def map(self, function: Callable[[Tensor], Tensor]) -> Examples:
        """``function`` of every tensor."""
        return Examples(function(self.images),
                        {name: function(value) for name, value in self.known.items()})

    def split(self, n: int) -> Iterator[Examples]:
        """At most ``n`` of them at a time."""
        for start in range(0, len(self.images), n):
            yield self.map(lambda t, start=start: t[start : start + n])  # type: ignore[misc]


def joined(parts: Sequence[Examples]) -> Examples:
    """Examples of one shape, in a row."""
    known = {name: torch.cat([part.known[name] for part in parts]) for name in parts[0].known}
    return Examples(torch.cat([part.images for part in parts]), known)


@runtime_checkable
class Sampler(Protocol):
    """Where training examples come from."""

    def examples(self, n: int, rng: Generator) -> Examples:
        """Examples of ``n`` images, which depend on the generator's state alone."""


@dataclass(frozen=True)
class _Part:
    """The volumes of one source (none for phantoms) and its share of the images."""

    volumes: list[Volume]
    weight: float
    phantom: bool = False


class ImageSampler:
    """Random training images from the sources of a recipe.

    ``batch(n, rng)`` depends on the generator's state alone: a run can stop and resume anywhere.
    Volumes stay on the disk, and a sampler can be pickled, so worker processes may share the work.
    """

    def __init__(self, images: Images, *, validation: bool = False) -> None:
        self.images, self.validation = images, validation
        parts = (_Part(source_volumes(source, images, "validation" if validation else "train"),
                       source.weight, source.phantom is not None) for source in images.sources)
        self.parts = [part for part in parts if part.volumes or part.phantom]
        if not self.parts:
            names = ", ".join(source.manifest or "a folder" for source in images.sources)
            split = "validation" if validation else "train"
            raise DataError(f"none of {names} has a {split} part; add one to the "
                            "manifest, or choose another validation_share")

    def batch(self, n: int, rng: Generator) -> Tensor:
        """``n`` images (n, crop, crop): complex64 for MR, float32 for CT."""
        return self.vary(self.crops(n, rng)[0], rng)

    def examples(self, n: int, rng: Generator) -> Examples:
        """`batch`, of which nothing else is known."""
        return Examples(self.batch(n, rng))

    def crops(self, n: int, rng: Generator) -> tuple[Tensor, list[Place]]:
        """``n`` images (n, crop, crop) as they are in the volumes, and where they are from."""
        drawn = [self._crop(part, rng) for part in self._pick(n, rng)]
        return torch.stack([image for image, _ in drawn]), [place for _, place in drawn]

    def whole(self, rng: Generator) -> Tensor:
        """One whole slice (y, x), varied as the crops are."""
        (part,) = self._pick(1, rng)
        image = (random_ellipses(1, self.images.crop, rng)[0] if part.phantom
                 else _slice(part, rng)[0])
        return self.vary(image[None], rng)[0]

    def _pick(self, n: int, rng: Generator) -> list[_Part]:
        weights = torch.tensor([part.weight for part in self.parts])
        picks = torch.multinomial(weights, n, replacement=True, generator=rng).tolist()
        return [self.parts[i] for i in picks]

    def vary(self, x: Tensor, rng: Generator) -> Tensor:
        """Random geometry, contrast, intensity and phase; of validation images only the phase.

        Images that prompts describe keep their contrast.
        """
        n = len(x)
        if self.validation:
            return self._phased(x, rng) if self.images.kind == "complex-mr" else x
        if self.images.turns:
            x = random_affine(random_flip(x, rng), rng)
        else:
            x = random_affine(random_mirror(x, rng), rng, zoom=1.1, angle=0.1)
        if self.images.kind == "ct":
            return x.clamp(min=0)
        x = x.clamp(min=0) if self.images.prompts else random_contrast(x.clamp(min=0), rng)
        return self._phased(x * 1.4 ** uniform(-1, 1, (n, 1, 1), rng), rng)

    def _phased(self, x: Tensor, rng: Generator) -> Tensor:
        return random_phase(x, rng) if self.images.phase else x.to(torch.complex64)

    def _crop(self, part: _Part, rng: Generator) -> tuple[Tensor, Place]:
        """One square image; of up to four places, the first that is not mostly air."""
        size = self.images.crop
        if part.phantom:
            return random_ellipses(1, size, rng)[0], Place()
        for _ in range(4):
            image, place = _slice(part, rng)
            short = [max(0, size - side) for side in image.shape]
            if any(short):
                image = F.pad(image, (short[1] // 2, short[1] - short[1] // 2,
                                      short[0] // 2, short[0] - short[0] // 2))
            top, left = (integer(side - size + 1, rng) for side in image.shape)
            image = image[top : top + size, left : left + size]
            if (image > 0.1).float().mean() > 0.15:
                break
        return image, place


def _slice(part: _Part, rng: Generator) -> tuple[Tensor, Place]:
    """Any slice of any volume (y, x), and where it is from."""
    volume = part.volumes[0 if len(part.volumes) == 1 else integer(len(part.volumes), rng)]
    placed = volume[integer(len(volume), rng)]
    index = integer(len(placed.stack), rng)
    return placed.stack[index], placed.place(index)


def integer(stop: int, rng: Generator) -> int:
    """A random integer in 0 .. ``stop - 1``."""
    return int(torch.randint(stop, (), generator=rng))


class UpdateBatches(Dataset[tuple[Examples, Tensor]]):
    """The images of update ``i``, and the state of its generator after they were drawn.

    What follows in the update (noise levels, noise) goes on from that state, so a run is the same
    with any number of workers, and resumed at any update.
    """

    def __init__(self, sampler: Sampler, batch: int, seed: int) -> None:
        self.sampler, self.batch, self.seed = sampler, batch, seed

    def __getitem__(self, step: int) -> tuple[Examples, Tensor]:
        rng = generator(self.seed, step)
        return self.sampler.examples(self.batch, rng), rng.get_state()


def batches(sampler: Sampler, batch: int, seed: int, steps: range, *, workers: int = 0
            ) -> Iterator[tuple[Examples, Generator]]:
    """Examples of each update of ``steps`` with the generator that the update goes on with.

    Args:
        sampler: where the examples come from.
        batch: images in each.
        seed: of the run.
        steps: the updates still to make.
        workers: processes that prepare images ahead; 0 prepares them here.

    Yields:
        Examples, and the generator in the state that drawing them left.
    """
    loader = DataLoader(UpdateBatches(sampler, batch, seed), batch_size=None, sampler=steps,
                        num_workers=workers)
    for examples, state in loader:
        yield examples, torch.Generator().set_state(state)
