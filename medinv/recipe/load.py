"""Read recipes: YAML in, validated objects out, and errors that name the field and the fix."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medinv.arguments import checked
from medinv.errors import RecipeError
from medinv.plain_yaml import check_plain, load_yaml
from medinv.recipe.schema import Recipe, ReconstructRecipe, TrainRecipe
from medinv.recipe.settings import shown, suggest

_RECIPES: TypeAdapter[ReconstructRecipe | TrainRecipe] = TypeAdapter(Recipe)
_MAX_PROBLEMS = 20


def recipe_names() -> list[str]:
    """Names of the packaged recipes, sorted."""
    entries = resources.files("medinv.recipes").iterdir()
    return sorted(e.name.removesuffix(".yaml") for e in entries if e.name.endswith(".yaml"))


def recipe_text(name: str | Path) -> str:
    """The YAML of the packaged recipe ``name``, or of a path that ends in ``.yaml`` or ``.yml``.

    Raises:
        RecipeError: no such recipe or file.
    """
    if str(name).endswith((".yaml", ".yml")):
        try:
            return Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"{name}: expected a recipe in YAML, but it cannot be read: {error}"
            ) from error
    if name not in recipe_names():
        raise RecipeError(
            f"no recipe is called {str(name)!r}{suggest(str(name), recipe_names())}; "
            "or pass a path that ends in .yaml"
        )
    entry = resources.files("medinv.recipes").joinpath(f"{name}.yaml")
    return entry.read_text(encoding="utf-8")


@checked
def load_recipe(
    name: str | Path, overrides: Sequence[str] | Mapping[str, object] = ()
) -> ReconstructRecipe | TrainRecipe:
    """A validated recipe.

    Args:
        name: a packaged recipe, or the path of one.
        overrides: ``["solver.steps=20", ...]`` with values in YAML, or ``{"solver.steps": 20}``.

    Raises:
        RecipeError: no such recipe, not YAML, an unknown field or a wrong value.

    >>> load_recipe("demo-chest-ct", ["measurement.views=20"]).measurement.views
    20
    """
    content = load_yaml(recipe_text(name), f"recipe {name}", RecipeError)
    if not isinstance(content, dict):
        raise RecipeError(f"recipe {name}: expected fields (name, task...), found "
                          f"{shown(content)}")
    for path, value in _parsed(overrides).items():
        _override(content, path, value)
    return validate_recipe(content, str(name))


def load_reconstruct_recipe(
    name: str | Path, overrides: Sequence[str] | Mapping[str, object] = ()
) -> ReconstructRecipe:
    """`load_recipe`, refusing recipes of another task."""
    recipe = load_recipe(name, overrides)
    if not isinstance(recipe, ReconstructRecipe):
        raise RecipeError(f"recipe {name} trains a prior; run it with `medinv train {name}`")
    return recipe


def load_train_recipe(
    name: str | Path, overrides: Sequence[str] | Mapping[str, object] = ()
) -> TrainRecipe:
    """`load_recipe`, refusing recipes of another task."""
    recipe = load_recipe(name, overrides)
    if not isinstance(recipe, TrainRecipe):
        raise RecipeError(f"recipe {name} reconstructs; run it with `medinv reconstruct {name}`")
    return recipe


def validate_recipe(content: object, name: str) -> ReconstructRecipe | TrainRecipe:
    """Plain data (dicts, lists, numbers) as a recipe; ``name`` is for the error.

    Raises:
        RecipeError: an unknown field or a wrong value, each with its path.
    """
    check_plain(content, f"recipe {name}", RecipeError)
    try:
        return _RECIPES.validate_python(content)
    except ValidationError as error:
        items = error.errors()
        lines = [_explain(item) for item in items[:_MAX_PROBLEMS]]
        if len(items) > _MAX_PROBLEMS:
            lines.append(f"and {len(items) - _MAX_PROBLEMS} more")
        raise RecipeError(f"recipe {name}:\n  " + "\n  ".join(lines)) from None


def recipe_json(recipe: ReconstructRecipe | TrainRecipe) -> dict[str, Any]:
    """The recipe with every default filled in, as plain JSON data."""
    return recipe.model_dump(mode="json")


def recipe_hash(recipe: ReconstructRecipe | TrainRecipe) -> str:
    """sha256 of the recipe's canonical JSON; equal settings have equal hashes."""
    text = json.dumps(recipe_json(recipe), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, for editors and other programs."""
    return _RECIPES.json_schema()


def _parsed(overrides: Sequence[str] | Mapping[str, object]) -> dict[str, object]:
    if isinstance(overrides, Mapping):
        return dict(overrides)
    parsed: dict[str, object] = {}
    for item in overrides:
        path, equals, text = item.partition("=")
        if not equals or not path:
            raise RecipeError(f"--set {item}: expected key=value, such as solver.steps=20")
        if path.strip() in parsed:
            raise RecipeError(f"--set {path.strip()}: given twice; keep one")
        parsed[path.strip()] = load_yaml(text, f"--set {item[:80]}", RecipeError)
    return parsed


def _override(content: dict[str, Any], path: str, value: object) -> None:
    """Set the field at a dotted path; a number in the path is an index into a list."""
    *parents, last = path.split(".")
    node: Any = content
    for name in parents:
        if isinstance(node, list):
            node = node[_index(node, name, path)]
        else:
            node = node.setdefault(name, {})
        if not isinstance(node, dict | list):
            raise RecipeError(
                f"--set {path}: {name!r} is no block but {shown(node)}, so it has no fields to set"
            )
    if isinstance(node, list):
        node[_index(node, last, path)] = value
    else:
        node[last] = value


def _index(items: list[Any], name: str, path: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", name) or int(name) >= len(items):
        raise RecipeError(f"--set {path}: expected an index below {len(items)}, got "
                          f"{shown(name)}")
    return int(name)


def _explain(item: Any) -> str:  # noqa: ANN401  (pydantic's ErrorDetails is a TypedDict)
    """One of pydantic's errors in one line: field, problem, value, fix."""
    schema, path = _walk(item["loc"])
    field = ".".join(path) or "recipe"
    known = sorted(schema.get("properties", {}))
    if item["type"] == "extra_forbidden":
        return f"{field}: unknown field{suggest(path[-1], known)}"
    if item["type"] == "missing":
        return f"{field}: this field is required; add it"
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        context = item["ctx"]
        tag = context["discriminator"].strip("'")
        came = f", got {shown(context['tag'])}" if "tag" in context else "; add it"
        expected = context.get("expected_tags") or ", ".join(
            repr(key) for key in schema.get("discriminator", {}).get("mapping", {})
        )
        return f"{'.'.join([*path, tag])}: expected one of {expected}{came}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{field}: {message}"
    return f"{field}: {message[0].lower()}{message[1:]}, got {shown(item['input'])}"


def _walk(location: tuple[int | str, ...]) -> tuple[dict[str, Any], list[str]]:
    """The schema of the block that holds the field, and the field's path as the user writes it.

    pydantic names the chosen member of a union in its locations; the user's path has no such part.
    """
    root = recipe_schema()
    node, holder, path = _resolve(root, root), root, []
    for part in location:
        mapping = node.get("discriminator", {}).get("mapping", {})
        if part in mapping:
            node = _resolve({"$ref": mapping[part]}, root)
            continue
        if part in ("name", "product") and part not in node.get("properties", {}):  # a tag
            continue
        if isinstance(part, str) and node and "properties" not in node:  # one of several types
            continue
        path.append(str(part))
        holder = node
        child = node.get("items", {}) if isinstance(part, int) else node["properties"].get(part)
        node = _resolve(child or {}, root)
    return (holder if path else node), path


def _resolve(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, and the one block among alternatives (`block or null`)."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        found: dict[str, Any] = root["$defs"][name]
        return found
    options = [*node.get("anyOf", []), *node.get("oneOf", [])]
    options += [inner for option in options for inner in option.get("oneOf", [])]
    blocks = [option for option in options if "$ref" in option]
    discriminated = "discriminator" in node
    return _resolve(blocks[0], root) if len(blocks) == 1 and not discriminated else node
