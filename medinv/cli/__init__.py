"""The command line: recipes in, volumes out. Nothing heavy loads before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medinv.allocator import keep_memory
from medinv.cli import importing, listing, names
from medinv.cli.command import App, guarded
from medinv.privacy import without_folders

app = App(
    name="medinv",
    help="Medical volumes from raw or undersampled measurements, with diffusion priors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 success, 1 failure, 2 a mistake in the input, 130 interrupted.",
)

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe, as in "
                 "solver.steps=20; may be repeated. Values are YAML."),
]
Device = Annotated[
    str | None, typer.Option("--device", help="auto (a CUDA device if there is one), cpu or cuda; "
                             "the recipe's if not given.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what an earlier run wrote there; nothing else "
                       "is ever removed.")
]
Recipe = Annotated[
    str, typer.Argument(help="A recipe's name or path.", autocompletion=names.recipes)
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help="What networks compute in: float32, bfloat16, or auto "
                 "(MEDINV_PRECISION if that is set, else the faster one); the recipe's if not "
                 "given."),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="A folder, or a .nii.gz file for the volume alone.")
]


def _show_version(value: bool) -> bool:
    if value:
        from importlib.metadata import version

        typer.echo(f"medinv {version('medinv')}")
        raise typer.Exit
    return value


@app.callback()
def _global(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_show_version, is_eager=True,
                           help="Show the version and exit.")
    ] = False,
) -> None:
    """Medical volumes from raw or undersampled measurements, with diffusion priors."""


@app.command()
@guarded
def demo(
    output: Output = Path("out"), overwrite: Overwrite = False, precision: Precision = None,
    overrides: Overrides = None,
) -> None:
    """Reconstruct a real chest CT from 30 views, against two classical methods.

    The CT is downloaded once (35 MB). Without a network, a phantom stands in for it.
    """
    overrides = _with(overrides, precision=precision)
    _reconstruct("demo-chest-ct", None, output, overrides, resume=False, overwrite=overwrite)


@app.command()
@guarded
def reconstruct(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name or path.", autocompletion=names.recipes)
    ] = None,
    recipe_option: Annotated[
        str | None, typer.Option("--recipe", "-r", help="The same, as an option.",
                                 autocompletion=names.recipes)
    ] = None,
    input: Annotated[  # noqa: A002
        Path | None, typer.Option("--input", "-i", help="The file to use instead of the recipe's.")
    ] = None,
    output: Output = Path("out"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run into this output was stopped.")
    ] = False,
    overwrite: Overwrite = False,
    auto: Annotated[
        bool, typer.Option("--auto", help="Choose the solver's weights on held-out measurements.")
    ] = False,
    device: Device = None,
    precision: Precision = None,
    overrides: Overrides = None,
) -> None:
    """Reconstruct a volume as a recipe says; a killed run continues with --resume."""
    if (recipe is None) == (recipe_option is None):
        raise typer.BadParameter("expected one recipe, as an argument or as --recipe")
    overrides = _with(overrides, device=device, precision=precision,
                      auto="true" if auto else None)
    _reconstruct(recipe or recipe_option or "", input, output, overrides, resume=resume,
                 overwrite=overwrite)


@app.command()
@guarded
def plan(
    recipe: Recipe,
    input: Annotated[  # noqa: A002
        Path | None, typer.Option("--input", "-i", help="The file to use instead of the recipe's.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Device = None,
    precision: Precision = None,
    overrides: Overrides = None,
) -> None:
    """Estimate time and memory of a recipe, from three steps of each method on a few slices."""
    from medinv.recipe.load import load_reconstruct_recipe
    from medinv.recipe.run import plan_recipe

    overrides = _with(overrides, device=device, precision=precision)
    cost = plan_recipe(load_reconstruct_recipe(recipe, overrides), input)
    if json:
        listing.print_json(cost.facts())
    else:
        listing.print_table("", {title: {"time": listing.duration(seconds)}
                                 for title, seconds in cost.seconds.items()})
        typer.echo(str(cost))


@app.command()
@guarded
def train(
    recipe: Annotated[str, typer.Argument(help="A training recipe's name or path.",
                                          autocompletion=names.recipes)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run; runs/<name> if not "
                                  "given. It ends up with <name>.safetensors and its .json.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in that folder.")]
    = False,
    precision: Precision = None,
    overrides: Overrides = None,
) -> None:
    """Train a prior as a recipe says; a killed run continues with --resume."""
    from medinv.cli.progress import updates
    from medinv.recipe.load import load_train_recipe
    from medinv.recipe.training import train_recipe

    overrides = _with(overrides, **{"training.precision": precision})
    loaded = load_train_recipe(recipe, overrides)
    folder = output or Path("runs") / loaded.name
    with updates(loaded.training.updates) as on_update:
        path = train_recipe(loaded, folder, resume=resume, on_update=on_update)
    typer.echo(f"{path}\nUse it in a recipe, or with --set prior={path}")


@app.command()
@guarded
def evaluate(
    reconstruction: Annotated[Path, typer.Argument(help="NIfTI, NRRD, MetaImage, DICOM (a folder, "
                                                   "too) or .npy.")],
    reference: Annotated[Path, typer.Argument(help="The same, on the same grid.")],
    mask: Annotated[
        Path | None, typer.Option("--mask", help="The same: voxels above 0 count; all if not "
                                  "given.")
    ] = None,
    hu: Annotated[
        bool, typer.Option("--hu", help="The volumes are CT in HU: compare attenuations.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a reconstruction with a reference: PSNR, SSIM, NRMSE.

    The data range is the maximum of the reference volume; images are not rescaled.
    """
    from medinv.recipe.evaluate import evaluate_files

    metrics = evaluate_files(reconstruction, reference, mask, hu=hu)
    if json:
        listing.print_json(metrics)
    else:
        listing.print_table("", {"": metrics})


