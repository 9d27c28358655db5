"""The commands that only show something: recipes, solvers, priors, data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from medinv.catalogue import Kind
from medinv.cli import names
from medinv.cli.command import App, guarded
from medinv.errors import DataError, InputError
from medinv.privacy import without_folders

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


class ListsByDefault(TyperGroup):
    """A group that lists when no subcommand is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  (typer's own)
        """Add the subcommand."""
        return super().parse_args(ctx, args or ["list"])


recipes = App(help="The recipes that medinv knows.", cls=ListsByDefault)
data = App(help="The data sets that medinv knows.", cls=ListsByDefault)
DataSet = Annotated[
    str, typer.Argument(help="A data set's name.", autocompletion=names.data_sets)
]


def add_to(app: typer.Typer) -> None:
    """Register these commands."""
    app.command()(guarded(solvers))
    app.command()(guarded(priors))
    app.command()(guarded(exactness))
    app.add_typer(recipes, name="recipes")
    app.add_typer(data, name="data")


def print_table(title: str, rows: Mapping[str, Mapping[str, object]]) -> None:
    """Rows of named values on the terminal; numbers to four digits."""
    from rich.console import Console
    from rich.table import Table

    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table("", *columns, title=title or None)
    for name, row in rows.items():
        table.add_row(name, *(_cell(row.get(column, "")) for column in columns))
    Console().print(table)


def duration(seconds: float) -> str:
    """A duration for people.

    >>> duration(0.02), duration(12.3), duration(237), duration(40_000)
    ('0.02 s', '12 s', '3 min 57 s', '11 h 7 min')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def print_json(content: object) -> None:
    """Indented JSON on the output stream."""
    typer.echo(json.dumps(content, indent=2))


def solvers() -> None:
    """List the solvers and rules of guidance: settings with defaults, needs, what they return."""
    from medinv.catalogue import names
    from medinv.recipe.settings import block_class

    for kind in ("solver", "guidance"):
        for name in names(kind):
            summary = (block_class(kind, name).__doc__ or "").strip().splitlines()[0]
            typer.echo(f"{name}{' (guidance)' if kind == 'guidance' else ''}\n    {summary}\n"
                       f"    settings: {_settings(name, kind)}\n    {_declared(name, kind)}")


def exactness(
    method: Annotated[
        list[str] | None, typer.Option("--method", help="This row alone; may be repeated.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the truth table: what each method returns on Gaussians, beside the posterior.

    The posterior of the measured coordinate is N(0.8, 0.2); variances are over the posterior's,
    `correlated` is the relative error of a covariance of sixteen coordinates.
    """
    from medinv.recipe.exactness import METHODS, rows

    wrong = set(method or ()) - set(METHODS)
    if wrong:
        raise InputError(f"--method: no row is called {sorted(wrong)[0]!r}; rows: "
                         f"{'; '.join(METHODS)}")
    table = {name: vars(row) for name, row in rows(method)}
    if json:
        print_json(table)
    else:
        print_table("", table)


def _settings(name: str, kind: Kind) -> str:
    """The settings with their defaults."""
    from medinv.recipe.settings import fields_model

    return ", ".join(key if field.is_required() else f"{key}={_default(field)}"
                     for key, field in fields_model(name, kind).model_fields.items()) or "none"


def _default(field: FieldInfo) -> str:
    """A default as a recipe writes it; the name alone of a block inside."""
    from medinv.recipe.settings import Named

    value = field.get_default(call_default_factory=True)
    return f"{{name: {value.name}}}" if isinstance(value, Named) else repr(value)


def _declared(name: str, kind: Kind) -> str:
    """What a block with its defaults says that it needs and returns."""
    from medinv.recipe.settings import block_class
    from medinv.solvers import Diffusion

    block = block_class(kind, name)
    if kind == "solver" and not issubclass(block, Diffusion):
        return "needs: no prior; returns: an estimate"
    made = block()
    return f"needs: {', '.join(sorted(made.needs)) or 'a prior'}; returns: {made.returns}"


def priors() -> None:
    """List the priors that medinv ships."""
    from medinv.priors import prior_names, read_card

    for name in prior_names():
        card = read_card(name)
        kind = "complex" if card.complex_images else "real"
        what = "images" if card.patch is None else f"patches of {card.patch.patch} pixels"
        typer.echo(f"{name}: {card.description} ({kind} {what})")


@recipes.command("list")
@guarded
def list_recipes() -> None:
    """List the packaged recipes."""
    from medinv.recipe.load import load_recipe, recipe_names

    for name in recipe_names():
        recipe = load_recipe(name)
        typer.echo(f"{name:28} {recipe.task:12} {recipe.description}")


@recipes.command("show")
@guarded
def show_recipe(
    name: Annotated[str, typer.Argument(help="A recipe's name or path.",
                                        autocompletion=names.recipes)],
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Fill in every default, and print JSON.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A new file to write it to.")
    ] = None,
) -> None:
    """Print a recipe, to copy and change."""
    from medinv.data.atomic import write_text
    from medinv.data.ownership import check_free
    from medinv.recipe.load import load_recipe, recipe_json, recipe_text

    text = json.dumps(recipe_json(load_recipe(name)), indent=2) + "\n" if resolved else (
        recipe_text(name))
    if output is None:
        typer.echo(text, nl=False)
        return
    check_free(output)
    write_text(output, text)


