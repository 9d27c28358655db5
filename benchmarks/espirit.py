"""Time and memory of ESPIRiT on a simulated volume, against sigpy.

    python benchmarks/espirit.py --size 64 --coils 8

Each side runs in a process of its own, one after the other, on the same ball behind birdcage
coils; the memory is what its peak adds to what the process held before. Prints a Markdown table;
the correlation is the mean over the ball of ``|sum_c conj(S_c) T_c|`` with the true maps ``T``.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medinv.operators import fourier
from medinv.operators.coils import espirit


def simulate(size: int, coils: int, path: str) -> None:
    """Write maps, ball and noisy k-space."""
    from sigpy.mri import birdcage_maps

    q = torch.linspace(-1, 1, size)
    ball = (q.square() + q[:, None].square() + q[:, None, None].square() < 0.6).float()
    maps = torch.from_numpy(birdcage_maps((coils, size, size, size)).astype(np.complex64))
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(maps.shape, dtype=maps.dtype, generator=rng)
    np.save(path + "/maps", maps.numpy())
    np.save(path + "/ball", ball.numpy())
    np.save(path + "/kspace", (fourier.fft(maps * ball, (-3, -2, -1)) + 1e-3 * noise).numpy())


def ours(kspace: np.ndarray) -> Tensor:
    """Maps by medinv."""
    return espirit(torch.from_numpy(kspace), ndim=3)


def theirs(kspace: np.ndarray) -> Tensor:
    """Maps by sigpy."""
    from sigpy.mri.app import EspiritCalib

    return torch.from_numpy(EspiritCalib(kspace, show_pbar=False).run()).nan_to_num()


def measure(name: str, path: str) -> None:
    """Print one row of the table."""
    importlib.import_module("sigpy.mri.app")  # neither side pays for the import
    kspace = np.load(path + "/kspace.npy")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    maps = {"medinv": ours, "sigpy": theirs}[name](kspace)
    seconds = time.perf_counter() - start
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    truth, ball = (torch.from_numpy(np.load(f"{path}/{key}.npy")) for key in ("maps", "ball"))
    correlation = float((maps.conj() * truth).sum(0).abs()[ball > 0].mean())
    print(f"| {name} | {seconds:.1f} | {mib:.0f} | {correlation:.5f} |", flush=True)


def main() -> None:
    """Simulate, then run both sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--coils", type=int, default=8)
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder))
        tasks = [(simulate, (arguments.size, arguments.coils, path)),
                 (measure, ("medinv", path)), (measure, ("sigpy", path))]
        print("| | seconds | MiB | correlation |\n|---|---|---|---|", flush=True)
        for target, options in tasks:
            process = spawn.Process(target=target, args=options)
            process.start()
            process.join()


if __name__ == "__main__":
    main()
