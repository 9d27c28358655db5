"""A prior of patches against one of whole images, on slices that neither was trained on.

    python benchmarks/patches.py runs/prior-chest-ct-patch-2d/prior-chest-ct-patch-2d.safetensors

Every solver has the settings of ct-sparse-view-padis. PSNR of each method is that of the slices
together, with their maximum as data range. ``--split validation`` is the default: these slices are
kept for choosing settings.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from medinv.priors import Prior, load_prior
from medinv.recipe.load import load_reconstruct_recipe
from medinv.recipe.run import measure_recipe
from medinv.resources import choose_device

RECIPE = "ct-sparse-view-padis"


def psnr(x: Tensor, reference: Tensor) -> float:
    error = (x.clamp(min=0) - reference).square().mean()
    return float(10 * (reference.max() ** 2 / error).log10())


def compare(priors: dict[str, Prior], overrides: Sequence[str], only: Sequence[str]) -> None:
    """Print one line for each solver and prior."""
    recipe = load_reconstruct_recipe(RECIPE, overrides)
    device = choose_device(recipe.device)
    measured = measure_recipe(recipe).to(device)
    priors = {name: prior.to(device) for name, prior in priors.items()}
    assert measured.reference is not None
    for settings in (recipe.solver, *recipe.baselines):
        if settings.title not in only:
            continue
        solver = settings.build()
        for name, prior in priors.items():
            rng, start = torch.Generator().manual_seed(0), time.perf_counter()
            x = solver(measured.problem, prior, rng=rng).cpu()
            print(f"| {settings.title} | {name} | {psnr(x, measured.reference):.2f} | "
                  f"{time.perf_counter() - start:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patches", help="prior of patches: a name, or a .safetensors file")
    parser.add_argument("--images", default="chest-ct-2d", help="prior of whole images")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--slices", type=int, nargs=2, default=(0, 8), metavar=("START", "STOP"))
    parser.add_argument("--views", type=int, default=20)
    parser.add_argument("--solvers", nargs="+", default=("DDS", "DDS, adapted"))
    args = parser.parse_args()
    priors = {name: load_prior(name) for name in (args.images, args.patches)}
    overrides = [f"measurement.volume.split={args.split}", f"measurement.views={args.views}",
                 f"measurement.slices={list(args.slices)}"]
    print("| solver | prior | PSNR (dB) | seconds |\n|---|---|---|---|")
    compare(priors, overrides, args.solvers)


if __name__ == "__main__":
    main()
