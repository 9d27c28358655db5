"""What a run leaves behind: volumes, metrics, a figure and a report, each whole or not at all."""

from __future__ import annotations

import json
import math
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from medinv.data.atomic import replacing, write_json
from medinv.data.nifti import provenance_path, write_nifti
from medinv.data.ownership import (
    check_claim,
    check_free,
    check_own,
    claim,
    clear_own,
    is_own,
    record,
)
from medinv.errors import InputError, OutputError
from medinv.evaluation.figure import AIR_HU, Scale, comparison, gallery
from medinv.evaluation.report import Provenance, write_report
from medinv.privacy import without_folders
from medinv.recipe.inputs import Input, given
from medinv.recipe.load import recipe_hash
from medinv.recipe.prior import prior_title
from medinv.recipe.resume import unfinished_path
from medinv.recipe.run import OnProgress, Run, own_path, run_recipe
from medinv.recipe.schema import ReconstructRecipe
from medinv.recipe.series import source_series, write_series
from medinv.recipe.settings import SolverSettings
from medinv.recipe.told import told_facts, told_recipe

_NIFTI = (".nii", ".nii.gz")
_RESULT, _SAMPLE = "reconstruction", "one-sample"
_METRICS, _FIGURE, _REPORT = "metrics.json", "figure.png", "report.html"
REGION = "all voxels"


def check_output(output: str | Path, recipe: ReconstructRecipe, *, overwrite: bool = False,
                 resume: bool = False) -> None:
    """Refuse an output that cannot work before hours of computing, not after.

    Raises:
        InputError: a file where a folder is needed, or the other way round; a format that cannot
            hold what is asked for.
        OutputError: there are files of the user's, or of an earlier run, that would be replaced.
    """
    path, settings = Path(output), recipe.output
    if settings.format == "dicom" and (_is_volume(path) or settings.complex_values):
        raise InputError(f"{path}: expected a folder and real values for output.format=dicom; "
                         "choose another name, or output.format=nifti")
    if _is_volume(path):
        if path.is_dir():
            raise InputError(f"{path}: expected a file name, found a folder; choose another name")
    elif path.exists() and not path.is_dir():
        raise InputError(
            f"{path}: expected a folder or a name that ends in .nii.gz, found a file; "
            "choose another name"
        )
    unfinished = unfinished_path(path)
    check_own(unfinished)
    _check_names(path, recipe, replace=overwrite or (resume and is_own(unfinished)))


def _check_names(path: Path, recipe: ReconstructRecipe, *, replace: bool) -> None:
    if not _is_volume(path):
        check_claim(path, output_names(recipe), replace=replace)
        return
    check_free(path, overwrite=replace)
    beside = provenance_path(path)
    if beside.exists() and not _is_provenance(beside):
        raise OutputError(f"{beside}: would be written beside the volume, but such a file is "
                          "there that no run of medinv wrote; choose another name")
    check_free(beside, overwrite=replace)


def _is_provenance(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"medinv", "recipe_sha256"} <= set(content)


def output_names(recipe: ReconstructRecipe) -> list[str]:
    """What a run of the recipe writes into its folder; the name of a series' folder ends in /."""
    settings = recipe.output
    volumes = [_RESULT, *([_SAMPLE] if recipe.samples > 1 else [])]
    volumes += [solver.slug for solver in recipe.baselines if settings.baselines]
    suffixes = ("/", ".json") if settings.format == "dicom" else (".nii.gz",)
    names = [name + suffix for name in volumes for suffix in suffixes]
    names += [_METRICS, *([_FIGURE] if settings.figure else [])]
    return [*names, *([_REPORT] if settings.report else [])]


