"""What a run leaves behind: volumes, metrics, a figure and a report, each whole or not at all."""

from __future__ import annotations

import math
import shutil
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from medinv.data import Volume
from medinv.data.atomic import check_new_folder, replacing, write_json
from medinv.data.nifti import provenance_path, write_nifti
from medinv.errors import InputError
from medinv.evaluation.figure import comparison, gallery
from medinv.evaluation.report import Provenance, write_report
from medinv.recipe.load import recipe_hash, recipe_json
from medinv.recipe.prior import prior_title
from medinv.recipe.resume import unfinished_path
from medinv.recipe.run import OnProgress, Run, run_recipe
from medinv.recipe.schema import Output, ReconstructRecipe
from medinv.recipe.series import source_series, write_series

_NIFTI = (".nii", ".nii.gz")
_RESULT = "reconstruction"
REGION = "all voxels"


def check_output(output: str | Path, settings: Output) -> None:
    """Refuse an output name that cannot work before hours of computing, not after.

    Raises:
        InputError: a file where a folder is needed, or the other way round; a format that cannot
            hold what is asked for.
        OutputError: there is a DICOM series already.
    """
    path = Path(output)
    if settings.format == "dicom":
        if _is_volume(path) or settings.complex_values:
            raise InputError(f"{path}: expected a folder and real values for output.format=dicom; "
                             "choose another name, or output.format=nifti")
        check_new_folder(path / _RESULT)
    if _is_volume(path):
        if path.is_dir():
            raise InputError(f"{path}: expected a file name, found a folder; choose another name")
    elif path.exists() and not path.is_dir():
        raise InputError(
            f"{path}: expected a folder or a name that ends in .nii.gz, found a file; "
            "choose another name"
        )


def run_into(
    output: str | Path,
    recipe: ReconstructRecipe,
    input: str | Path | None = None,  # noqa: A002
    on_progress: OnProgress | None = None,
    *,
    resume: bool = False,
) -> tuple[Run, dict[str, Path]]:
    """Run a recipe and write its outputs; what an interrupted run had done is kept for the next.

    Args:
        output: see `write_outputs`.
        recipe: what to run.
        input: the file to use instead of the recipe's.
        on_progress: called after every step of a solver.
        resume: go on where the last run into ``output`` was interrupted, if one was; else anew.

    Raises:
        CheckpointError: that was a run of another recipe, input or prior.
    """
    check_output(output, recipe.output)
    unfinished = unfinished_path(output)
    if not resume:
        shutil.rmtree(unfinished, ignore_errors=True)
    run = run_recipe(recipe, input, on_progress, unfinished=unfinished)
    files = write_outputs(run, output, None if input is None else Path(input))
    shutil.rmtree(unfinished, ignore_errors=True)
    return run, files


def write_outputs(
    run: Run, output: str | Path, source: Path | None = None
) -> dict[str, Path]:
    """Write a run: the volume where ``output`` ends in ``.nii[.gz]``, else a folder.

    How the volume came about stands beside it: its name with ``.json``, or ``metrics.json``.

    Args:
        run: what to write.
        output: a file or a folder.
        source: the file that was used instead of the recipe's; a DICOM result belongs to its
            patient and study.

    Returns:
        The files, by what they are.

    Raises:
        OutputError: a file could not be written; nothing is left under its name.
    """
    path = Path(output)
    if _is_volume(path):
        write_nifti(run.volume(), path, provenance=_facts(run, run.metrics()))
        return {"reconstruction": path, "provenance": provenance_path(path)}
    files = _write_volumes(run, path, source)
    metrics = run.metrics()
    files["metrics"] = path / "metrics.json"
    write_json(files["metrics"], _facts(run, metrics))
    if run.recipe.output.figure or run.recipe.output.report:
        png = draw(run)
        if run.recipe.output.figure:
            files["figure"] = path / "figure.png"
            with replacing(files["figure"]) as temporary:
                temporary.write_bytes(png)
        if run.recipe.output.report:
            files["report"] = path / "report.html"
            title = run.recipe.description or run.recipe.name
            notes = (_sentence(run.measured.origin), *map(_sentence, run.measured.notes))
            write_report(files["report"], title, png, metrics, _provenance(run), notes)
    return files


def draw(run: Run) -> bytes:
    """Three planes as PNG: with errors where a reference is known, else the methods alone."""
    reference = run.measured.reference
    shown = [title for title in run.methods if not title.endswith("one sample")]
    images = {title: run.methods[title].image for title in shown}
    first = next(iter(images.values()))
    if reference is not None:
        return comparison(_physical(run, reference), images)
    grid = _physical(run, first)
    return gallery({title: grid.with_data(image) for title, image in images.items()})


def _physical(run: Run, image: Tensor) -> Volume:
    """A volume that keeps physical units (1/mm for CT), in which air is 0."""
    return run.measured.to_volume(image).with_data(image)


def _write_volumes(run: Run, folder: Path, source: Path | None) -> dict[str, Path]:
    titles = {_RESULT: run.title}
    for title in run.methods:
        if title.endswith(", one sample"):
            titles["one sample"] = title
    if run.recipe.output.baselines:
        titles |= {settings.title: settings.title for settings in run.recipe.baselines}
    files = {}
    for role, title in titles.items():
        volume, path = run.volume(title), folder / _slug(role)
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
        "methods": finite,
        "region": REGION,
        "measurement": {"origin": run.measured.origin, **run.measured.facts},
        "unit": run.measured.unit,
        "notes": list(run.measured.notes),
        "recipe_sha256": recipe_hash(run.recipe),
        "recipe": recipe_json(run.recipe),
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
        settings={
            **facts, "region of interest": REGION, "prior": prior_title(recipe.prior),
            "recipe sha256": recipe_hash(recipe),
        },
    )


def _is_volume(path: Path) -> bool:
    return path.name.endswith(_NIFTI)


def _slug(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
