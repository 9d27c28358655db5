"""Run a recipe: measure, reconstruct with every method, and say what each one cost."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from medinv.arguments import checked
from medinv.data import Volume
from medinv.data.ownership import open_own
from medinv.data.volume import sizes
from medinv.errors import InputError, MedinvWarning, NumericalError
from medinv.evaluation.metrics import measurement_residual, nrmse, psnr, ssim
from medinv.priors import Prior
from medinv.priors.batches import limit_chunks, raise_chunks
from medinv.priors.edm import set_precision, used_precision
from medinv.priors.precision import DTYPES, default_dtype
from medinv.recipe import ct, ct_file, mri, thick_slices
from medinv.recipe.auto import choose
from medinv.recipe.blocks import (
    CTFile,
    CTSimulated,
    KSpaceSource,
    Measurement,
    MRIFile,
    ProjectionSource,
    ThickSlices,
    VolumeSource,
)
from medinv.recipe.inputs import Input, given
from medinv.recipe.load import load_reconstruct_recipe
from medinv.recipe.measurement import Measured
from medinv.recipe.pixels import at_spacing, pixel_notes
from medinv.recipe.plan import Plan, plan
from medinv.recipe.prior import build_prior, condition
from medinv.recipe.resume import Clock, snapshots_of
from medinv.recipe.schema import ReconstructRecipe
from medinv.recipe.settings import SolverSettings, needs_prior, sample_titles
from medinv.recipe.told import checksum_of, checksum_of_data
from medinv.recipe.unexplained import unexplained
from medinv.resources import choose_device, measure
from medinv.samplers.snapshots import Snapshots


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


Role = Literal["result", "sample", "baseline"]
OnProgress = Callable[[Progress], None]
_MORE_AT_ONCE = 8  # images in a CUDA device's network, times those in the CPU's


@dataclass(frozen=True, eq=False)
class Method:
    """One method's image, in physical units (1/mm for CT), and what it cost.

    Attributes:
        image: (z, y, x).
        seconds: wall-clock time.
        peak_bytes: most memory beyond what was held before.
        role: what it is in the run: the ``result``, one ``sample`` of those that the result is
            the mean of, or a ``baseline``.
    """

    image: Tensor
    seconds: float
    peak_bytes: int
    role: Role

    def __repr__(self) -> str:
        """The image's shape and the cost; not its voxels."""
        return f"Method({self.role}, {sizes(self.image)}, {self.seconds:.3g} s)"


@dataclass(frozen=True, eq=False)
class Run:
    """The result of a recipe.

    Attributes:
        recipe: what was run.
        measured: what it was run on.
        methods: by title: the baselines in their order, then the solver; a solver that was
            sampled several times appears as ``title, one sample`` and ``title, mean of n``.
        title: the method that is the recipe's result.
        precision: what the prior's networks computed in; None if it has none.
    """

    recipe: ReconstructRecipe
    measured: Measured
    methods: Mapping[str, Method]
    title: str
    precision: str | None = None

    def __repr__(self) -> str:
        """The methods, and what they saw."""
        return f"Run({self.recipe.name}, {dict(self.methods)}, {self.measured.origin})"

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
        image = measured.compared(method.image)
        quality = {} if reference is None else {
            "PSNR (dB)": psnr(image, reference),
            "SSIM": ssim(image, reference),
            "NRMSE": nrmse(image, reference),
        }
        return quality | {
            "residual": measurement_residual(method.image.to(measured.y.device), measured.y,
                                             measured.A),
            "seconds": method.seconds,
            "peak memory (GiB)": method.peak_bytes / 2**30,
        }


@checked
def reconstruct(
    input: Input | None = None,  # noqa: A002
    *,
    recipe: str | Path | ReconstructRecipe,
    output: str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, object] = (),
    on_progress: OnProgress | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Volume:
    """Reconstruct a volume, as a recipe says.

    Args:
        input: what to reconstruct (or, for simulated measurements, to simulate from): a file's
            path, `KSpace`, `NonCartesianKSpace`, `Sinogram`, `Volume`, or an array or tensor, see
            `medinv.recipe.inputs`; the recipe's own data if None.
        recipe: a packaged recipe's name (`medinv recipes list`), a path, or a validated recipe.
        output: a ``.nii.gz`` file for the volume, or a folder for all outputs; None to write none.
        overrides: ``{"solver.steps": 20}`` or ``["solver.steps=20"]``.
        on_progress: called after every step of a solver.
        resume: continue the interrupted run that was to write ``output``, to the same result.
        overwrite: replace the results of an earlier run in ``output``.

    Returns:
        The volume: HU for CT, magnitudes for MRI (complex with ``output.complex_values``).

    Raises:
        InputError: a wrong recipe or file; its subclasses say which.
        NumericalError: the image is no longer finite; the step is named, and nothing is written.
        CheckpointError: what is to be resumed is a run of another recipe, input or prior.
        OutputError: an output could not be written, or something is there that may not be
            replaced.
        DownloadError: a data set could not be fetched.
    """
    from medinv.recipe.outputs import run_into

    if not isinstance(recipe, ReconstructRecipe):
        recipe = load_reconstruct_recipe(recipe, overrides)
    elif overrides:
        raise InputError("overrides: a validated recipe is passed; change it with model_copy")
    if output is None:
        if resume:
            raise InputError("resume: pass the output of the run that was interrupted")
        return run_recipe(recipe, input, on_progress).volume()
    run, _ = run_into(output, recipe, input, on_progress, resume=resume, overwrite=overwrite)
    return run.volume()


