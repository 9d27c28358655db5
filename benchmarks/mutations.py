"""Which planted faults do the tests of their own room notice?

    python benchmarks/mutations.py --jobs 2
    python benchmarks/mutations.py --only ssim-biased

Each mutation changes one line in a copy of the source tree and runs the tests named beside it: it
is killed where they fail, and survives where they pass. Without a change they must pass, as
`--unchanged` shows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork has no threads of its parent's

import h5py  # noqa: E402, F401
import nibabel  # noqa: E402, F401
import numpy as np  # noqa: E402, F401
import pydantic  # noqa: E402, F401
import pydicom  # noqa: E402, F401
import pytest  # noqa: E402
import torch  # noqa: E402, F401

ROOT = Path(__file__).parents[1]
COPIED = ("medinv", "operators", "recipes", "data_manifests", "tests", "docs")
SECONDS = 900


@dataclass(frozen=True)
class Mutation:
    """One fault: ``old`` becomes ``new`` in ``file``, which ``tests`` should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = (
    Mutation("average-inverted", "medinv/training/loop.py", "average.lerp_(weight, share)",
             "average.lerp_(weight, 1 - share)", "tests/training/test_loop.py"),
    Mutation("raw-weights-returned", "medinv/training/loop.py",
             "average = cast(NetworkPrior, run.average.module)", "average = run.prior",
             "tests/training/test_loop.py"),
    Mutation("tpdm-zeta-of-a-volume", "medinv/solvers/tpdm.py",
             "zeta = self.zeta * math.sqrt(_slices_per_item(start, problem.A))",
             "zeta = self.zeta",
             "tests/solvers/test_volume_samplers.py"),
    Mutation("scd-returns-T", "medinv/solvers/scd.py", "D: Tensor = adapted(x_t, levels[-2])",
             "D: Tensor = T", "tests/solvers/test_adaptation.py"),
    Mutation("loss-sees-what-is-held-out", "medinv/guidance/adaptation.py",
             "(self.seen * (self.A(T) - y)).abs()", "(self.A(T) - y).abs()",
             "tests/solvers/test_adaptation.py"),
    Mutation("cg-without-rounding", "operators/linalg.py",
             "target = torch.maximum(tol**2 * size, rounding).detach()", "target = tol**2 * size",
             "tests/operators/test_linalg.py"),
    Mutation("cg-steps-of-all-items", "operators/linalg.py",
             "rr = _inner(r, r, batch_ndim)\n    rounding",
             "rr = _inner(r, r, batch_ndim).sum()\n    rounding",
             "tests/operators/test_linalg.py"),
    Mutation("complex-noise-too-small", "operators/linalg.py",
             "noise * math.sqrt(2) if like.is_complex() else noise", "noise",
             "tests/operators/test_linalg.py"),
    Mutation("gaussian-draw-weight", "operators/linalg.py", "weight = (sigma / rho) ** 2",
             "weight = sigma / rho", "tests/operators/test_linalg.py"),
    Mutation("fft-centre-of-odd-sizes", "operators/fourier.py",
             "spectrum.roll([spectrum.shape[a] // 2 for a",
             "spectrum.roll([(spectrum.shape[a] + 1) // 2 for a",
             "tests/operators/test_fourier.py"),
    Mutation("mri-adjoint-forgets-coils", "operators/mri.py",
             "images[batch, items] += _from_coils(maps, fourier.ifft(signal, axes))",
             "images[batch, items] = _from_coils(maps, fourier.ifft(signal, axes))",
             "tests/operators/test_mri.py"),
    Mutation("scaled-normal", "operators/base.py", "abs(self.factor) ** 2 * self.op._normal(x)",
             "abs(self.factor) * self.op._normal(x)",
             "tests/operators/test_operator_properties.py -k scaled"),
    Mutation("espirit-without-crop", "operators/coils.py",
             "        maps.mul_((values >= crop).unsqueeze(1))\n", "",
             "tests/operators/test_coils.py"),
    Mutation("transmission-sign", "operators/nonlinear.py",
             "_RealPart(self.A.codomain, -self.incident *",
             "_RealPart(self.A.codomain, self.incident *", "tests/operators/test_nonlinear.py"),
    Mutation("density-of-spokes", "operators/density.py", "(gaps + gaps.roll(1)) / 2", "gaps",
             "tests/operators/test_density.py"),
    Mutation("nifti-intercept", "medinv/data/nifti.py",
             "inter = float(np.float32((high + low) / 2))", "inter = float(np.float32(low))",
             "tests/data/test_nifti.py"),
    Mutation("nifti-qform-ignored", "medinv/data/nifti.py",
             "int(image.header[\"sform_code\"]) or int(image.header[\"qform_code\"])",
             "int(image.header[\"sform_code\"])", "tests/data/test_nifti.py"),
    Mutation("dicom-left-is-right", "medinv/data/dicom/stack.py",
             "np.diag([-1.0, -1.0, 1.0, 1.0])", "np.diag([1.0, -1.0, 1.0, 1.0])",
             "tests/data/dicom/test_dicom.py"),
    Mutation("dicom-spacing-swapped", "medinv/data/dicom/stack.py",
             "first.row * dx, first.col * dy, step", "first.row * dy, first.col * dx, step",
             "tests/data/dicom/test_dicom.py"),
    Mutation("dicom-philips-scale", "medinv/data/dicom/pixels.py",
             "intercept / (slope * frame.philips[0])", "intercept / frame.philips[0]",
             "tests/data/dicom/test_dicom.py"),
    Mutation("ismrmrd-centre-of-odd-sizes", "medinv/data/mri/ismrmrd.py",
             ".astype(np.int64) - centre + n // 2", ".astype(np.int64) - centre + (n - 1) // 2",
             "tests/data/mri/test_ismrmrd.py"),
    Mutation("ismrmrd-reversed-readouts", "medinv/data/mri/ismrmrd_lines.py",
             "nx // 2 - (n - 1 - centre) + after", "nx // 2 - (n - centre) + after",
             "tests/data/mri/test_ismrmrd.py"),
    Mutation("fastmri-other-reference", "medinv/data/mri/fastmri.py",
             "(\"reconstruction_rss\", \"reconstruction_esc\")", "(\"reconstruction_rss\",)",
             "tests/data/mri/test_fastmri.py"),
    Mutation("bart-trajectory-axes", "medinv/data/mri/bart_kspace.py",
             "points.real.double().flip(-1)", "points.real.double()",
             "tests/data/mri/test_bart.py"),
    Mutation("hu-below-air", "medinv/data/units.py", "(mu_water * (1 + hu / 1000)).clamp(min=0)",
             "mu_water * (1 + hu / 1000)",
             "tests/data/test_units_and_phantom.py medinv/data/units.py"),
    Mutation("edm-skip", "medinv/priors/edm.py", "return c_in, self.sigma_data**2 / total",
             "return c_in, self.sigma_data / total", "tests/priors/test_network_priors.py"),
    Mutation("mixture-of-complex-items", "medinv/priors/gaussian.py",
             "half = 1.0 if self.dtype.is_complex else 0.5", "half = 0.5",
             "tests/priors/test_gaussian.py"),
    Mutation("vp-noise-scale", "medinv/priors/adapters.py", "return x - level * out",
             "return x - signal * level * out", "tests/priors/test_foreign_adapters.py"),
    Mutation("guidance-turned", "medinv/priors/context.py",
             "torch.lerp(self._denoise(x, sigma, None), given, self.weight)",
             "torch.lerp(given, self._denoise(x, sigma, None), self.weight)",
             "tests/priors/test_context.py"),
    Mutation("product-of-any-weights", "medinv/priors/product.py",
             "out = x * (1 - sum(self.weights))", "out = 0 * x",
             "tests/solvers/test_volume_samplers.py -k product"),
    Mutation("planes-across-cut-off", "medinv/priors/slices.py",
             "if self.axis != -3:\n            return super().at_slices(x, sigma, index)",
             "pass", "tests/priors/test_network_priors.py"),
    Mutation("weights-of-nan", "medinv/priors/checkpoint.py",
             "if not bool(tensor.isfinite().all())]", "if False]",
             "tests/priors/test_network_priors.py -k finite"),
    Mutation("ddim-fresh-noise", "medinv/samplers/renoise.py",
             "sqrt(1 - (sigma_next / sigma) ** 2)", "sqrt(1 - sigma_next / sigma)",
             "tests/solvers/test_steps.py"),
    Mutation("langevin-step", "medinv/samplers/predictor_corrector.py",
             "2 * (snr * ratio).square()", "(snr * ratio).square()",
             "tests/solvers/test_steps.py"),
    Mutation("resumed-with-other-noise", "medinv/samplers/snapshots.py",
             "self._generator(x).set_state(known[\"rng\"])", "pass",
             "tests/solvers/test_snapshots.py"),
    Mutation("predictor-noise", "medinv/samplers/predictor_corrector.py", "alpha=removed**0.5",
             "alpha=removed", "tests/solvers/test_volume_samplers.py"),
    Mutation("dds-data-weight", "medinv/solvers/dds.py",
             "noise**2 / (prior.error_variance(sigma)", "noise / (prior.error_variance(sigma)",
             "tests/solvers/test_dds.py"),
    Mutation("tv-spacing", "medinv/solvers/tv.py", "tuple(min(spacing) / h for h in spacing)",
             "tuple(h / min(spacing) for h in spacing)", "tests/solvers/test_tv.py"),
    Mutation("fista-momentum", "medinv/solvers/l1_wavelet.py",
             "(t_previous - 1) / t * (x - previous)",
             "(t_previous - 1) / t_previous * (x - previous)",
             "tests/solvers/test_classical.py tests/solvers/test_pinned.py -k wavelet"),
    Mutation("coupling-limit", "medinv/solvers/coupling.py",
             "clip_magnitude(v, self.weight / self.rho)", "clip_magnitude(v, self.weight)",
             "tests/solvers/test_coupling.py"),
    Mutation("padis-drift", "medinv/solvers/padis.py", "x.lerp_(D, self.step / 2)",
             "x.lerp_(D, self.step)", "tests/solvers/test_padis.py"),
    Mutation("few-levels-start-high", "medinv/priors/schedule.py",
             "return min(published, max(1.0, ", "return max(published, max(1.0, ",
             "tests/solvers/test_volume_samplers.py"),
    Mutation("loss-weight", "medinv/training/denoising.py", "/ (sigma * sigma_data).square()",
             "/ (sigma * sigma_data)", "tests/training"),
    Mutation("noise-levels", "medinv/training/denoising.py", "return 2 * sigma_data *",
             "return sigma_data *", "tests/training"),
    Mutation("history-repeats", "medinv/training/history.py", "if _step(line) <= step]",
             "if _step(line) < float('inf')]", "tests/training/test_loop.py"),
    Mutation("psnr-of-everything", "medinv/evaluation/metrics.py",
             "mean_square = (image - reference)[roi].square()",
             "mean_square = (image - reference).square()", "tests/evaluation/test_metrics.py"),
    Mutation("ssim-biased", "medinv/evaluation/metrics.py", "unbiased = n / (n - 1)",
             "unbiased = 1.0", "tests/evaluation/test_metrics.py"),
    Mutation("noise-without-level", "medinv/recipe/ct.py",
             "add_noise(clean, recipe.noise * level,", "add_noise(clean, recipe.noise,",
             "tests/test_recipe.py -k noise"),
    Mutation("samples-of-one-seed", "medinv/recipe/run.py",
             "task.solve(recipe.solver, recipe.seed + i,",
             "task.solve(recipe.solver, recipe.seed,", "tests/test_recipe.py -k samples"),
    Mutation("plan-of-one-sample", "medinv/recipe/plan.py",
             "    seconds[recipe.solver.title] *= recipe.samples\n", "", "tests/test_plan.py"),
    Mutation("nan-is-delivered", "medinv/recipe/run.py",
             "    if n:\n        raise NumericalError",
             "    if n < 0:\n        raise NumericalError", "tests/test_recipe.py -k finite"),
)


