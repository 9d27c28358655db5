"""Run a recipe: measure, reconstruct with every method, and say what each one cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from medinv.data import Volume
from medinv.data.checksums import digest
from medinv.errors import InputError
from medinv.evaluation.metrics import measurement_residual, nrmse, psnr, ssim
from medinv.priors import Prior
from medinv.recipe import ct, ct_file, mri, thick_slices
from medinv.recipe.load import load_reconstruct_recipe
from medinv.recipe.measurement import Measured
from medinv.recipe.prior import build_prior
from medinv.recipe.schema import (
    CTFile,
    CTSimulated,
    KSpaceSource,
    Measurement,
    MRIFile,
    ProjectionSource,
    ReconstructRecipe,
    ThickSlices,
    VolumeSource,
)
from medinv.recipe.settings import SolverSettings, needs_prior
from medinv.resources import measure


@dataclass(frozen=True)
class Progress:
    """What `reconstruct` reports.

    Attributes:
        stage: what is being done, for people.
        step: steps done.
        steps: steps in all; None where that is not known beforehand.
    """

    stage: str
    step: int
    steps: int | None


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, eq=False)
class Method:
    """One method's image, in physical units (1/mm for CT), and what it cost."""

    image: Tensor
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, eq=False)
class Run:
    """The result of a recipe.

    Attributes:
        recipe: what was run.
        measured: what it was run on.
        methods: by title: the baselines in their order, then the solver; a solver that was
            sampled several times appears as ``title, one sample`` and ``title, mean of n``.
        title: the method that is the recipe's result.
    """

    recipe: ReconstructRecipe
    measured: Measured
    methods: Mapping[str, Method]
    title: str

    def volume(self, title: str | None = None) -> Volume:
        """The result, or another method's, in output units (HU for CT; MRI by magnitude)."""
        volume = self.measured.to_volume(self.methods[title or self.title].image)
        if volume.data.is_complex() and not self.recipe.output.complex_values:
            volume = volume.with_data(volume.data.abs())
        return volume

    def metrics(self) -> dict[str, dict[str, float]]:
        """Method to metric to value; image quality only where a reference is known."""
        return {title: self._metrics(method) for title, method in self.methods.items()}

    def _metrics(self, method: Method) -> dict[str, float]:
        measured, reference = self.measured, self.measured.reference
        quality = {} if reference is None else {
            "PSNR (dB)": psnr(method.image, reference),
            "SSIM": ssim(method.image, reference),
            "NRMSE": nrmse(method.image, reference),
        }
        return quality | {
            "residual": measurement_residual(method.image, measured.y, measured.A),
            "seconds": method.seconds,
            "peak memory (GiB)": method.peak_bytes / 2**30,
        }


def reconstruct(
    input: str | Path | None = None,  # noqa: A002
    *,
    recipe: str | Path | ReconstructRecipe,
    output: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, object] = (),
    on_progress: OnProgress | None = None,
) -> Volume:
    """Reconstruct a volume, as a recipe says.

    Args:
        input: the file to reconstruct (or, for simulated measurements, to simulate from); the
            recipe's own data if None.
        recipe: a packaged recipe's name (`medinv recipes list`), a path, or a validated recipe.
        output: a ``.nii.gz`` file for the volume, or a folder for all outputs; None to write none.
        overrides: ``{"solver.steps": 20}`` or ``["solver.steps=20"]``.
        on_progress: called after every step of a solver.

    Returns:
        The volume: HU for CT, magnitudes for MRI (complex with ``output.complex_values``).

    Raises:
        InputError: a wrong recipe or file; its subclasses say which.
        OutputError: an output could not be written.
        DownloadError: a data set could not be fetched.
    """
    from medinv.recipe.outputs import check_output, write_outputs

    if not isinstance(recipe, ReconstructRecipe):
        recipe = load_reconstruct_recipe(recipe, overrides)
    elif overrides:
        raise InputError("overrides: a validated recipe is passed; change it with model_copy")
    if output is not None:
        check_output(output)
    run = run_recipe(recipe, input, on_progress)
    if output is not None:
        write_outputs(run, output)
    return run.volume()


