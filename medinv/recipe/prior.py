"""The prior that a recipe names, or the product of two."""

from __future__ import annotations

from pathlib import Path

from medinv.priors import Prior, ProductPrior, SlicePrior, load_prior
from medinv.recipe.schema import PriorProduct

_AXES = {"z": -3, "y": -2, "x": -1}


def build_prior(setting: str | PriorProduct) -> Prior:
    """The prior of a recipe.

    Raises:
        CheckpointError: no such prior, or two of different kinds.
    """
    if isinstance(setting, str):
        return load_prior(setting)
    primary = SlicePrior(load_prior(setting.primary))
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