def start_tests(tests: str, tree: Path) -> multiprocessing.Process:
    """Pytest in a fork of this process, which has loaded the libraries already."""
    paths, _, words = tests.partition(" -k ")
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-W",
                 "ignore::pytest.PytestAssertRewriteWarning", *paths.split()]
    process = multiprocessing.get_context("fork").Process(
        target=_test, args=(arguments + (["-k", words] if words else []), tree))
    process.start()
    return process  # type: ignore[return-value]


def _test(arguments: list[str], tree: Path) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path.insert(0, str(tree))
    try:
        code = int(pytest.main(arguments))
    except BaseException:  # which would end this fork as failing tests do
        code = 70
    os._exit(code)


def copy_tree(folder: Path) -> Path:
    """The sources and tests, with their links."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, symlinks=True)  # with what is compiled
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def plant(mutation: Mutation, folder: Path) -> str:
    """Change the line in a copy of the tree; why that cannot be done, or nothing."""
    path = copy_tree(folder) / mutation.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text.count(mutation.old) != 1:
        return "stale"  # the line is not there once; write it anew
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    return ""


def judge(process: multiprocessing.Process) -> str:
    """What a finished run of tests says."""
    if process.is_alive():  # a loop without an end is noticed, too
        process.kill()
        return "killed"
    return {0: "survived", 1: "killed"}.get(process.exitcode or 0, "untested")


def verdicts(mutations: Iterable[Mutation], jobs: int) -> Iterator[tuple[Mutation, str]]:
    """Each mutation with what became of it, ``jobs`` at a time."""
    waiting = list(mutations)
    running: list[tuple[Mutation, multiprocessing.Process, float, Path]] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            mutation, folder = waiting.pop(0), Path(tempfile.mkdtemp())
            if problem := plant(mutation, folder):
                shutil.rmtree(folder)
                yield mutation, problem
                continue
            process = start_tests(mutation.tests, folder)
            running.append((mutation, process, time.monotonic() + SECONDS, folder))
        time.sleep(0.2)
        for item in list(running):
            mutation, process, deadline, folder = item
            if not process.is_alive() or time.monotonic() > deadline:
                running.remove(item)
                yield mutation, judge(process)
                shutil.rmtree(folder)


def main() -> None:
    """Run all, or those that are named, and print a line for each; survivors fail the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="mutations at the same time")
    parser.add_argument("--only", nargs="*", default=[], help="names")
    parser.add_argument("--unchanged", action="store_true", help="change nothing, so all survive")
    given = parser.parse_args()
    os.environ.setdefault("MEDINV_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
    chosen = [m for m in MUTATIONS if not given.only or m.name in given.only]
    if given.unchanged:
        chosen = [replace(m, new=m.old) for m in {m.tests: m for m in chosen}.values()]
    n_killed = 0
    for mutation, found in verdicts(chosen, given.jobs):
        print(f"{found:10} {mutation.name:32} {mutation.file}", flush=True)
        n_killed += found == "killed"
    print(f"{n_killed} of {len(chosen)} killed")
    raise SystemExit(n_killed < len(chosen))


if __name__ == "__main__":
    main()
