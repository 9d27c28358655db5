"""Weights out of the files that training codes leave behind, without running what they hold."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medinv.errors import CheckpointError
from medinv.priors.foreign.unet2d import RENAMED

_ADVICE = (
    "medinv never runs code from a file. Where the code that wrote it is installed (EDM and "
    "PaDIS: in their repository), save the bare weights once, and import the new file:\n"
    "  import pickle, torch; net = pickle.load(open('network.pkl', 'rb'))['ema']\n"
    "  torch.save(net.state_dict(), 'network.pt')"
)


def read_weights(path: str | Path) -> Any:  # noqa: ANN401 (whatever the file holds)
    """The content of a .safetensors file, or of a file of ``torch.save`` without code.

    Raises:
        CheckpointError: no such file, not of a known kind, or it holds more than tensors,
            numbers and containers.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     torch.save({"w": torch.ones(1)}, Path(folder) / "w.pt")
        ...     read_weights(Path(folder) / "w.pt")
        {'w': tensor([1.])}
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the formats of old versions of torch
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path.name}: it holds Python objects, or is no file of weights. {_ADVICE}"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path.name}: broken, or no file of weights: "
                              f"{str(error).splitlines()[0] if str(error) else 'empty'}"
                              ) from error


def read_tensor(path: str | Path) -> Tensor:
    """The only tensor of a file.

    Raises:
        CheckpointError: there is none, or more than one.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     torch.save(torch.ones(1), Path(folder) / "w.pt")
        ...     read_tensor(Path(folder) / "w.pt")
        tensor([1.])
    """
    content = read_weights(path)
    if isinstance(content, Mapping) and len(content) == 1:
        content = next(iter(content.values()))
    if not isinstance(content, Tensor):
        raise CheckpointError(f"{Path(path).name}: expected one tensor, got "
                              f"{type(content).__name__}")
    return content


def find_weights(content: object, network: nn.Module, name: str = "the file"
                 ) -> dict[str, Tensor]:
    """The tensors of ``network`` within what a file held; a moving average comes first.

    Finds them in nested dictionaries (``ema``, ``model``, ``state_dict``), under prefixes
    (``module.``, ``model.``), under the names of old versions of diffusers, and in the list
    without names that score_sde keeps its moving average in. Other tensors are left out.

    Args:
        content: what `read_weights` returned.
        network: of the layout that the weights should have.
        name: of the file, for errors.

    Raises:
        CheckpointError: tensors are missing or of another shape.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> sorted(find_weights({"model": {"module.weight": torch.ones(1, 1),
        ...                                "module.bias": torch.ones(1)}}, network))
        ['bias', 'weight']
    """
    wanted = network.state_dict()
    found = [_match(tensors, wanted) for tensors in _tensor_dicts(content)]
    best = max(found, key=len, default={})
    averaged = _shadow(content, network)
    if averaged:
        best = {**best, **averaged}
    missing = [key for key in wanted if key not in best]
    wrong = [key for key in best if best[key].shape != wanted[key].shape]
    if missing or wrong:
        raise CheckpointError(
            f"{name}: not the weights of this layout: {_some(missing, 'missing')}"
            f"{'; ' if missing and wrong else ''}"
            + _some([f"{key} is {tuple(best[key].shape)}, expected {tuple(wanted[key].shape)}"
                     for key in wrong], "of another shape")
            + "; compare the layout with the configuration that the weights were trained with"
        )
    return best


def _some(items: list[str], what: str) -> str:
    if not items:
        return ""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{len(items)} tensors {what} ({', '.join(items[:3])}{more})"


def _tensor_dicts(content: object) -> Iterator[dict[str, Tensor]]:
    """Dictionaries of tensors, at any depth; averages first, since the first of equals wins."""
    if not isinstance(content, Mapping):
        return
    inner = [(str(key), value) for key, value in content.items() if isinstance(value, Mapping)]
    for _, value in sorted(inner, key=lambda item: "ema" not in item[0].lower()):
        yield from _tensor_dicts(value)
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield tensors


def _match(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``wanted`` asks for, under the prefix that finds most of it."""
    renamed = {_todays(key): value for key, value in tensors.items()}
    if not wanted:
        return {}
    *_, last = wanted
    prefixes = {key[: -len(last)] for key in renamed
                if key == last or key.endswith(f".{last}")}
    candidates = [{key: renamed[prefix + key] for key in wanted if prefix + key in renamed}
                  for prefix in sorted(prefixes, key=lambda prefix: "ema" not in prefix)]
    return max(candidates, key=len, default={})


def _todays(key: str) -> str:
    """Today's name of a tensor of diffusers."""
    return re.sub(r"(attentions\.\d+\.)(query|key|value|proj_attn)\.",
                  lambda old: f"{old[1]}{RENAMED[old[2]]}.", key)


def _shadow(content: object, network: nn.Module) -> dict[str, Tensor]:
    """The moving average of score_sde: a list in the order of the trained parameters."""
    average = content.get("ema") if isinstance(content, Mapping) else None
    shadow = average.get("shadow_params") if isinstance(average, Mapping) else None
    if not isinstance(shadow, list):
        return {}
    names = [key for key, value in network.named_parameters() if value.requires_grad]
    if len(names) != len(shadow):
        raise CheckpointError(
            f"the moving average has {len(shadow)} tensors but the layout {len(names)}; compare "
            "the layout with the configuration that the weights were trained with"
        )
    return dict(zip(names, shadow, strict=True))