@recipes.command("schema")
@guarded
def show_schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from medinv.recipe.load import recipe_schema

    print_json(recipe_schema())


@data.command("list")
@guarded
def list_data() -> None:
    """List the data sets."""
    from medinv.data import load_manifest, manifest_names

    for name in manifest_names():
        manifest = load_manifest(name)
        typer.echo(f"{name:26} {manifest.modality:3} {manifest.access.kind:7} {manifest.title}")


@data.command("show")
@guarded
def show_data(name: DataSet) -> None:
    """Print what is known of a data set, as JSON."""
    from medinv.data import load_manifest

    print_json(load_manifest(name).model_dump(mode="json", exclude_defaults=True))


@data.command("fetch")
@guarded
def fetch_data(
    name: DataSet,
    root: Annotated[
        Path | None, typer.Option("--root", help="A folder that already holds the files.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ROLE", help="Fetch this file alone; "
                                       "may be repeated. `medinv data show` lists the roles.")
    ] = None,
) -> None:
    """Download a data set, or verify that it is here; prints where its files are.

    A download that was cut off continues when the command is run again.
    """
    from medinv.data import load_manifest

    for role, path in load_manifest(name).fetch(root, only=only, progress=True).items():
        typer.echo(f"{role:>10}  {path}")


@data.command("check")
@guarded
def check_data(
    name: DataSet,
    root: Annotated[Path, typer.Option("--root", help="The folder that holds the set.")],
    full: Annotated[
        bool, typer.Option("--full", help="Compute checksums, too; sizes and headers alone "
                           "otherwise.")
    ] = False,
) -> None:
    """Say which files of a copy are missing, truncated, damaged or of the wrong shape.

    Exits with 1 if any is.
    """
    from medinv.data import load_manifest
    from medinv.data.sets.check import check

    findings = check(load_manifest(name), root, full=full)
    for finding in findings:
        typer.echo(f"{finding.problem:>15}  {finding.path}: {finding.detail}")
    if findings:
        raise typer.Exit(1)
    typer.echo(f"{name}: nothing is missing or wrong" + ("" if full else " by size and header"))


@data.command("describe")
@guarded
def describe_data(
    path: Annotated[Path, typer.Argument(help="NIfTI, DICOM (a folder, too), HDF5, NumPy or "
                                         "MATLAB.")],
    show_identifiers: Annotated[
        bool, typer.Option("--show-identifiers", help="Show the patient's name, ID, birth date "
                           "and UIDs of a DICOM file.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a file or folder is: shape, place, units, acquisition, range, findings."""
    bart = path.with_name(f"{path.name}.hdr")  # its names come without their ending
    if not path.exists() and not bart.is_file():  # said before torch is loaded, in seconds
        raise DataError(f"{path}: expected a file or folder, found nothing; check the path")
    from medinv.data.describe import describe

    facts = describe(path, show_identifiers=show_identifiers)
    if not show_identifiers:
        facts = {name: without_folders_in(value, path) for name, value in facts.items()}
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        typer.echo(f"{name:>24}  {_lines(value)}")


def without_folders_in(value: object, path: Path) -> object:
    """A fact whose texts tell of files without their folders.

    >>> without_folders_in(["/home/doe/a.h5: damaged"], Path("/home/doe/a.h5"))
    ['a.h5: damaged']
    """
    if isinstance(value, str):
        return without_folders(value, [path])
    if isinstance(value, dict):
        return {name: without_folders_in(item, path) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders_in(item, path) for item in value]
    return value


def _lines(value: object) -> str:
    """A value; the parts of a list of texts, or of a mapping, below each other."""
    if isinstance(value, dict):
        value = [f"{name}: {item}" for name, item in value.items()]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return f"\n{'':26}".join(value) or "none"
    return _cell(value)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
