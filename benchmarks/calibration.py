"""Coil maps from few calibration lines: medinv's ESPIRiT against BART's ``ecalib``, by the image.

    python benchmarks/calibration.py --slices 10 30 --acceleration 8 --lines 12

Axial slices of a brain on 256 x 256 pixels, with a smooth phase, behind simulated coils; columns
are drawn at random around the central ones. Each solver gets the same samples and weights, and
only the maps change. Prints the PSNR of every solver with every set of maps, as Markdown.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from medinv.data import load_volume, read_volume, to_ras
from medinv.data.mri.bart import read_cfl, write_cfl
from medinv.evaluation import psnr
from medinv.operators import CartesianMRI
from medinv.operators.coils import espirit, walsh
from medinv.priors import load_prior
from medinv.problem import Problem
from medinv.recipe.mri import birdcage, smooth_field
from medinv.solvers import DDS, L1Wavelet

SIZE = 256
NOISE = 0.005


def brain(path: Path | None, slices: list[int]) -> Tensor:
    """Some axial slices (z, 256, 256), the brightest voxel 1."""
    volume = to_ras(load_volume("voxelmorph-brain", split="test") if path is None
                    else read_volume(path))
    image = volume.data[slices].abs().float()
    for axis in (1, 2):
        n = image.shape[axis]
        if n > SIZE:
            image = image.narrow(axis, n // 2 - SIZE // 2, SIZE)
    out = torch.zeros(len(slices), SIZE, SIZE)
    rows, columns = image.shape[1:]
    out[:, SIZE // 2 - rows // 2:, SIZE // 2 - columns // 2:][:, :rows, :columns] = image
    return out / out.max()


def columns(acceleration: float, lines: int, rng: torch.Generator) -> Tensor:
    """A mask (1, kx) with exactly ``256 / acceleration`` columns, ``lines`` of them central."""
    taken = torch.zeros(SIZE, dtype=torch.bool)
    taken[SIZE // 2 - lines // 2: SIZE // 2 - lines // 2 + lines] = True
    free = (~taken).nonzero()[:, 0]
    more = round(SIZE / acceleration) - lines
    taken[free[torch.randperm(len(free), generator=rng)[:more]]] = True
    return taken[None]


def ecalib(kspace: Tensor) -> Tensor:
    """Maps of BART's ``ecalib`` with its defaults, slice by slice."""
    maps = []
    with tempfile.TemporaryDirectory() as folder:
        for item in kspace:
            write_cfl(item, Path(folder, "k"), "coil ky kx")
            subprocess.run(["bart", "ecalib", "-m1", "k", "m"], cwd=folder, check=True,
                           capture_output=True)
            maps.append(read_cfl(Path(folder, "m"), "coil y x"))
    return torch.stack(maps)


def main() -> None:
    """Simulate, estimate the maps in every way, reconstruct with each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brain", type=Path, help="a magnitude volume; voxelmorph's if not given")
    parser.add_argument("--slices", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--acceleration", type=float, default=8)
    parser.add_argument("--lines", type=int, default=12, help="central columns")
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--weight", type=float, default=1e-3, help="of L1Wavelet")
    parser.add_argument("--skip-dds", action="store_true")
    args = parser.parse_args()
    rng = torch.Generator().manual_seed(0)
    magnitude = brain(args.brain, args.slices)
    x = torch.polar(magnitude, smooth_field(magnitude.shape, rng))
    truth = birdcage(args.coils, (SIZE, SIZE))
    mask = columns(args.acceleration, args.lines, rng).expand(SIZE, SIZE)
    full = CartesianMRI(truth.expand(len(x), *truth.shape), mask)(x)
    noise = NOISE * torch.randn(full.shape, dtype=full.dtype, generator=rng) * 2**0.5
    y = torch.where(mask, full + noise, 0)
    maps = {"true": truth.expand(y.shape), "medinv, ESPIRiT": espirit(y),
            f"medinv, ESPIRiT on the central square of {args.lines}":
                espirit(y, calibration_width=args.lines),
            "medinv, Walsh": walsh(y)}
    if shutil.which("bart"):
        maps["BART, ecalib"] = ecalib(y)
    print("| maps | L1-wavelet, dB | DDS, dB |\n|---|---|---|", flush=True)
    for name, sensitivities in maps.items():
        A = CartesianMRI(sensitivities, mask)
        wavelet = psnr(L1Wavelet(weight=args.weight)(Problem(y, A)), x)
        dds = float("nan")
        if not args.skip_dds:
            solver = DDS(steps=60, noise_aware=True, gamma=10.0, eta=1.0, sigma_max=0.3,
                         sigma_min=0.01)
            dds = psnr(solver(Problem(y, A, noise_std=NOISE), load_prior("brain-mr-2d"),
                              rng=torch.Generator().manual_seed(0)), x)
        print(f"| {name} | {wavelet:.2f} | {dds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
