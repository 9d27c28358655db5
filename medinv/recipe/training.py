"""Run a training recipe and leave a checkpoint that `load_prior` reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medinv.data import load_manifest
from medinv.data.ownership import check_claim, listed, record
from medinv.priors import save_prior
from medinv.priors.edm import used_precision
from medinv.recipe.load import recipe_hash
from medinv.recipe.schema import TrainRecipe
from medinv.training import Progress, train
from medinv.training.loop import HISTORY, STATE
from medinv.training.spacing import pixel_range, slice_range


def train_recipe(
    recipe: TrainRecipe,
    folder: str | Path,
    *,
    resume: bool = False,
    on_update: Callable[[Progress], None] | None = None,
) -> Path:
    """Train the prior of a recipe in ``folder``; returns the path of its weights.

    Args:
        recipe: what to train, and on which data.
        folder: holds the run's state, its history, and at the end ``<name>.safetensors``.
        resume: continue the run in ``folder``.
        on_update: called after every update.

    Raises:
        CheckpointError: ``folder`` holds another run, or a run and ``resume`` is false.
        DataError: a data set is not what it should be, or touches its test split.
        DownloadError: a data set could not be fetched.
        OutputError: a file could not be written, or ``folder`` holds one of the user's under a
            name that the run needs.
    """
    folder = Path(folder)
    names = [STATE, HISTORY, f"{recipe.name}.safetensors", f"{recipe.name}.json"]
    known = listed(folder)
    check_claim(folder, names, replace=STATE in known)  # `train` refuses without ``resume``
    folder.mkdir(parents=True, exist_ok=True)
    record(folder, {*names, *known})
    prior = train(recipe.training, folder, resume=resume, on_update=on_update)
    path = folder / f"{recipe.name}.safetensors"
    precision = used_precision(prior, next(prior.parameters()).device)
    origin = _origin(recipe) | {"precision": precision}
    save_prior(path, prior, recipe.description or recipe.name, origin,
               pixel_range(recipe.training.images), slice_range(recipe.training.images))
    return path


def _origin(recipe: TrainRecipe) -> dict[str, object]:
    """What the prior learned from, for its card."""
    sources = recipe.training.images.sources
    names = sorted({source.manifest for source in sources if source.manifest is not None})
    data = [{"name": m.name, "licence": m.licence, "source": m.source}
            for m in map(load_manifest, names)]
    if any(source.phantom is not None for source in sources):
        data.append({"name": "random ellipses", "licence": "none needed",
                     "source": "medinv.training.ellipses"})
    if any(source.manifest is None and source.phantom is None for source in sources):
        data.append({"name": "a folder of volumes", "licence": "unknown", "source": "unknown"})
    return {
        "recipe": recipe.name,
        "recipe_sha256": recipe_hash(recipe),
        "updates": recipe.training.updates,
        "data": data,
    }
