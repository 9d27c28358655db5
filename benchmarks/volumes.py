"""Consistency of volumes in three planes, and quality against the number of network calls.

    python benchmarks/volumes.py consistency --tasks ct-20 ct-limited mr-thick --output volumes.md
    python benchmarks/volumes.py calls --tasks ct-20 --calls 20 50 100 200 400

PSNR is the mean over the slices of a plane, with the volume's maximum as data range: stacking
slices that were reconstructed alone costs most in the coronal and sagittal planes. 3D TV gets the
weight that is best for the very volume it is scored on (an oracle); no other method sees the
truth. ``--split validation`` scores the slices kept for choosing settings.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from medinv.priors import Prior, ProductPrior, SlicePrior, load_prior
from medinv.recipe.load import load_reconstruct_recipe
from medinv.recipe.measurement import Measured
from medinv.recipe.run import measure_recipe
from medinv.resources import choose_device
from medinv.solvers import DDS, TPDM, TV, DiffusionMBIR

TASKS = {
    "ct-20": ("demo-chest-ct", ["measurement.views=20", "solver.cg_iter=10", "solver.steps=40",
                                "solver.sigma_max=0.5", "solver.start_tv=null"]),
    "ct-limited": ("ct-limited-angle-dds", []),
    "mr-thick": ("mri-thick-slices", []),
}
COUPLING = {"z_weight": 3e-4, "rho": 3e-3}
TV_WEIGHTS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
PLANES = {"axial": -3, "coronal": -2, "sagittal": -1}


def plane_psnr(x: Tensor, reference: Tensor) -> dict[str, float]:
    """Mean PSNR of the slices of each plane; slices without any signal are left out."""
    if not x.is_complex():
        x = x.clamp(min=0)
    peak = reference.abs().max()
    error = (x.abs() - reference.abs()).square()
    result = {}
    for name, axis in PLANES.items():
        axes = [other for other in (-3, -2, -1) if other != axis]
        signal = reference.abs().amax(axes) > 0.05 * peak
        result[name] = float((10 * (peak**2 / error.mean(axes)).log10())[signal].mean())
    return result


def row(method: str, run: Callable[[], Tensor], measured: Measured) -> tuple[str, Tensor]:
    start = time.perf_counter()
    x = run().cpu()
    seconds = time.perf_counter() - start
    assert measured.reference is not None
    values = plane_psnr(x, measured.reference)
    return (f"| {method} | " + " | ".join(f"{values[name]:.2f}" for name in PLANES)
            + f" | {seconds:.0f} |"), x


def best_tv(measured: Measured) -> tuple[str, Tensor]:
    """3D TV with the weight that scores highest."""
    spacing = tuple(measured.facts["spacing_mm"])[::-1]
    real = not measured.A.domain.dtype.is_complex

    def score(weight: float) -> tuple[float, str, Tensor]:
        solver = TV(weight=weight, axes=(-3, -2, -1), spacing=spacing, max_iter=200,
                    nonnegative=real)
        text, x = row(f"TV 3D, oracle weight {weight:g}",
                      lambda: solver(measured.problem), measured)
        assert measured.reference is not None
        return plane_psnr(x, measured.reference)["axial"], text, x

    _, text, x = max((score(weight) for weight in TV_WEIGHTS), key=lambda item: item[0])
    return text, x


def product(task: str, first: Prior, auxiliary: str | None) -> ProductPrior | None:
    """Two perpendicular priors, where there are two."""
    if task.startswith("mr"):  # the brain prior was trained on every plane, and two of them see z
        return ProductPrior([SlicePrior(first, -2), SlicePrior(first, -1)], (0.5, 0.5))
    if auxiliary is None:
        return None
    device = next(first.parameters()).device
    pair = [SlicePrior(first, -3), SlicePrior(load_prior(auxiliary).to(device), -2)]
    return ProductPrior(pair, (0.5, 0.5))


def seeded(title: str, solver: Callable[..., Tensor], measured: Measured, prior: Prior,
           seed: int, samples: int = 1) -> str:
    def run() -> Tensor:
        total = torch.zeros(())
        for i in range(samples):
            rng = torch.Generator().manual_seed(seed + i)
            total = total + solver(measured.problem, prior, rng=rng).cpu()
        return total / samples

    return row(title, run, measured)[0]


def diffusion_mbir(steps: int) -> DiffusionMBIR:
    """Chosen on validation slices; with ten times the weights it fails (docs/volumes.md)."""
    return DiffusionMBIR(steps=steps, z_weight=1e-4, rho=1e-3, cg_iter=3, sigma_max=10.0,
                         sigma_min=0.02)


def methods(task: str, measured: Measured, solver: DDS, prior: Prior, auxiliary: str | None,
            wanted: str, seed: int, samples: int) -> Iterator[str]:
    alone = replace(solver, z_weight=None)
    coupled = replace(solver, **COUPLING)
    improved = replace(coupled, gamma=None, noise_aware=False)
    mbir = diffusion_mbir(solver.steps)
    tpdm = TPDM(steps=solver.steps, sigma_max=10.0, sigma_min=0.02)
    pair = product(task, prior, auxiliary)
    rows: list[tuple[str, Callable[..., Tensor], Prior | None]] = [
        ("DDS, slice by slice", alone, prior),
        ("DDS-3D", coupled, prior),
        ("DDS-3D without the proximal term", improved, prior),
        (f"DiffusionMBIR, {2 * solver.steps - 1} calls", mbir, SlicePrior(prior)),
        ("DDS with the product of two planes", alone, pair),
        ("DDS-3D with the product of two planes", coupled, pair),
        (f"TPDM, {2 * solver.steps} calls", tpdm, pair),
    ]
    if re.search(wanted, "TV 3D"):
        yield best_tv(measured)[0]
    for title, method, with_prior in rows:
        if with_prior is not None and re.search(wanted, title):
            yield seeded(title, method, measured, with_prior, seed)
    title = f"DDS with the product of two planes, mean of {samples}"
    if pair is not None and samples > 1 and re.search(wanted, title):
        yield seeded(title, alone, measured, pair, seed, samples)


def calls(measured: Measured, solver: DDS, prior: Prior, counts: list[int], wanted: str, seed: int
          ) -> Iterator[str]:
    """Every method with a growing number of network calls per slice."""
    rows: list[tuple[str, Callable[..., Tensor], Prior]] = [
        (f"DDS-3D, {n} calls", replace(solver, steps=n, **COUPLING), prior) for n in counts]
    for n in counts:
        mbir = diffusion_mbir((n + 1) // 2)
        rows.append((f"DiffusionMBIR, {2 * mbir.steps - 1} calls", mbir, SlicePrior(prior)))
    for title, method, with_prior in rows:
        if re.search(wanted, title):
            yield seeded(title, method, measured, with_prior, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["consistency", "calls"])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--slices", type=int, help="only so many, from the first")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--auxiliary", help="checkpoint of a coronal CT prior")
    parser.add_argument("--methods", default="", help="only those that match this expression")
    parser.add_argument("--calls", type=int, nargs="+", default=[20, 50, 100, 200, 400])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    lines = []

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    for task in args.tasks:
        name, overrides = TASKS[task]
        overrides = [*overrides, f"measurement.volume.split={args.split}"]
        if args.slices:
            overrides.append(f"measurement.slices=[0, {args.slices}]")
        if args.steps:
            overrides.append(f"solver.steps={args.steps}")
        recipe = load_reconstruct_recipe(name, overrides)
        measured = measure_recipe(recipe)
        solver = recipe.solver.build()
        assert isinstance(solver, DDS)
        prior_name = recipe.prior if isinstance(recipe.prior, str) else recipe.prior.primary
        device = choose_device(args.device)
        measured, prior = measured.to(device), load_prior(prior_name).to(device)
        say(f"\n### {task}, {args.split} slices, {args.what}\n\n{measured.origin}; "
            f"{measured.facts}.\n\n{solver}\n\n"
            "| method | axial | coronal | sagittal | seconds |\n|---|---|---|---|---|")
        rows = (methods(task, measured, solver, prior, args.auxiliary, args.methods,
                        args.seed, recipe.samples)
                if args.what == "consistency"
                else calls(measured, solver, prior, args.calls, args.methods, args.seed))
        for text in rows:
            say(text)
    if args.output:
        args.output.write_text("\n".join(lines).lstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