def run_recipe(
    recipe: ReconstructRecipe,
    input: str | Path | None = None,  # noqa: A002
    on_progress: OnProgress | None = None,
) -> Run:
    """Measure and reconstruct; writes nothing. Arguments and errors as for `reconstruct`."""
    report = on_progress or _ignore
    report(Progress("reading and simulating the data", 0, None))
    prior = None if recipe.prior is None else build_prior(recipe.prior)
    measured = measure_recipe(recipe, None if input is None else Path(input))
    if prior is not None:
        prior.check(measured.A)
    recipe.solver.build(measured.noise_std)  # a wrong setting fails before the baselines run
    methods = {
        settings.title: _solve(settings, measured, prior, recipe.seed, settings.title, report)
        for settings in recipe.baselines
    }
    main, n_samples = recipe.solver, recipe.samples
    if n_samples == 1:
        methods[main.title] = _solve(main, measured, prior, recipe.seed, main.title, report)
        return Run(recipe, measured, methods, main.title)
    first, mean = _sample(main, measured, prior, recipe, report)
    title = f"{main.title}, mean of {n_samples}"
    methods |= {f"{main.title}, one sample": first, title: mean}
    return Run(recipe, measured, methods, title)


def measure_recipe(recipe: ReconstructRecipe, path: Path | None = None) -> Measured:
    """The measurement of a recipe; ``path`` replaces the recipe's own file or data set."""
    block = recipe.measurement
    if isinstance(block, CTSimulated):
        measured = ct.measure(block, path, recipe.seed)
    elif isinstance(block, CTFile):
        measured = ct_file.measure(block, path)
    elif isinstance(block, MRIFile):
        measured = mri.measure_file(block, path)
    elif isinstance(block, ThickSlices):
        measured = thick_slices.measure(block, path, recipe.seed)
    else:
        measured = mri.measure_simulated(block, path, recipe.seed)
    own = _source(block).path
    source = path or (Path(own) if own else None)
    if source is None:
        return measured
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    checksum = digest(file for file in files if file.is_file())
    return replace(measured, facts={**measured.facts, "input_sha256": checksum})


def _source(block: Measurement) -> VolumeSource | KSpaceSource | ProjectionSource:
    """Where the data of a measurement come from."""
    if isinstance(block, CTFile):
        return block.projections
    return block.kspace if isinstance(block, MRIFile) else block.volume


def _sample(settings: SolverSettings, measured: Measured, prior: Prior | None,
            recipe: ReconstructRecipe, report: OnProgress) -> tuple[Method, Method]:
    """The first sample and the mean of all, with the seeds ``seed, seed + 1``..."""
    first: Method | None = None
    total, seconds, peak = torch.zeros(()), 0.0, 0
    for i in range(recipe.samples):
        stage = f"{settings.title}, sample {i + 1} of {recipe.samples}"
        one = _solve(settings, measured, prior, recipe.seed + i, stage, report)
        first = first or one
        total = total + one.image
        seconds, peak = seconds + one.seconds, max(peak, one.peak_bytes)
    if first is None:
        raise InputError(f"samples: expected at least 1, got {recipe.samples}")
    return first, Method(total / recipe.samples, seconds, peak)


def _solve(settings: SolverSettings, measured: Measured, prior: Prior | None, seed: int,
           stage: str, report: OnProgress) -> Method:
    solver = settings.build(measured.noise_std)
    steps = settings.steps
    report(Progress(stage, 0, steps))

    def on_step(i: int, _: Tensor) -> None:
        report(Progress(stage, i + 1, steps))

    with measure() as cost:
        if needs_prior(settings):
            rng = Generator().manual_seed(seed)
            image = solver(measured.y, measured.A, prior, rng=rng, on_step=on_step)
        else:
            image = solver(measured.y, measured.A, on_step=on_step)
    return Method(image, cost.seconds, cost.peak_bytes)


def _ignore(_: Progress) -> None:
    """The progress that nobody watches."""
