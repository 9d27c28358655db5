"""Image quality of every method on the test volumes: methods x tasks, as Markdown.

    python benchmarks/quality.py --tasks ct-20 ct-40 mri-r6 mri-r8 --samples 4 --output quality.md

The measurements are simulated from real volumes that no prior was trained on, with the recipes'
own operators, masks and noise. Classical methods get the weight that is best for the very image
that they are scored on (an oracle, which no user has); DDS gets nothing but the measurement and
its noise level. ``--split validation`` scores the slices kept for choosing settings instead, which
is where the recipes' settings come from. BART's ``pics`` is run where it is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medinv.evaluation import measurement_residual, psnr, ssim
from medinv.priors import load_prior
from medinv.problem import Problem
from medinv.recipe.load import load_reconstruct_recipe
from medinv.recipe.measurement import Measured
from medinv.recipe.run import measure_recipe
from medinv.resources import choose_device
from medinv.solvers import CGSENSE, DDS, FBP, TV, L1Wavelet, ZeroFilled

FROM_NOISE = ["solver.steps=40", "solver.sigma_max=0.5", "solver.start_tv=null"]
TASKS = {
    "ct-20": ("demo-chest-ct", ["measurement.views=20", *FROM_NOISE]),
    "ct-40": ("demo-chest-ct", ["measurement.views=40", *FROM_NOISE]),
    "mri-r6": ("mri-brain-simulated-dds", ["measurement.sampling.acceleration=6"]),
    "mri-r8": ("mri-brain-simulated-dds", ["measurement.sampling.acceleration=8"]),
}
TV_WEIGHTS = (1e-4, 3e-4, 1e-3, 3e-3)
WAVELET_WEIGHTS = (1e-4, 3e-4, 1e-3, 3e-3)
BART_WEIGHTS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)


@dataclass
class Row:
    method: str
    image: Tensor
    seconds: float

    def text(self, measured: Measured) -> str:
        image = self.image if self.image.is_complex() else self.image.clamp(min=0)
        assert measured.reference is not None
        residual = measurement_residual(image.to(measured.y.device), measured.y, measured.A)
        return (f"| {self.method} | {psnr(image, measured.reference):.2f} | "
                f"{ssim(image, measured.reference):.4f} | {residual:.4f} | {self.seconds:.0f} |")


def timed(method: str, run: Callable[[], Tensor]) -> Row:
    start = time.perf_counter()
    image = run().cpu()
    return Row(method, image, time.perf_counter() - start)


def oracle(method: str, weights: tuple[float, ...], run: Callable[[float], Tensor],
           reference: Tensor) -> Row:
    """The run with the weight of the highest PSNR; its own time, not the search's."""
    rows = [timed(f"{method}, oracle weight {w:g}", lambda w=w: run(w)) for w in weights]
    return max(rows, key=lambda row: psnr(row.image, reference))


def bart_pics(measured: Measured, weight: float) -> Tensor:
    """BART's wavelet-regularised reconstruction (``pics -R W``) of every slice."""
    images = []
    with tempfile.TemporaryDirectory() as folder:
        maps = measured.A.maps.cpu().numpy()
        for y in measured.y.cpu().numpy():
            write_cfl(Path(folder, "k"), y[:, None].transpose(3, 2, 1, 0))
            write_cfl(Path(folder, "m"), maps[:, None].transpose(3, 2, 1, 0))
            command = ["bart", "pics", "-i100", f"-RW:3:0:{weight}", "-S", "k", "m", "x"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            images.append(read_cfl(Path(folder, "x")).reshape(*y.shape[:0:-1]).T)
    return torch.from_numpy(np.stack(images))


def write_cfl(path: Path, array: np.ndarray) -> None:
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    array.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def read_cfl(path: Path) -> np.ndarray:
    lines = path.with_suffix(".hdr").read_text().splitlines()
    shape = [int(n) for n in lines[1].split()]
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape(shape, order="F").squeeze()


def classical(task: str, measured: Measured) -> Iterator[Row]:
    y, A, reference = measured.y, measured.A, measured.reference
    assert reference is not None
    if task.startswith("ct"):
        spacing = tuple(measured.facts["spacing_mm"])[::-1]
        yield timed("FBP", lambda: FBP()(Problem(y, A)))
        yield oracle("TV 3D", TV_WEIGHTS, lambda w: TV(
            weight=w, axes=(-3, -2, -1), spacing=spacing, max_iter=200,
            nonnegative=True)(Problem(y, A)),
            reference)
        return
    yield timed("zero-filled", lambda: ZeroFilled()(Problem(y, A)))
    yield timed("CG-SENSE", lambda: CGSENSE(max_iter=15)(Problem(y, A)))
    yield timed("L1 wavelet, as in the recipes", lambda: L1Wavelet(
        weight=1e-3, wavelet="db2", cycle_spinning=True)(Problem(y, A)))
    yield oracle("L1 wavelet", WAVELET_WEIGHTS, lambda w: L1Wavelet(weight=w)(Problem(y, A)),
                 reference)
    if shutil.which("bart"):
        yield oracle("BART pics, L1 wavelet", BART_WEIGHTS, lambda w: bart_pics(measured, w),
                     reference)


def diffusion(solver: DDS, prior_name: str, measured: Measured, samples: int) -> Iterator[Row]:
    prior = load_prior(prior_name).to(measured.y.device)
    rows = [
        timed("DDS, one sample", lambda seed=seed: solver(
            measured.problem, prior, rng=torch.Generator().manual_seed(seed)))
        for seed in range(samples)
    ]
    yield rows[0]
    if samples > 1:
        mean = sum((row.image for row in rows[1:]), rows[0].image) / samples
        yield Row(f"DDS, mean of {samples}", mean, sum(row.seconds for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--skip-classical", action="store_true")
    parser.add_argument("--prior", help="a checkpoint instead of the recipe's")
    parser.add_argument("--set", nargs="*", default=[], help="solver fields, steps=20")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    lines = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    for task in args.tasks:
        name, overrides = TASKS[task]
        settings = [f"solver.{pair}" for pair in args.set]
        recipe = load_reconstruct_recipe(
            name, [*overrides, f"measurement.volume.split={args.split}", *settings])
        measured = measure_recipe(recipe).to(choose_device(args.device))
        solver = recipe.solver.build()
        assert isinstance(solver, DDS)
        say(f"\n### {task}, {args.split} slices\n\n{measured.origin}; {measured.facts}.\n")
        changed = {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)
                   if getattr(solver, f.name) != f.default}
        say(f"DDS with {changed}.\n\n| method | PSNR (dB) | SSIM | residual | seconds |\n"
            "|---|---|---|---|---|")
        if not args.skip_classical:
            for row in classical(task, measured):
                say(row.text(measured))
        for row in diffusion(solver, args.prior or str(recipe.prior), measured, args.samples):
            say(row.text(measured))
    if args.output:
        args.output.write_text("\n".join(lines).lstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