def run_recipe(
    recipe: ReconstructRecipe,
    input: Input | None = None,  # noqa: A002
    on_progress: OnProgress | None = None,
    *,
    unfinished: Path | None = None,
) -> Run:
    """Measure and reconstruct; writes no outputs. Arguments and errors as for `reconstruct`.

    With ``unfinished``, a folder, what is done is kept there, and what is there is not done again.
    """
    report = on_progress or _ignore
    report(Progress("reading and simulating the data", 0, None))
    measured, prior = _problem(recipe, input)
    snapshots = None
    if unfinished is not None:
        open_own(unfinished)
        snapshots = snapshots_of(unfinished, recipe, measured, prior)
    recipe, measured = _prepare(recipe, measured, prior, snapshots, report)
    precision = None if prior is None else used_precision(prior, measured.y.device)
    task = _Task(measured, prior, report, snapshots)
    methods = {
        settings.title: task.solve(settings, recipe.seed, settings.title, "baseline")
        for settings in recipe.baselines
    }
    main, n_samples = recipe.solver, recipe.samples
    if n_samples == 1:
        title = main.title
        methods[title] = task.solve(main, recipe.seed, title, "result")
    else:
        first, mean = _sample(task, recipe)
        one, title = sample_titles(main.title, n_samples)
        methods |= {one: first, title: mean}
    images = {name: method.image for name, method in methods.items()}
    notes = (*measured.notes, *unexplained(measured, images))
    return Run(recipe, replace(measured, notes=notes), methods, title, precision)


def measure_recipe(recipe: ReconstructRecipe,
                   input: Input | None = None) -> Measured:  # noqa: A002
    """The measurement of a recipe; ``input`` replaces the recipe's own file or data set."""
    block = recipe.measurement
    path: Any = given(input, block)  # of the kind that the block takes
    if isinstance(block, CTSimulated):
        measured = ct.measure(block, path, recipe.seed)
    elif isinstance(block, CTFile):
        measured = ct_file.measure(block, path)
    elif isinstance(block, MRIFile):
        measured = mri.measure_file(block, path, recipe.seed)
    elif isinstance(block, ThickSlices):
        measured = thick_slices.measure(block, path, recipe.seed)
    else:
        measured = mri.measure_simulated(block, path, recipe.seed)
    source = own_path(recipe) if path is None else path
    if source is None:
        return measured
    checksum = checksum_of(source) if isinstance(source, Path) else checksum_of_data(source.data)
    return replace(measured, facts={**measured.facts, "input_sha256": checksum})


def own_path(recipe: ReconstructRecipe) -> Path | None:
    """The file or folder that a recipe names; None where it names a data set or a phantom."""
    return Path(path) if (path := _source(recipe.measurement).path) else None


def _source(block: Measurement) -> VolumeSource | KSpaceSource | ProjectionSource:
    """Where the data of a measurement come from."""
    if isinstance(block, CTFile):
        return block.projections
    return block.kspace if isinstance(block, MRIFile) else block.volume


@dataclass(frozen=True, eq=False)
class _Task:
    """What every method of a run shares."""

    measured: Measured
    prior: Prior | None
    report: OnProgress
    snapshots: Snapshots | None

    def solve(self, settings: SolverSettings, seed: int, stage: str, role: Role) -> Method:
        """Run one method, go on with it, or tell its result from before."""
        if self.snapshots is None:
            return self._compute(settings, seed, stage, role, None)
        name = f"method-{hashlib.sha256(stage.encode()).hexdigest()[:16]}"
        known = self.snapshots.load(name)
        if known is not None:
            return Method(**known)
        steps = self.snapshots.part(name)
        method = self._compute(settings, seed, stage, role, steps)
        self.snapshots.save(name, vars(method))
        steps.clear()
        return method

    def _compute(self, settings: SolverSettings, seed: int, stage: str, role: Role,
                 snapshots: Snapshots | None) -> Method:
        measured, steps, clock = self.measured, settings.steps, Clock()
        solver = settings.build()
        self.report(Progress(stage, 0, steps))

        def on_step(i: int, x: Tensor) -> None:
            _check_finite(x, f"{stage}, step {i + 1}{f' of {steps}' if steps else ''}")
            self.report(Progress(stage, i + 1, steps))

        with measure(measured.y.device) as cost:
            if needs_prior(settings):
                joined = None if snapshots is None else snapshots.joined_by(clock)
                image = solver(measured.problem, self.prior, on_step=on_step,
                               rng=Generator().manual_seed(seed), snapshots=joined)
            else:
                image = solver(measured.problem, on_step=on_step)
        _check_finite(image, stage)
        return Method(image.cpu(), clock.seconds(), cost.peak_bytes, role)


