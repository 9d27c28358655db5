"""Training stacks: neighbouring slices of a volume, varied alike, with their spacing in mm.

What is learned of neighbours depends on how far apart they are, so the network is told. Every
variation that changes the spacing (zoom, averaging to larger pixels or thicker slices) changes
what it is told. A stack is cut out with a margin, so that a turned one holds what was there; only
where the volume itself ends, at the border of a box that was cut out of a scan, is it mirrored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from medinv.errors import DataError
from medinv.priors.depth import spacing_context
from medinv.training.augment import (
    affine,
    random_bias,
    random_contrast,
    random_flip,
    random_mirror,
    random_phase,
    uniform,
)
from medinv.training.config import Images, Stack
from medinv.training.images import Examples, integer
from medinv.training.sources import Part, PlacedSlices, Volume, source_volumes


@dataclass(frozen=True)
class _Coarse:
    """Averaging factors of an update, the same for its stacks."""

    pixels: int = 1
    slices: int = 1


class StackSampler:
    """Random stacks (b, z, y, x) from the sources of a recipe, and the spacing of each.

    ``examples(n, rng)`` depends on the generator's state alone. They come from one source: ``n``
    stacks, or as many slices one by one where its volumes are thinner than a stack.

    Args:
        images: sources and variations.
        stack: the stacks.
        validation: of the validation parts, varied in phase alone.
    """

    def __init__(self, images: Images, stack: Stack, *, validation: bool = False) -> None:
        self.images, self.stack, self.validation = images, stack, validation
        part: Part = "validation" if validation else "train"
        found = [(source_volumes(source, images, part), source.weight)
                 for source in images.sources]
        self.parts: list[list[Volume]] = [volumes for volumes, _ in found if volumes]
        self.thinnest = [min(len(placed.stack) for volume in volumes for placed in volume)
                         for volumes in self.parts]
        self.weights = torch.tensor([weight for volumes, weight in found if volumes])
        if not self.parts:
            raise DataError(f"none of the sources has a {part} part; add one to a manifest")

    def examples(self, n: int, rng: Generator) -> Examples:
        """``n`` stacks and their ``context``: the spacing, zeros where it is not told."""
        pick = int(torch.multinomial(self.weights, 1, generator=rng))
        volumes, depth = self.parts[pick], self.stack.slices
        coarse = self._coarse(volumes[0][0], rng)
        if self.thinnest[pick] < depth * coarse.slices:
            coarse = _Coarse(coarse.pixels)
        if self.thinnest[pick] < depth:
            n, depth = n * depth, 1
        drawn = [self._stack(volumes, depth, coarse, rng) for _ in range(n)]
        stacks = torch.stack([x for x, _ in drawn])
        context = torch.stack([spacing_context(mm) for _, mm in drawn])
        if not self.validation:
            context = context * (torch.rand(len(context), 1, generator=rng) >= self.stack.drop)
        return Examples(self._vary(stacks, rng), {"context": context})

    def _coarse(self, placed: PlacedSlices, rng: Generator) -> _Coarse:
        """Whether pixels and slices are averaged, as far as the coarsest spacing allows."""
        chosen = float(torch.rand((), generator=rng)) < self.stack.coarsen
        if self.validation or not chosen or placed.spacing_mm is None:
            return _Coarse()
        most = [max(1, min(limit, int(mm / own))) for limit, mm, own in zip(
            (2, 3), self.stack.coarsest_mm, placed.spacing_mm, strict=True)]
        return _Coarse(*(1 + integer(k, rng) for k in most))

    def _stack(self, volumes: list[Volume], depth: int, coarse: _Coarse, rng: Generator
               ) -> tuple[Tensor, tuple[float, float] | None]:
        """One stack (z, crop, crop); of up to four places, the first that is not mostly air."""
        for _ in range(4):
            volume = volumes[integer(len(volumes), rng)]
            placed = volume[integer(len(volume), rng)]
            stack, mm = self._cut(placed, depth, coarse, rng)
            if (stack > 0.1).float().mean() > 0.15:
                break
        return stack, mm

    def _cut(self, placed: PlacedSlices, depth: int, coarse: _Coarse, rng: Generator
             ) -> tuple[Tensor, tuple[float, float] | None]:
        """A stack of averaged pixels and slices, turned and zoomed, and its spacing."""
        images, size = self.images, self.images.crop
        plain = self.validation or float(torch.rand((), generator=rng)) < 0.5
        zoom = 1.0 if plain else self.stack.zoom ** float(uniform(-1, 1, (), rng))
        turn = 0.0 if plain else float(
            uniform(-math.pi, math.pi, (), rng) if images.turns else uniform(-0.1, 0.1, (), rng))
        reach = size if plain else math.ceil(
            size * zoom * (abs(math.cos(turn)) + abs(math.sin(turn)))) + 2
        first = integer(len(placed.stack) - depth * coarse.slices + 1, rng)
        slices = torch.stack([placed.stack[first + i] for i in range(depth * coarse.slices)])
        sides = [min(reach * coarse.pixels, side) for side in slices.shape[1:]]
        top, left = (integer(whole - side + 1, rng)
                     for whole, side in zip(slices.shape[1:], sides, strict=True))
        cut = slices[:, top : top + sides[0], left : left + sides[1]]
        pooled = F.avg_pool3d(cut[None], (coarse.slices, coarse.pixels, coarse.pixels))
        if pooled.shape[-2:] != (size, size) or not plain:
            pooled = affine(pooled, torch.tensor([turn]), torch.tensor([zoom]), (size, size))
        mm = placed.spacing_mm
        return pooled[0], None if mm is None else (
            mm[0] * coarse.pixels * zoom, mm[1] * coarse.slices)

    def _vary(self, x: Tensor, rng: Generator) -> Tensor:
        """Random symmetry, contrast, bias field, intensity and phase; for validation, phase."""
        mr = self.images.kind == "complex-mr"
        x = x.clamp(min=0)
        if not self.validation:
            x = random_flip(x, rng) if self.images.turns else random_mirror(x, rng)
            turned = torch.rand(len(x), 1, 1, 1, generator=rng) < 0.5
            x = torch.where(turned, x.flip(1), x)
            if mr:
                x = random_bias(random_contrast(x, rng), self.stack.bias, rng)
                x = x * 1.4 ** uniform(-1, 1, (len(x), 1, 1, 1), rng)
        if not mr:
            return x
        return random_phase(x, rng) if self.images.phase else x.to(torch.complex64)
