"""Training patches with their positions, cut from whole slices.

Hu et al., "Learning image priors through patch-based diffusion models for solving inverse
problems" (arXiv:2406.02462): a network that sees where a patch lies learns every part of the
anatomy from few slices. Patches of several sides are learned, one side at a time. Slices are
varied as a whole before they are cut, so that a position stays where it is in the image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from medinv.priors.patches import positions
from medinv.training.config import Images, Patch
from medinv.training.images import Examples, ImageSampler, integer


class PatchSampler:
    """Random patches of the slices of a recipe, for `PatchPrior`.

    Validation patches have the side that tiles images, and lie inside the slices.
    """

    def __init__(self, images: Images, patch: Patch, *, validation: bool = False) -> None:
        self.slices, self.patch = ImageSampler(images, validation=validation), patch
        self.sides = {patch.tile: 1.0} if validation else patch.sides
        self.border = 0 if validation else patch.border

    def examples(self, n: int, rng: Generator) -> Examples:
        """Patches of one side from ``n`` slices, with ``where`` they lie, (b, 2, side, side)."""
        shares = torch.tensor(list(self.sides.values()))
        side = list(self.sides)[int(torch.multinomial(shares, 1, generator=rng))]
        each = round(self.patch.each * (self.patch.tile / side) ** 2)
        cut = [self._cut(image, side, rng)
               for image in (self.slices.whole(rng) for _ in range(n)) for _ in range(each)]
        images, where = (torch.stack(parts) for parts in zip(*cut, strict=True))
        return Examples(images, {"where": where})

    def _cut(self, image: Tensor, side: int, rng: Generator) -> tuple[Tensor, Tensor]:
        """A patch (side, side) of a slice with its border, and its positions."""
        margins = [max(self.border, (side - n + 1) // 2) for n in image.shape]
        top, left = (integer(n + 2 * margin - side + 1, rng)
                     for n, margin in zip(image.shape, margins, strict=True))
        padded = F.pad(image, (margins[1], margins[1], margins[0], margins[0]))
        rows, columns = (torch.arange(side) + start - margin
                         for start, margin in zip((top, left), margins, strict=True))
        where = positions(rows, columns, (image.shape[0], image.shape[1]), self.patch.side)
        return padded[top : top + side, left : left + side], where
