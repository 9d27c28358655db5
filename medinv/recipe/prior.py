"""The prior that a recipe names, or the product of two, and what it is told of the images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medinv.data import Volume
from medinv.data.metadata import nearest_plane
from medinv.data.prompts import slice_prompt, volume_prompts
from medinv.errors import CheckpointError
from medinv.priors import (
    ContextPrior,
    NetworkPrior,
    Prior,
    ProductPrior,
    SlicePrior,
    conditioned,
    load_prior,
)
from medinv.recipe.context import Context
from medinv.recipe.measurement import Measured
from medinv.recipe.schema import PriorProduct
from medinv.training.prompts import load_encoder

_AXES = {"z": -3, "y": -2, "x": -1}


def build_prior(setting: str | PriorProduct) -> Prior:
    """The prior of a recipe.

    Raises:
        CheckpointError: no such prior, or two of different kinds.
    """
    if isinstance(setting, str):
        return load_prior(setting)
    primary = SlicePrior(load_prior(setting.primary), _AXES[setting.primary_axis])
    auxiliary = SlicePrior(load_prior(setting.auxiliary), _AXES[setting.auxiliary_axis])
    return ProductPrior([primary, auxiliary], setting.weights)


def prior_title(setting: str | PriorProduct | None) -> str:
    """What outputs call a prior: names without folders.

    >>> prior_title(PriorProduct(primary="a", auxiliary="runs/b.safetensors"))
    'a x b'
    """
    if setting is None:
        return "none"
    names = (setting,) if isinstance(setting, str) else (setting.primary, setting.auxiliary)
    return " x ".join(Path(name).name.removesuffix(".safetensors") for name in names)


def told(context: Context, volume: Volume) -> str | list[str]:
    """The prompt of a volume's slices, one for each where their places are known.

    Example:
        >>> from medinv.data import shepp_logan
        >>> context = Context(metadata={"contrast": "T2w"}, span=(0.4, 0.6))
        >>> told(context, shepp_logan((2, 8, 8)))
        ['T2w, axial, Slice 45 of 100', 'T2w, axial, Slice 55 of 100']
    """
    if context.prompt is not None:
        return context.prompt
    normal = volume.affine[:3, 2].tolist()
    known = replace(volume.acquisition, plane=nearest_plane(normal))
    known = replace(known, **context.metadata)  # type: ignore[arg-type]
    if context.span is None:
        return slice_prompt(known)
    prompts = volume_prompts(known, len(volume.data), context.span)
    return prompts if max(normal, key=abs) > 0 else prompts[::-1]


def condition(prior: Prior, context: Context, measured: Measured) -> ContextPrior:
    """The prior, told what the measurement is of.

    Raises:
        CheckpointError: the prior takes no prompts.
        DownloadError: its text encoder could not be fetched.
    """
    encoder = prior.text_encoder if isinstance(prior, NetworkPrior) else None
    if encoder is None:
        raise CheckpointError("context: the recipe's prior takes no prompts; choose one whose "
                              "card has a text_encoder, or leave out `context`")
    volume = measured.to_volume(measured.A.adjoint(measured.y))
    return conditioned(prior, told(context, volume), load_encoder(encoder), context.weight)
