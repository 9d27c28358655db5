"""Recipes from strangers: whatever they hold, a clear error comes quickly."""

from __future__ import annotations

import time

import pytest
import yaml

import medinv
from medinv.errors import InputError, RecipeError
from medinv.plain_yaml import load_yaml
from medinv.recipe import load_recipe
from medinv.recipe.load import recipe_text, validate_recipe

SECONDS = 10  # a busy machine; the bomb alone took over 25 s


def bomb(levels: int = 9) -> str:
    """Ten aliases of ten aliases of ...: 10^levels values in a few hundred characters."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for i in range(levels):
        lines.append(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]")
    return "\n".join(lines)


HOSTILE = {
    "alias bomb": (bomb(), "at most 20000 values"),
    "a value that holds itself": ("a: &a [*a]", "at most 40 levels"),
    "deep brackets": ("a: " + "[" * 20_000, "nested too deeply"),
    "deep braces": ("{a: " * 300 + "1" + "}" * 300, "at most 40 levels|nested too deeply"),
    "deep blocks": ("- " * 20_000, "nested too deeply"),
    "5,000 digits": ("seed: " + "9" * 5000, "a value cannot be read"),
    "a large hexadecimal number": ("views: 0x" + "f" * 300, r"views: expected an integer below"),
    "not a number": ("a: .nan", "expected a finite number"),
    "infinity": ("a: [.inf]", "a.0: expected a finite number"),
    "a lone surrogate": ('a: "\\ud800"', "no file can hold"),
    "a lone surrogate as a key": ('"\\ud800": 1', "no file can hold"),
    "a key given twice": ("seed: 1\nseed: 2", "the key 'seed' is given twice"),
    "an inner key given twice": ("a: {b: 1, c: 2, b: 3}", "the key 'b' is given twice"),
    "an object": ("a: !!python/object:os.system x", "not valid YAML"),
    "binary": ("a: !!binary aa", "not valid YAML"),
    "a set": ("a: !!set {b, c}", "not valid YAML"),
    "a wrong tag": ("a: !!bool x", "a value cannot be read"),
    "an empty integer": ("a: !!int ''", "a value cannot be read"),
    "a list as a key": ("? [1]\n: 2", "not valid YAML"),
    "true as a key": ("true: 1", "expected text as a key"),
    "a long file": ("a: " + "x" * 200_000, "at most 100000 characters"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_refused_quickly(name, tmp_path):
    text, message = HOSTILE[name]
    (tmp_path / "r.yaml").write_text(text)
    start = time.perf_counter()
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert time.perf_counter() - start < SECONDS
    assert len(str(caught.value)) < 2000


def test_a_bomb_in_a_field_is_refused_quickly(tmp_path):
    """As a description it passed the parser; only the message about it never ended."""
    text = recipe_text("demo-chest-ct") + "\ncontext:\n  " + bomb().replace("\n", "\n  ")
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match="at most 20000 values"):
        load_recipe(tmp_path / "r.yaml")


def test_what_is_no_date_in_a_recipe_is_text():
    assert load_yaml("a: 2026-13-45\nb: 2026-01-02", "x", InputError) == {
        "a": "2026-13-45", "b": "2026-01-02"}


@pytest.mark.parametrize("text", [
    "a: 1\nb: [1.5, x, null, true, 1e3]", "", "a: &x {b: 1}\nc: *x\nd: {<<: *x, b: 2}", "7", "[]",
])
def test_ordinary_yaml_reads_as_with_the_safe_loader(text):
    assert load_yaml(text, "x", InputError) == yaml.safe_load(text)


NUMBERS = [
    ("solver.steps=1000000000", "solver: DDS.steps: expected at most 1,000,000"),
    ("solver.cg_iter=1000001", "solver: DDS.cg_iter: expected at most"),
    ("solver={name: DDIP, solver: {name: DDS, steps: 10000000}}", "steps: expected at most"),
    ("solver={name: DDIP, adaptation: {inner_steps: 10000000}}", "inner_steps: expected at most"),
    ("measurement.views=0xffffffff", "views: expected at most 1,000,000"),
    ("measurement.pool=[1, 10000000, 1]", "pool: expected at most"),
    ("samples=10000000", "samples: expected at most"),
    ("seed=0x7fffffffffffffff", "seed: .*less than"),
    ("measurement.mu_water=1e300", "mu_water: expected at most"),
    ("baselines.²=1", "expected an index below 2"),
    ("baselines." + "9" * 5000 + "=1", "expected an index below 2"),
    (".".join("a" * 100) + "=1", "at most 40 levels"),
    ("name=" + '"\\udfff"', "no file can hold"),
]


@pytest.mark.parametrize(("override", "message"), NUMBERS)
def test_numbers_and_names_beyond_reason(override, message):
    start = time.perf_counter()
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe("demo-chest-ct", [override])
    assert time.perf_counter() - start < SECONDS
    assert len(str(caught.value)) < 6000


def test_a_setting_given_twice():
    with pytest.raises(RecipeError, match="solver.steps: given twice"):
        load_recipe("demo-chest-ct", ["solver.steps=3", "solver.steps=4"])


def test_plain_data_from_a_program_are_checked_too():
    content = yaml.safe_load(recipe_text("demo-chest-ct"))
    with pytest.raises(RecipeError, match="description: .*no file can hold"):
        validate_recipe(content | {"description": "\ud800"}, "mine")
    itself: dict[str, object] = {}
    itself["again"] = itself
    with pytest.raises(RecipeError, match="at most 40 levels"):
        validate_recipe(content | {"context": itself}, "mine")
    with pytest.raises(RecipeError, match="no file can hold"):
        medinv.reconstruct(recipe="demo-chest-ct", overrides={"description": "\ud800"})


def test_many_mistakes_are_not_all_told():
    wrong = {f"field{i}": i for i in range(1000)}
    content = yaml.safe_load(recipe_text("demo-chest-ct")) | wrong
    with pytest.raises(RecipeError, match="and 980 more"):
        validate_recipe(content, "mine")
