"""How much of the gap between a wrong prior and the right one adaptation closes.

    python benchmarks/adaptation.py --split test
    python benchmarks/adaptation.py --split test --noise 0.0005 --rates 0.003 --set sigma_min=0.15
    python benchmarks/adaptation.py --split test --set loss=residual sigma_min=0

Chest CT, 40 views: a prior of random ellipses, the same adapted to the measurement (D3IP), and the
prior of chests. PSNR of the slices together, with their maximum as data range. The adaptation's
settings were chosen with ``--split validation``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
import yaml

from medinv.guidance import Adaptation
from medinv.priors import load_prior
from medinv.recipe.load import load_reconstruct_recipe
from medinv.recipe.measurement import Measured
from medinv.recipe.run import measure_recipe
from medinv.resources import choose_device
from medinv.solvers import DDIP, DDS

CHOSEN = Adaptation(loss="estimate", rank=16, inner_steps=20, gamma=30.0, cg_iter=5, sigma_min=0.1,
                    fresh_optimizer=False)


def score(title: str, solver: DDS | DDIP, name: str, measured: Measured) -> float:
    start = time.perf_counter()
    prior = load_prior(name).to(measured.y.device)
    x = solver(measured.problem, prior, rng=torch.Generator().manual_seed(0)).cpu()
    assert measured.reference is not None
    error = (x.clamp(min=0) - measured.reference).square().mean()
    value = float(10 * (measured.reference.max() ** 2 / error).log10())
    print(f"| {title} | {value:.2f} | {time.perf_counter() - start:.0f} |", flush=True)
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", default="validation", choices=["test", "validation"])
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--views", type=int, default=40)
    parser.add_argument("--noise", type=float, default=0.005, help="as in the recipe")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--set", nargs="*", default=[], help="fields of Adaptation, rank=8")
    parser.add_argument("--wrong", help="prior of something else", default="ellipses-2d")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    args = parser.parse_args()
    recipe = load_reconstruct_recipe("demo-chest-ct", [
        f"measurement.volume.split={args.split}", f"measurement.slices=[0, {args.slices}]",
        f"measurement.views={args.views}", f"measurement.noise={args.noise}"])
    measured = measure_recipe(recipe).to(choose_device(args.device))
    solver = DDS(steps=args.steps, eta=1.0, sigma_max=3.0, sigma_min=0.02, gamma=30.0,
                 noise_aware=True)
    print(f"{measured.origin}; {args.slices} slices\n\n{solver}\n\n"
          "| method | PSNR (dB) | seconds |\n|---|---|---|")
    low = score("DDS, prior of ellipses", solver, args.wrong, measured)
    high = score("DDS, prior of chests", solver, "chest-ct-2d", measured)
    for rate in args.rates:
        fields = {name: yaml.safe_load(value) for name, value in
                  (pair.split("=") for pair in args.set)}
        adaptation = replace(CHOSEN, learning_rate=rate, **fields)
        title = f"D3IP from ellipses, rate {rate:g}, {fields}"
        got = score(title, DDIP(solver, adaptation), args.wrong, measured)
        print(f"\n{100 * (got - low) / (high - low):.0f} % of the gap")


if __name__ == "__main__":
    main()
