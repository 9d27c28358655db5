"""Training images and what the network is told of them: prompts with random gaps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from medinv.data import Metadata, load_manifest
from medinv.data.prompts import slice_prompt
from medinv.errors import CheckpointError
from medinv.priors.text import CLIPText, MiniLM, TextEncoder
from medinv.training.config import Prompts
from medinv.training.contrasts import Contrast, simulated_contrast
from medinv.training.images import Examples, ImageSampler
from medinv.training.sources import Place


def load_encoder(name: str) -> TextEncoder:
    """The text encoder of that name; MiniLM is downloaded once.

    Raises:
        DownloadError: MiniLM could not be fetched.
        DependencyError: CLIP needs a package that is absent.
        CheckpointError: no such encoder, or CLIP's weights are not on this machine.

    Example:
        >>> load_encoder("minilm").size  # doctest: +SKIP
        384
    """
    if name == "clip":
        return CLIPText()
    if name == "minilm":
        files = load_manifest("minilm-l6-v2").fetch()
        return MiniLM(files["weights"], files["vocabulary"])
    raise CheckpointError(f"no text encoder is called {name!r}; expected minilm or clip")


class PromptSampler:
    """Random training images with prompts; validation images have whole prompts.

    Args:
        sampler: where the images come from.
        prompts: what is told.
        encoder: from prompts to vectors.
    """

    def __init__(self, sampler: ImageSampler, prompts: Prompts, encoder: TextEncoder) -> None:
        self.sampler, self.prompts, self.encoder = sampler, prompts, encoder

    def examples(self, n: int, rng: Generator) -> Examples:
        """``n`` images and the ``context`` of each, which depend on the generator alone."""
        images, prompts = self.described(n, rng)
        return Examples(images, {"context": self.encoder(prompts)})

    def described(self, n: int, rng: Generator) -> tuple[Tensor, list[str]]:
        """``n`` images (n, crop, crop) and the prompt of each."""
        x, places = self.sampler.crops(n, rng)
        picks = torch.randint(len(self.prompts.contrasts), (n,), generator=rng).tolist()
        contrasts = [self.prompts.contrasts[i] for i in picks]
        x = torch.stack([simulated_contrast(image, contrast)
                         for image, contrast in zip(x.clamp(min=0), contrasts, strict=True)])
        prompts = (_whole if self.sampler.validation else _gappy)(
            list(zip(places, contrasts, strict=True)), self.prompts, rng)
        return self.sampler.vary(x, rng), prompts


_Known = Sequence[tuple[Place, Contrast]]


def _whole(known: _Known, prompts: Prompts, _: Generator) -> list[str]:
    return [_prompt(prompts.anatomy, contrast, place) for place, contrast in known]


def _gappy(known: _Known, prompts: Prompts, rng: Generator) -> list[str]:
    """Prompts without fields, or all of them, that chance leaves out."""
    empty = torch.rand(len(known), generator=rng) < prompts.drop
    kept = torch.rand(len(known), 4, generator=rng) >= prompts.drop_field
    return ["" if none else _prompt(prompts.anatomy, contrast, place, keep)
            for (place, contrast), none, keep in zip(known, empty.tolist(), kept.tolist(),
                                                     strict=True)]


def _prompt(anatomy: str, contrast: Contrast, place: Place,
            keep: Sequence[bool] = (True,) * 4) -> str:
    metadata = Metadata(anatomy=anatomy if keep[0] else None,
                        contrast=contrast if keep[1] else None,
                        plane=place.plane if keep[2] else None)
    return slice_prompt(metadata, place.position if keep[3] else None)
