"""The card of a prior: the JSON file beside its weights, checked as a recipe is.

A card may come from anyone. It is plain data of a bounded size, every field has a range, and the
network that it describes may have no more numbers than the file of its weights holds, which is
seen before any memory is taken.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator
from torch import Tensor, nn

from medinv.errors import CheckpointError, MedinvError
from medinv.plain_yaml import check_plain
from medinv.priors.adapters import EDM, AdaptedNetwork, Parametrization
from medinv.priors.base import IntensityScale
from medinv.priors.foreign import ForeignLayout
from medinv.priors.foreign.parts import Count, Size
from medinv.priors.networks import UNet

_MAX_BYTES = 2**20


class UNetLayout(BaseModel):
    """Arguments of `medinv.priors.networks.UNet`.

    Example:
        >>> UNetLayout(channels=1, widths=(16, 32), blocks=(1, 1), embedding=16).kind
        'unet'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["unet"] = "unet"
    channels: int = Field(ge=1, le=2)
    widths: tuple[Annotated[Size, Field(multiple_of=16)], ...] = Field(min_length=1, max_length=8)
    blocks: tuple[Count, ...]
    embedding: Size
    context: int = Field(0, ge=0, le=2**20)
    extra_channels: int = Field(0, ge=0, le=64)
    slab: int = Field(1, ge=1, le=64)
    taps: bool = False

    @model_validator(mode="after")
    def _has_blocks_at_each_level(self) -> UNetLayout:
        if len(self.blocks) != len(self.widths):
            raise ValueError(f"blocks: expected one number for each of {len(self.widths)} widths, "
                             f"got {len(self.blocks)}")
        return self


class PatchTiling(BaseModel):
    """Arguments of `medinv.priors.PatchPrior`, for a network that takes positions.

    Example:
        >>> PatchTiling(patch=56, side=304).patch
        56
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    patch: Size = Field(description="side of the patches that tile an image")
    side: Size = Field(description="pixels that the positions' range -1 to 1 spans")


class PriorCard(BaseModel):
    """The JSON file: all that is known of a prior but its weights.

    Example:
        >>> layout = UNetLayout(channels=1, widths=(16, 32), blocks=(1, 1), embedding=16)
        >>> PriorCard(description="boxes", network=layout, complex_images=False, sigma_data=0.5,
        ...           scale=IntensityScale(value=0.02)).training
        {}
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal[1] = 1
    description: str
    network: Annotated[UNetLayout | ForeignLayout, Field(discriminator="kind")]
    parametrization: Parametrization | None = Field(
        None, description="what a published network predicts; EDM's with sigma_data if None"
    )
    complex_images: bool
    sigma_data: float = Field(gt=0, allow_inf_nan=False)
    scale: IntensityScale
    text_encoder: str | None = Field(
        None, description="what makes the network's context of prompts (minilm, clip)"
    )
    patch: PatchTiling | None = Field(
        None, description="how images are tiled, for a network of patches"
    )
    pixel_mm: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None, description="smallest and largest side of a training pixel; unknown, or of no "
        "importance, if None"
    )
    slice_mm: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None, description="smallest and largest distance of neighbouring training slices, for a "
        "network that sees them"
    )
    error_by_sigma: dict[PositiveFloat, PositiveFloat] = Field(
        default_factory=dict,
        description="mean squared error of D by noise level, on held-out images",
    )
    training: dict[str, Any] = Field(
        default_factory=dict, description="data sets with licences, recipe hash, updates, seconds"
    )


def parse_card(path: Path) -> PriorCard:
    """The card in a file.

    Raises:
        CheckpointError: not JSON of at most 1 MiB, or not the fields of a card.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CheckpointError(f"{path.name}: expected the description of a prior, at most "
                                  f"1 MiB, got {path.stat().st_size} bytes")
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        if isinstance(error, MedinvError):
            raise
        raise CheckpointError(f"{path.name}: not the description of a prior: expected JSON in "
                              f"UTF-8 ({str(error)[:200]})") from None
    check_plain(fields, path.name, CheckpointError)
    try:
        return PriorCard.model_validate(fields)
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}, got {str(item['input'])[:80]!r}"
            for item in error.errors()[:3])
        raise CheckpointError(f"{path.name}: not the description of a prior: {details}"
                              ) from None


def build_network(card: PriorCard, empty_context: Tensor | None = None, *,
                  stored_bytes: int | None = None) -> nn.Module:
    """The network that a card describes, with random weights.

    Args:
        card: the description.
        empty_context: tokens of the empty prompt, for a published network that takes prompts.
        stored_bytes: size of the file that its weights come from, at least a byte for each.

    Raises:
        CheckpointError: there is no such network, or the file is too small for it.

    Example:
        >>> layout = UNetLayout(channels=1, widths=(16, 32), blocks=(1, 1), embedding=16)
        >>> card = PriorCard(description="boxes", network=layout, complex_images=False,
        ...                  sigma_data=0.5, scale=IntensityScale(value=0.02))
        >>> type(build_network(card)).__name__
        'UNet'
    """
    n = 0 if stored_bytes is None else _numbers(card)
    if stored_bytes is not None and n > stored_bytes:
        raise CheckpointError(f"the description is of a network of {n} numbers, but the file of "
                              f"its weights has {stored_bytes} bytes; take the .json that came "
                              "with it")
    return _build(card, empty_context)


def _numbers(card: PriorCard) -> int:
    """How many weights there are, without memory for them; of convolutions alone for a `UNet`."""
    layout = card.network
    if isinstance(layout, UNetLayout):
        levels = zip(layout.blocks, layout.widths, strict=True)
        return sum(36 * n * width**2 for n, width in levels)
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in _build(card, None).parameters())


def _build(card: PriorCard, empty_context: Tensor | None) -> nn.Module:
    layout = card.network
    try:
        if isinstance(layout, UNetLayout):
            return UNet(**layout.model_dump(exclude={"kind"}))
        network = layout.build()
    except MedinvError:
        raise
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError,
            ValueError) as error:
        raise CheckpointError(f"the description's network ({layout.kind}) cannot be built: "
                              f"{str(error)[:200] or type(error).__name__}") from error
    return AdaptedNetwork(
        network, card.parametrization or EDM(sigma_data=card.sigma_data), card.sigma_data,
        channels=2 if card.complex_images else 1, stride=layout.stride,
        context_size=layout.context_size, empty_context=empty_context)