def run_into(
    output: str | Path,
    recipe: ReconstructRecipe,
    input: Input | None = None,  # noqa: A002
    on_progress: OnProgress | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> tuple[Run, dict[str, Path]]:
    """Run a recipe and write its outputs; what an interrupted run had done is kept for the next.

    Args:
        output: see `write_outputs`.
        recipe: what to run.
        input: the file or the data to use instead of the recipe's.
        on_progress: called after every step of a solver.
        resume: go on where the last run into ``output`` was interrupted, if one was; else anew.
        overwrite: replace the results of an earlier run; they stay until the new ones are there.

    Raises:
        CheckpointError: that was a run of another recipe, input or prior.
        OutputError: there are files of the user's, or results and no leave to replace them.
    """
    check_output(output, recipe, overwrite=overwrite, resume=resume)
    unfinished = unfinished_path(output)
    replace = overwrite or (resume and is_own(unfinished))
    if not resume:
        clear_own(unfinished)
    run = run_recipe(recipe, input, on_progress, unfinished=unfinished)
    source = own_path(recipe) if input is None else given(input, recipe.measurement)
    file = source if isinstance(source, Path) else None
    files = write_outputs(run, output, file, replace=replace)
    clear_own(unfinished)
    return run, files


def write_outputs(
    run: Run, output: str | Path, source: Path | None = None, *, replace: bool = False
) -> dict[str, Path]:
    """Write a run: the volume where ``output`` ends in ``.nii[.gz]``, else a folder.

    How the volume came about stands beside it: its name with ``.json``, or ``metrics.json``. What
    was written into a folder is listed there, so that `replace` knows what it may remove.

    Args:
        run: what to write.
        output: a file or a folder.
        source: the file that was used; a DICOM result belongs to its patient and study.
        replace: remove the files of an earlier run first.

    Returns:
        The files, by what they are.

    Raises:
        OutputError: a file could not be written, and nothing is left under its name; or the
            user's files are there.
    """
    path, metrics = Path(output), run.metrics()
    if _is_volume(path):
        _check_names(path, run.recipe, replace=replace)
        write_nifti(run.volume(), path, provenance=_facts(run, metrics))
        return {"reconstruction": path, "provenance": provenance_path(path)}
    names = output_names(run.recipe)
    claim(path, names, replace=replace)
    files = _write_volumes(run, path, source)
    record(path, {*names, *_inside(path, files)})
    files["metrics"] = path / _METRICS
    write_json(files["metrics"], _facts(run, metrics))
    if run.recipe.output.figure or run.recipe.output.report:
        png = draw(run)
        if run.recipe.output.figure:
            files["figure"] = path / _FIGURE
            with replacing(files["figure"]) as temporary:
                temporary.write_bytes(png)
        if run.recipe.output.report:
            files["report"] = path / _REPORT
            title = run.recipe.description or run.recipe.name
            notes = [_sentence(without_folders(text))
                     for text in (run.measured.origin, *run.measured.notes)]
            write_report(files["report"], title, png, metrics, _provenance(run), notes)
    return files


def _inside(folder: Path, files: dict[str, Path]) -> list[str]:
    """The files of the series that were written."""
    return [item.relative_to(folder).as_posix() for path in files.values() if path.is_dir()
            for item in path.rglob("*") if item.is_file()]


def draw(run: Run) -> bytes:
    """Three planes as PNG: with errors where a reference is known, else the methods alone."""
    volumes = {title: run.volume(title) for title, method in run.methods.items()
               if method.role != "sample"}
    scale = Scale(AIR_HU, "HU") if run.measured.unit == "HU" else Scale(0.0, _unit(run))
    if run.measured.reference is None:
        return gallery(volumes, scale)
    reference = run.measured.to_volume(run.measured.reference)
    shown = {title: run.measured.compared(v.data) for title, v in volumes.items()}
    return comparison(reference, shown, scale)


def _unit(run: Run) -> str:
    """The unit that a figure names: magnetic resonance has none."""
    return run.measured.unit if run.measured.unit == "1/mm" else ""


def _write_volumes(run: Run, folder: Path, source: Path | None) -> dict[str, Path]:
    titles = {}
    for title, method in run.methods.items():
        if method.role != "baseline":
            titles[_RESULT if method.role == "result" else _SAMPLE] = title
    if run.recipe.output.baselines:
        titles |= {settings.slug: settings.title for settings in run.recipe.baselines}
    files = {}
    for role, title in titles.items():
        volume, path = run.volume(title), folder / role
        if run.recipe.output.format == "dicom":
            series = source_series(run.recipe, source)
            files[role] = write_series(volume, path, title, run.recipe, run.measured, series)
        else:
            files[role] = path.with_name(f"{path.name}.nii.gz")
            volume.to_nifti(files[role])
    return files


def _facts(run: Run, metrics: dict[str, dict[str, float]]) -> dict[str, object]:
    finite = {
        title: {name: value if math.isfinite(value) else None for name, value in row.items()}
        for title, row in metrics.items()
    }
    return {
        "medinv": version("medinv"),
        "result": run.title,
        "roles": {title: method.role for title, method in run.methods.items()},
        "methods": finite,
        "region": REGION,
        "date": _today(),
        "measurement": {"origin": run.measured.origin,
                        **told_facts(run.measured.facts, run.recipe)},
        "unit": run.measured.unit,
        "precision": run.precision,
        "notes": [without_folders(note) for note in run.measured.notes],
        "recipe_sha256": recipe_hash(run.recipe),
        "recipe": told_recipe(run.recipe),
    }


def _provenance(run: Run) -> Provenance:
    recipe = run.recipe
    facts = {
        name: value for name, value in run.measured.facts.items()
        if isinstance(value, str | int | float)
    }
    return Provenance(
        version=version("medinv"), recipe=recipe.name, seed=recipe.seed,
        seconds={title: method.seconds for title, method in run.methods.items()},
        date=_today(), solvers=_solver_settings(run),
        settings={
            **facts, "region of interest": REGION, "prior": prior_title(recipe.prior),
            **({} if run.precision is None else {"precision": run.precision}),
            "recipe sha256": recipe_hash(recipe),
        },
    )


def _solver_settings(run: Run) -> dict[str, str]:
    """The settings of each method that ran, as a recipe writes them."""
    solvers = {solver.title: solver for solver in (*run.recipe.baselines, run.recipe.solver)}
    return {title: ", ".join([solver.name, *(f"{key} {_setting(value)}"
                                             for key, value in solver.fields.items())])
            for title, solver in solvers.items()}


def _setting(value: object) -> str:
    if isinstance(value, SolverSettings):
        return f"({value.name})"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _today() -> str:
    return datetime.now().astimezone().date().isoformat()


def _is_volume(path: Path) -> bool:
    return path.name.endswith(_NIFTI)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
