"""What an unfinished run leaves beside its output, so that it can go on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medinv.priors import Prior
from medinv.priors.edm import used_precision
from medinv.recipe.load import recipe_hash
from medinv.recipe.measurement import Measured
from medinv.recipe.schema import ReconstructRecipe
from medinv.samplers.snapshots import Snapshots

MINUTES = 3.0
"""Between two snapshots of a solver: what a killed run loses at most."""


def unfinished_path(output: str | Path) -> Path:
    """The folder of an unfinished run: inside its output folder, or beside its output file.

    >>> unfinished_path("out").as_posix(), unfinished_path("out.nii.gz").as_posix()
    ('out/unfinished', 'out.nii.gz.unfinished')
    """
    path = Path(output)
    if path.name.endswith((".nii", ".nii.gz")):
        return path.with_name(f"{path.name}.unfinished")
    return path / "unfinished"


def snapshots_of(folder: Path, recipe: ReconstructRecipe, measured: Measured,
                 prior: Prior | None) -> Snapshots:
    """The snapshots of a run; those of another, or of another version, are refused.

    Another recipe, input, prior or precision makes another run.
    """
    device = measured.y.device.type
    precision = None if prior is None else used_precision(prior, measured.y.device)
    facts = f"{version('medinv')} {torch.__version__} {device} {precision} {recipe_hash(recipe)}"
    hashed = hashlib.sha256(facts.encode())
    for tensor in _tensors(measured, prior):
        hashed.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return Snapshots(folder, hashed.hexdigest(), MINUTES)


def _tensors(measured: Measured, prior: Prior | None) -> Iterator[Tensor]:
    yield measured.y
    yield from measured.A.state_dict().values()
    yield from () if prior is None else prior.state_dict().values()


class Clock:
    """Seconds that a method has run, with those before it was interrupted.

    >>> clock = Clock()
    >>> clock.restore({"seconds": 60.0})
    >>> 60 <= clock.seconds() < 61
    True
    """

    def __init__(self) -> None:
        self._start, self._before = time.perf_counter(), 0.0

    def seconds(self) -> float:
        """So far."""
        return self._before + time.perf_counter() - self._start

    def state(self) -> dict[str, Any]:
        """For a snapshot."""
        return {"seconds": self.seconds()}

    def restore(self, state: dict[str, Any]) -> None:
        """Count on from a snapshot."""
        self._start, self._before = time.perf_counter(), state["seconds"]
