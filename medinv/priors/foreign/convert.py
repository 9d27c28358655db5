"""A user's downloaded weights become a prior of medinv: one .safetensors and its .json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from medinv.errors import CheckpointError
from medinv.plain_yaml import load_yaml
from medinv.priors.adapters import VP, AdaptedNetwork
from medinv.priors.base import IntensityScale
from medinv.priors.card import PriorCard, build_network
from medinv.priors.checkpoint import write_checkpoint
from medinv.priors.foreign.published import published_card
from medinv.priors.foreign.reading import find_weights, read_weights

_DIFFUSERS = {"UNet2DModel": "unet2d", "UNet2DConditionModel": "unet2d-condition"}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def import_prior(source: str | Path, config: str | PriorCard, path: str | Path, *,
                 scale: IntensityScale | None = None,
                 empty_context: Tensor | None = None) -> PriorCard:
    """Write published weights as a prior that `load_prior` reads; returns its card.

    Args:
        source: .pt, .pth, .bin, .ckpt or .safetensors; never unpickled.
        config: name of a published configuration, path of a file (see `read_config`), or a card.
        path: of the prior, ending in .safetensors; the .json comes beside it.
        scale: replaces the configuration's.
        empty_context: tokens (tokens, size) of the empty prompt, for a network that takes prompts;
            guidance needs it.

    Raises:
        CheckpointError: the file holds code, or the weights are not of this layout.
        OutputError: the prior could not be written.

    Example:
        >>> card = import_prior("AAPM256_1M.pt", "dds-ct", "chest.safetensors",
        ...                     scale=IntensityScale(value=0.02))  # doctest: +SKIP
    """
    card, source, path = read_config(config), Path(source), Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"import_prior: a prior's name ends in .safetensors, got {path}")
    updates: dict[str, object] = {"training": {**card.training, "imported_from": source.name}}
    if scale is not None:
        updates["scale"] = scale
    card = card.model_copy(update=updates)
    network = build_network(card, empty_context)
    if not isinstance(network, AdaptedNetwork):
        raise CheckpointError("import_prior: the network is medinv's own; load_prior reads it")
    weights = find_weights(read_weights(source), network.network, source.name)
    tensors = {f"network.{key}": value for key, value in weights.items()}
    if empty_context is not None:
        tensors["empty_context"] = empty_context
    write_checkpoint(path, card, tensors)
    return card


def read_config(config: str | PriorCard) -> PriorCard:
    """The card that a configuration means.

    Args:
        config: a card; the name of a published configuration; the path of a .json or .yaml file
            with a card's fields; or the path of diffusers' config.json, with its
            scheduler_config.json beside it or in ``../scheduler``.

    Raises:
        CheckpointError: the file is missing or has unknown fields.
        InputError: no such published configuration.

    Example:
        >>> read_config("dds-mri").complex_images
        True
    """
    if isinstance(config, PriorCard):
        return config
    path = Path(config)
    if path.suffix not in (".json", ".yaml", ".yml"):
        return published_card(config)
    fields = _read_mapping(path)
    try:
        if "_class_name" in fields:
            fields = _diffusers_fields(path, fields)
        return PriorCard.model_validate(fields)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}, got "
                            f"{item['input']!r}" for item in error.errors()[:3])
        raise CheckpointError(f"{path.name}: not a configuration that medinv knows: {details}"
                              ) from error


def _read_mapping(path: Path) -> dict[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: can't be read: {error}") from error
    fields = load_yaml(text, path.name, CheckpointError)  # JSON is YAML
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path.name}: expected fields and values, got "
                              f"{json.dumps(fields, default=str)[:40]}")
    return {str(key): value for key, value in fields.items()}


def _diffusers_fields(path: Path, network: Mapping[str, object]) -> dict[str, object]:
    """Fields of the card for diffusers' own files."""
    kind = _DIFFUSERS.get(str(network["_class_name"]))
    if kind is None:
        raise CheckpointError(f"{path.name}: {network['_class_name']} is none of "
                              f"{', '.join(_DIFFUSERS)}")
    channels = network.get("in_channels")
    return {
        "description": f"diffusers {network['_class_name']}", "sigma_data": 0.5,
        "network": {**network, "kind": kind}, "parametrization": _diffusers_schedule(path),
        "complex_images": channels == 2,
        "scale": {"percentile": 99} if channels == 2 else {},
    }


def _diffusers_schedule(path: Path) -> VP:
    places = [path.parent / "scheduler_config.json",
              path.parent.parent / "scheduler" / "scheduler_config.json"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise CheckpointError(
            f"{path.name}: expected scheduler_config.json beside it or in ../scheduler; get it "
            "from where the weights came, or write a configuration with a parametrization"
        )
    fields = _read_mapping(found)
    schedule = _SCHEDULES.get(str(fields.get("beta_schedule", "linear")))
    predicts = _PREDICTIONS.get(str(fields.get("prediction_type", "epsilon")))
    if schedule is None or predicts is None or fields.get("rescale_betas_zero_snr"):
        raise CheckpointError(
            f"{found.name}: expected beta_schedule {' or '.join(_SCHEDULES)}, prediction_type "
            f"{' or '.join(_PREDICTIONS)}, without rescale_betas_zero_snr; got "
            f"{fields.get('beta_schedule')}, {fields.get('prediction_type')}"
        )
    return VP.model_validate({
        "schedule": schedule, "predicts": predicts,
        "beta_start": fields.get("beta_start", 1e-4), "beta_end": fields.get("beta_end", 0.02),
        "steps": fields.get("num_train_timesteps", 1000)})
