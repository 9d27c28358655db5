"""Named blocks of every kind: medinv's own, and those of other packages.

Recipes, `medinv solvers`, the JSON Schema and the tables of the docs find a block here by its
name. Another package adds one by an entry point of the group ``medinv.<kind>``, in its
``pyproject.toml``:

    [project.entry-points."medinv.solver"]
    MySolver = "my_package:MySolver"

Kinds: ``solver``, a frozen dataclass called with a `Problem` (and a prior); ``guidance``, one that
is a `medinv.guidance.Guidance`; ``measurement``, a block of a recipe with a ``kind`` and a method
``measure``.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from medinv.errors import InputError

Kind = Literal["solver", "guidance", "measurement"]


def _is_solver(item: object) -> bool:
    return _is_settings(item) and callable(item) and "problem" in _arguments(item)


def _is_guidance(item: object) -> bool:
    return _is_settings(item) and callable(getattr(item, "correction", None))


def _is_measurement(item: object) -> bool:
    return isinstance(item, type) and callable(getattr(item, "measure", None))


def _is_settings(item: object) -> bool:
    return isinstance(item, type) and dataclasses.is_dataclass(item)


def _arguments(item: Any) -> list[str]:  # noqa: ANN401  (any class)
    return list(inspect.signature(item.__call__).parameters)


_ROOMS: dict[Kind, tuple[str, Callable[[object], bool], str]] = {
    "solver": ("medinv.solvers", _is_solver, "a frozen dataclass called with a Problem"),
    "guidance": ("medinv.guidance", _is_guidance, "a dataclass that is a Guidance"),
    "measurement": ("medinv.recipe.blocks", _is_measurement, "a block with a method measure"),
}


@cache
def _own(kind: Kind) -> dict[str, type[Any]]:
    room, fits, _ = _ROOMS[kind]
    module = importlib.import_module(room)
    return {name: getattr(module, name) for name in module.__all__ if fits(getattr(module, name))}


def _foreign(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"medinv.{kind}")}


def names(kind: Kind) -> list[str]:
    """Names of all blocks of a kind, sorted.

    >>> "MMPS" in names("guidance")
    True
    """
    return sorted({**_foreign(kind), **_own(kind)})


def find(kind: Kind, name: str) -> type[Any]:
    """The block called ``name``; medinv's own come first.

    Raises:
        KeyError: there is none.
        InputError: another package's block is not what its kind asks for, or cannot be imported.

    >>> find("guidance", "MMPS").__name__
    'MMPS'
    """
    own = _own(kind).get(name)
    if own is not None:
        return own
    point = _foreign(kind)[name]
    _, fits, expected = _ROOMS[kind]
    try:
        block: type[Any] = point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"{name}: the {kind} {point.value!r} of another package cannot be "
                         f"imported ({error}); repair or uninstall that package") from error
    if not fits(block):
        raise InputError(f"{name}: expected {expected} at {point.value!r} of another package, got "
                         f"{block!r}")
    return block