@app.command()
@guarded
def deidentify(
    source: Annotated[Path, typer.Argument(help="DICOM: a folder, zip, DICOMDIR or file.")],
    output: Annotated[Path, typer.Argument(help="A new folder.")],
    salt: Annotated[
        str | None, typer.Option("--salt", envvar="MEDINV_SALT", help="A secret text; the same "
                                 "one gives the same new UIDs and patients. Random if not given.")
    ] = None,
    allow_burned_in: Annotated[
        bool, typer.Option("--allow-burned-in", help="Copy images that may have text in their "
                           "pixels; look at them.")
    ] = False,
) -> None:
    """Copy DICOM series without what identifies the patient (PS3.15 Basic Profile).

    Faces and text in the pixels stay: look at what you publish.
    """
    from medinv.data.dicom.deidentify import deidentify

    report = deidentify(source, output, salt=salt, allow_burned_in=allow_burned_in)
    for line in report.series:
        typer.echo(line)
    typer.echo(f"{report.n_patients} patients, {report.n_left_out} files left out")
    typer.echo(f"{'report':>15}  {output / 'report.json'}")


@app.command()
@guarded
def deface(
    source: Annotated[Path, typer.Argument(help="A head: NIfTI, or a DICOM series.")],
    output: Annotated[Path, typer.Argument(help="A .nii.gz file.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file.")] = False,
) -> None:
    """Mask the face of an adult's head, crudely, and write NIfTI.

    A plane in front of the brain, placed by the head's size; no protection that was measured.
    """
    from medinv.data import read_volume, write_nifti
    from medinv.data.defacing import deface
    from medinv.data.ownership import check_free

    check_free(output, overwrite=overwrite)
    write_nifti(deface(read_volume(source)), output)
    typer.echo(str(output))


@app.command("check-operator")
@guarded
def check_operator(
    recipe: Recipe,
    input: Annotated[  # noqa: A002
        Path | None, typer.Option("--input", "-i", help="The file to use instead of the recipe's.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    overrides: Overrides = None,
) -> None:
    """Prove a recipe's measurement operator: adjoint, gradients, batch, norm, time, memory.

    The table is Markdown. Exit code 1 if a property does not hold.
    """
    from medinv.operators import check
    from medinv.recipe.load import load_reconstruct_recipe
    from medinv.recipe.run import measure_recipe

    measured = measure_recipe(load_reconstruct_recipe(recipe, overrides or ()), input)
    report = check(measured.A)
    if json:
        listing.print_json(report.facts())
    else:
        typer.echo(str(report))
    if not report.passed:
        raise typer.Exit(1)


def _with(overrides: list[str] | None, **options: str | None) -> list[str]:
    """The overrides, and those options that were given."""
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    return [*(overrides or ()), *given]


def _reconstruct(
    name: str, source: Path | None, output: Path, overrides: list[str] | None, *, resume: bool,
    overwrite: bool,
) -> None:
    from medinv.cli.progress import stages
    from medinv.recipe.load import load_reconstruct_recipe
    from medinv.recipe.outputs import run_into

    recipe = load_reconstruct_recipe(name, overrides or ())
    with stages() as on_progress:
        run, files = run_into(output, recipe, source, on_progress, resume=resume,
                              overwrite=overwrite)
    for line in (run.measured.origin, *run.measured.notes):
        typer.echo(without_folders(f"{line[0].upper()}{line[1:]}."), err=True)
    listing.print_table(recipe.description or recipe.name, run.metrics())
    for role, path in files.items():
        typer.echo(f"{role:>15}  {path}")


importing.add_to(app)
listing.add_to(app)


def main() -> None:
    """The console script."""
    keep_memory()
    app()
