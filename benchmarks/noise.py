"""How far the noise that is estimated without a noise scan is from the truth.

    python benchmarks/noise.py --size 128

k-space of a disc with sharp edges behind birdcage coils, every second column beside 12 central
ones, for several levels of noise (relative to the disc), numbers of coils, unequal and correlated
coils. Prints the estimate over the root mean square of the coils' true noise, and what the median
of the outermost tenth of the samples, taken for noise, would give.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor

from medinv.operators import fourier
from medinv.recipe.mri import birdcage
from medinv.recipe.mri_noise import estimate_noise, grid_radius

CASES = (("8 coils", 8, False, 0.0), ("8 unequal coils", 8, True, 0.0),
         ("8 correlated coils", 8, False, 0.5), ("2 coils", 2, False, 0.0),
         ("1 coil", 1, False, 0.0))


def corner_median(y: Tensor, mask: Tensor) -> float:
    """The median magnitude of the outermost tenth, as if it were noise."""
    radius = grid_radius(tuple(mask.shape))
    outer = mask & (radius >= radius[mask].quantile(0.9))
    return float(y[..., outer].abs().median()) / math.sqrt(2 * math.log(2))


def main() -> None:
    """Simulate every case and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    n = parser.parse_args().size
    rng = torch.Generator().manual_seed(0)
    q = torch.arange(n) - n / 2
    disc = (((q - 2) ** 2 + (q[:, None] - 1) ** 2) < (0.31 * n) ** 2).to(torch.complex64)
    mask = (torch.arange(n) % 2 == 0) | ((torch.arange(n) - n // 2).abs() < 6)
    mask = mask.expand(n, n)
    print("| noise | coils | estimate | corners alone |\n|---|---|---|---|")
    for level in (0.05, 0.01, 0.002):
        for name, coils, unequal, correlation in CASES:
            stds = torch.linspace(0.2, 4, coils) / 2.1 if unequal else torch.ones(coils)
            covariance = correlation + (1 - correlation) * torch.eye(coils)
            mixing = stds[:, None] * torch.linalg.cholesky(covariance)
            noise = torch.randn(coils, n, n, dtype=torch.complex64, generator=rng) * 2**0.5
            maps = birdcage(coils, (n, n)) if coils > 1 else torch.ones(1, n, n)
            y = fourier.fft(maps * disc, (-2, -1))
            y = y + level * torch.tensordot(mixing.to(noise.dtype), noise, 1)
            y = torch.where(mask, y, 0)[None]
            true = level * float(stds.square().mean().sqrt())
            print(f"| {100 * level:g} % | {name} | {estimate_noise(y, mask) / true:.2f} | "
                  f"{corner_median(y, mask) / true:.2f} |", flush=True)


if __name__ == "__main__":
    main()
