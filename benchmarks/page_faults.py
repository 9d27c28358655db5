"""What the kernel takes: processor time and page faults, with memory given back and kept.

    python benchmarks/page_faults.py --threads 1

Each task runs in a process of its own, once as Python does by default and once after
`medinv.keep_memory`, as the commands do. Counted is the task, after a first small round that
loads libraries and compiles; prints a Markdown table. On a machine with other work the processor
times still hold, with some noise; faults are exact.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import medinv
from medinv.operators import CartesianMRI, ParallelBeam
from medinv.operators.sampling import random1d
from medinv.priors import load_prior
from medinv.priors.edm import set_precision
from medinv.problem import Problem
from medinv.solvers import CGSENSE, DDS, TV, L1Wavelet
from medinv.training import train
from medinv.training.config import TrainConfig

Task = Callable[[int], object]
"""Does a number of steps."""


def ct(slices: int, size: int = 256) -> tuple[Tensor, ParallelBeam]:
    A = ParallelBeam((size, size), torch.arange(30) * (math.pi / 30), 1.4)
    A.norm()
    return A(0.02 * torch.rand(slices, size, size)), A


def mri(slices: int = 16, coils: int = 8, size: int = 320) -> tuple[Tensor, CartesianMRI]:
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(slices, coils, size, size, dtype=torch.complex64, generator=rng)
    maps /= torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    A = CartesianMRI(maps, random1d((size, size), 6.0).mask)
    return A(torch.randn(slices, size, size, dtype=torch.complex64, generator=rng)), A


def dds() -> Task:
    y, A = ct(8)
    prior = load_prior("chest-ct-2d")
    set_precision(prior, torch.float32)
    return lambda n: DDS(steps=n, gamma=30.0, z_weight=3e-4, rho=3e-3)(Problem(y, A), prior)


def training() -> Task:
    config = TrainConfig.model_validate({
        "images": {"kind": "ct", "sources": [{"phantom": "ellipses"}]}, "precision": "float32"})

    def run(n: int) -> object:
        with tempfile.TemporaryDirectory() as folder:
            return train(config.model_copy(update={"updates": n}), Path(folder))

    return run


def tv() -> Task:
    y, A = ct(42)
    return lambda n: TV(weight=1e-3, max_iter=n, axes=(-3, -2, -1))(Problem(y, A))


def l1_wavelet() -> Task:
    y, A = mri(4)
    return lambda n: L1Wavelet(weight=1e-3, max_iter=n)(Problem(y, A))


def sense() -> Task:
    y, A = mri()
    return lambda n: CGSENSE(max_iter=n)(Problem(y, A))


TASKS: dict[str, tuple[Callable[[], Task], int]] = {
    "DDS, 8 slices of 256^2, float32": (dds, 6),
    "training, batches of 8 x 96^2, float32": (training, 12),
    "TV, 42 slices of 256^2": (tv, 20),
    "L1-wavelet, 4 slices x 8 coils x 320^2": (l1_wavelet, 10),
    "CG-SENSE, 16 slices x 8 coils x 320^2": (sense, 20),
}


def measure(name: str, threads: int, *, keep: bool) -> None:
    """In a process of its own: prints user and system seconds, faults and GiB."""
    torch.set_num_threads(threads)
    if keep and not medinv.keep_memory():
        raise SystemExit("keep_memory: this C library cannot be told")
    make, steps = TASKS[name]
    task = make()
    task(2)
    before = resource.getrusage(resource.RUSAGE_SELF)
    task(steps)
    after = resource.getrusage(resource.RUSAGE_SELF)
    print(after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime,
          after.ru_minflt - before.ru_minflt, after.ru_maxrss / 2**20)


def row(name: str, threads: int) -> str:
    cells = []
    for keep in ("no", "yes"):
        command = [sys.executable, __file__, "--threads", str(threads), "--task", name,
                   "--keep", keep]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        user, system, faults, gib = map(float, done.stdout.split()[-4:])
        cells.append(f"{user:.1f} + {system:.2f} s ({100 * system / user:.1f} %), "
                     f"{faults:,.0f} faults, {gib:.2f} GiB")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--task", choices=TASKS, help="this one alone, in this process")
    parser.add_argument("--keep", choices=("no", "yes"), default="no")
    arguments = parser.parse_args()
    if arguments.task:
        measure(arguments.task, arguments.threads, keep=arguments.keep == "yes")
        return
    print("User + system time (system in % of user), page faults, largest memory.\n\n"
          "| task | by default | memory kept |\n|---|---|---|")
    for name in TASKS:
        print(row(name, arguments.threads), flush=True)


if __name__ == "__main__":
    main()