def _check_finite(x: Tensor, when: str) -> None:
    """Raise `NumericalError` before anything is made of an image with NaN or infinity."""
    n = x.numel() - int(x.isfinite().sum())
    if n:
        raise NumericalError(
            f"{when}: {n} of {x.numel()} values of the image are NaN or infinite, so nothing is "
            "written; the solver's weights may be too large, or the prior or operator broken")


def _problem(recipe: ReconstructRecipe,
             input: Input | None) -> tuple[Measured, Prior | None]:  # noqa: A002
    """The measurement and the prior; a wrong setting fails here, before anything is computed."""
    device = choose_device(recipe.device)
    prior = None if recipe.prior is None else build_prior(recipe.prior)
    measured = measure_recipe(recipe, input)
    if prior is not None:
        prior.check(measured.A)
        notes = () if recipe.prior is None else pixel_notes(recipe.prior, measured)
        measured = replace(measured, notes=(*notes, *measured.notes))
        for note in notes:
            warnings.warn(note.removeprefix("warning: "), MedinvWarning, stacklevel=2)
        prior = at_spacing(prior, measured)
        if recipe.context is not None:
            prior = condition(prior, recipe.context, measured)
    recipe.solver.check(measured.problem)
    if prior is not None:
        prior = prior.to(device)
        set_precision(prior, DTYPES[recipe.precision] or default_dtype(device))
        if device.type == "cuda":
            raise_chunks(prior, _MORE_AT_ONCE)
    return measured.to(device), prior


def _prepare(recipe: ReconstructRecipe, measured: Measured, prior: Prior | None,
             snapshots: Snapshots | None,
             report: OnProgress) -> tuple[ReconstructRecipe, Measured]:
    """Choose the weights, plan the run and say what it will cost.

    A run that goes on keeps the weights and the batch that it had.

    Returns:
        The recipe with its weights, and the measurement with what was chosen among its facts.
    """
    known = None if snapshots is None else snapshots.load("run")
    if known is None:
        known = dict[str, Any](auto=None)
        if recipe.auto:
            report(Progress("choosing weights on held-out data", 0, None))
            choice = choose(recipe.solver, measured, prior, recipe.seed)
            report(Progress(str(choice), 0, None))
            known["auto"] = {"solver": choice.solver.model_dump(), "weights": choice.weights,
                             "scores": choice.scores}
            recipe = recipe.model_copy(update={"solver": choice.solver})
        report(Progress("planning", 0, None))
        cost = plan(recipe, measured, prior)
        report(Progress(str(cost), 0, None))
        known["batch"] = cost.batch
        if snapshots is not None:
            snapshots.save("run", known)
    if prior is not None:
        limit_chunks(prior, known["batch"])
    auto = known["auto"]
    if auto is None:
        return recipe, measured
    solver = SolverSettings.model_validate(auto["solver"])
    facts = {"weights": auto["weights"], "held-out residual / noise": auto["scores"]}
    return (recipe.model_copy(update={"solver": solver}),
            replace(measured, facts={**measured.facts, "auto": facts}))


def plan_recipe(recipe: ReconstructRecipe, input: Input | None = None) -> Plan:  # noqa: A002
    """What a run will cost (see `medinv.recipe.plan`); arguments and errors as `reconstruct`."""
    return plan(recipe, *_problem(recipe, input))


def _sample(task: _Task, recipe: ReconstructRecipe) -> tuple[Method, Method]:
    """The first sample and the mean of all, with the seeds ``seed, seed + 1``..."""
    first: Method | None = None
    total, seconds, peak = torch.zeros(()), 0.0, 0
    for i in range(recipe.samples):
        stage = f"{recipe.solver.title}, sample {i + 1} of {recipe.samples}"
        one = task.solve(recipe.solver, recipe.seed + i, stage, "sample")
        first = first or one
        total = total + one.image
        seconds, peak = seconds + one.seconds, max(peak, one.peak_bytes)
    if first is None:
        raise InputError(f"samples: expected at least 1, got {recipe.samples}")
    return first, Method(total / recipe.samples, seconds, peak, "result")


def _ignore(_: Progress) -> None:
    """The progress that nobody watches."""
