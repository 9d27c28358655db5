"""One checkpoint format: weights in safetensors, everything else in the JSON file beside it.

``name.safetensors`` holds the network's tensors, in half precision unless they come from a
published prior (`medinv.priors.foreign`); ``name.json`` describes the network, sigma_data, the
intensity scale, the training data and their licences, the recipe hash and the metrics. Neither can
hold code. The shipped priors lie in ``medinv/priors/weights``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from medinv.arguments import checked
from medinv.data.atomic import replacing
from medinv.errors import CheckpointError
from medinv.priors.base import Prior
from medinv.priors.card import PatchTiling, PriorCard, UNetLayout, build_network, parse_card
from medinv.priors.depth import DepthPrior
from medinv.priors.edm import NetworkPrior
from medinv.priors.networks import UNet
from medinv.priors.patches import PatchNetwork, PatchPrior
from medinv.priors.slabs import SlabNetwork, SlabPrior


def _paths(name: str | Path) -> tuple[Path, Path]:
    path = Path(name)
    if path.suffix != ".safetensors":
        if str(name) not in prior_names():
            raise CheckpointError(
                f"no prior is called {str(name)!r}; medinv ships "
                f"{', '.join(prior_names()) or 'none'}; or pass the path of a .safetensors file"
            )
        path = Path(str(resources.files("medinv.priors"))) / "weights" / f"{name}.safetensors"
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise CheckpointError(
                f"{file}: no such file; a prior is a .safetensors file with a .json file beside it"
            )
    return path, path.with_suffix(".json")


def prior_names() -> list[str]:
    """Names of the priors that medinv ships.

    Example:
        >>> all(read_card(name).description for name in prior_names())
        True
    """
    folder = Path(str(resources.files("medinv.priors"))) / "weights"
    return sorted(path.stem for path in folder.glob("*.safetensors"))


@checked
def read_card(name: str | Path) -> PriorCard:
    """What is known of a prior, without loading its weights.

    Raises:
        CheckpointError: no such prior, or its JSON file is not a prior's.

    Example:
        >>> all(read_card(name).sigma_data > 0 for name in prior_names())
        True
    """
    return parse_card(_paths(name)[1])


@checked
def load_prior(name: str | Path) -> Prior:
    """A shipped prior by name, or one's own by the path of its .safetensors file; on the CPU.

    It is a `NetworkPrior`, or around one a `PatchPrior` where the card has a ``patch``, a
    `DepthPrior` where its network has taps, a `SlabPrior` where it takes slabs.

    Raises:
        CheckpointError: no such prior, weights and description do not belong together, or the
            weights are not finite.

    Example:
        >>> load_prior("boxes")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        medinv.errors.CheckpointError: no prior is called 'boxes'; medinv ships ...
    """
    weights, _ = _paths(name)
    card = read_card(name)
    try:
        tensors = {key: value.float() for key, value in load_file(weights).items()}
        network = build_network(card, tensors.get("empty_context"),
                                stored_bytes=weights.stat().st_size)
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{weights.name}: the weights are broken or of another network than its .json says: "
            f"{error}"
        ) from error
    _check_finite(weights, tensors)
    prior = NetworkPrior(network, card.sigma_data, complex_images=card.complex_images,
                         scale=card.scale, error_by_sigma=card.error_by_sigma,
                         text_encoder=card.text_encoder)
    prior.eval().requires_grad_(False)
    if card.patch is not None:
        return PatchPrior.from_network(prior, card.patch.patch, card.patch.side)
    return with_depth(prior)


def with_depth(prior: NetworkPrior) -> Prior:
    """The prior of volumes whose network sees neighbouring slices; itself if it sees none.

    Example:
        >>> with_depth(NetworkPrior(UNet(1, (16, 32), (1, 1), 16, taps=True), 0.5)).ndim
        3
    """
    network = prior.network
    if isinstance(network, UNet) and network.taps:
        return DepthPrior(prior)
    if isinstance(network, UNet) and network.slab > 1:
        return SlabPrior.from_network(prior)
    return prior


def save_prior(path: str | Path, prior: Prior, description: str,
               training: dict[str, Any] | None = None,
               pixel_mm: tuple[float, float] | None = None,
               slice_mm: tuple[float, float] | None = None) -> PriorCard:
    """Write ``path`` (.safetensors, half precision) and the .json beside it; returns the latter.

    Args:
        path: where to; ends in ``.safetensors``.
        prior: a `NetworkPrior` on a `UNet`, or what `load_prior` puts around one.
        description: one line for people.
        training: data sets with licences, recipe hash, updates and so on.
        pixel_mm: smallest and largest side of a training pixel, where known.
        slice_mm: the same of neighbouring slices, where the prior sees them.

    Raises:
        OutputError: a file could not be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     prior = NetworkPrior(UNet(1, (16, 32), (1, 1), 16), sigma_data=0.5)
        ...     card = save_prior(Path(folder) / "boxes.safetensors", prior, "boxes, untrained")
        ...     load_prior(Path(folder) / "boxes.safetensors").sigma_data
        0.5
    """
    path = Path(path)
    prior, patch = _untiled(prior)
    network = prior.network if isinstance(prior, NetworkPrior) else None
    if (not isinstance(prior, NetworkPrior) or not isinstance(network, UNet)
            or path.suffix != ".safetensors"):
        raise CheckpointError(
            "save_prior writes a prior around a UNet to a .safetensors file, got "
            f"{type(prior).__name__} around {type(network).__name__} and {path}"
        )
    card = PriorCard(
        description=description,
        network=UNetLayout(channels=network.channels, widths=network.widths, blocks=network.blocks,
                           embedding=network.embedding, context=network.context,
                           extra_channels=network.extra_channels, slab=network.slab,
                           taps=network.taps),
        complex_images=prior.dtype.is_complex, sigma_data=prior.sigma_data, scale=prior.scale,
        patch=patch, error_by_sigma=prior.error_by_sigma, text_encoder=prior.text_encoder,
        training=training or {}, pixel_mm=pixel_mm, slice_mm=slice_mm,
    )
    write_checkpoint(path, card, {k: value.half() for k, value in network.state_dict().items()})
    return card


def write_checkpoint(path: Path, card: PriorCard, tensors: Mapping[str, Tensor]) -> None:
    """Write the weights and, beside them, the card.

    Raises:
        CheckpointError: weights that are not finite, in the precision that they are written in.
        OutputError: a file could not be written.

    Example:
        >>> from medinv.priors import IntensityScale
        >>> layout = UNetLayout(channels=1, widths=(16,), blocks=(1,), embedding=16)
        >>> card = PriorCard(description="boxes", network=layout, complex_images=False,
        ...                  sigma_data=0.5, scale=IntensityScale(value=0.02))
        >>> write_checkpoint(Path("boxes.safetensors"), card,
        ...                  build_network(card).state_dict())  # doctest: +SKIP
    """
    _check_finite(path, tensors)
    content = save({key: value.contiguous() for key, value in tensors.items()})
    with replacing(path) as partial:
        partial.write_bytes(content)
        partial.chmod(0o644)  # it is written for its owner alone
    with replacing(path.with_suffix(".json")) as partial:
        partial.write_text(card.model_dump_json(indent=2), encoding="utf-8")


def _check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise CheckpointError(f"{path.name}: expected finite weights, got NaN or infinity in "
                              f"{len(bad)} of {len(tensors)} tensors, the first {bad[0]}; the "
                              "training went astray or the file is damaged")


def _untiled(prior: Prior) -> tuple[Prior, PatchTiling | None]:
    """The prior whose network is saved, and how images are tiled for it."""
    if isinstance(prior, PatchPrior) and isinstance(prior.denoiser, PatchNetwork):
        return prior.denoiser.prior, PatchTiling(patch=prior.patch, side=prior.side)
    if isinstance(prior, SlabPrior) and isinstance(prior.denoiser, SlabNetwork):
        return prior.denoiser.prior, None
    if isinstance(prior, DepthPrior):
        return prior.prior, None
    return prior, None
