"""What results tell of their recipe: all of it but where files lay.

A path holds names of users and patients. In metrics.json and its like the checksum of the file
stands in its place, unless ``output.paths`` asks for the path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medinv.data.mri.bart import cfl_files
from medinv.data.sets.checksums import digest
from medinv.privacy import without_folders
from medinv.recipe.load import recipe_json
from medinv.recipe.schema import ReconstructRecipe

_FILES = ("path", "maps", "folder")  # of a user
_NAMED = ("prior", "primary", "auxiliary", "manifest")  # names, or paths of such files


def told_recipe(recipe: ReconstructRecipe) -> dict[str, Any]:
    """The recipe with every default filled in, for people who may not know the folders."""
    content = recipe_json(recipe)
    told: dict[str, Any] = content if recipe.output.paths else _told(content)
    return told


def told_facts(facts: Mapping[str, object], recipe: ReconstructRecipe) -> dict[str, object]:
    """Facts and notes without folders."""
    if recipe.output.paths:
        return dict(facts)
    return {name: _text(value) for name, value in facts.items()}


def _text(value: object) -> object:
    if isinstance(value, str):
        return without_folders(value)
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    return value


def _told(content: Any, key: str = "") -> Any:  # noqa: ANN401  (any JSON)
    if isinstance(content, dict):
        return {name: _told(item, name) for name, item in content.items()}
    if isinstance(content, list):
        return [_told(item, key) for item in content]
    if isinstance(content, str) and key in _FILES:
        return told_file(Path(content))
    return Path(content).name if isinstance(content, str) and key in _NAMED else content


def told_file(path: Path) -> str:
    """A file or folder by its checksum; by its kind alone where it is not there.

    >>> told_file(Path("/home/doe/Smith_John.nii.gz"))
    'a file, *.nii.gz'
    """
    checksum = checksum_of(path)
    kind = "".join(Path(path).suffixes[-2:]) if path.name.endswith(".gz") else path.suffix
    return f"a file, *{kind}" if checksum is None else f"sha256:{checksum}"


def checksum_of_data(data: Tensor) -> str:
    """sha256 of a tensor's numbers."""
    numbers = data.detach().cpu().resolve_conj().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(numbers.data).hexdigest()


def checksum_of(path: Path) -> str | None:
    """sha256 of a file, or of all files of a folder; None where there is none."""
    files = sorted(path.rglob("*") if path.is_dir() else {path, *cfl_files(path)})
    files = [file for file in files if file.is_file()]
    return digest(files) if files else None
