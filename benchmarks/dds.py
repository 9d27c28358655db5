"""What DDS costs beside its network: the share of time, and memory in volume-sized buffers.

    python benchmarks/dds.py --slices 64 --size 128 --steps 50 --views 30

Time: the shipped CT prior, with every call of it timed. Memory: the most bytes of tensors alive at
once, with a prior that is one multiplication, so that what is counted is the solver and the
operator (the sparse matrix exists before and is not counted).
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from torch import Tensor

from medinv.operators import ParallelBeam
from medinv.priors import IntensityScale, Prior, load_prior
from medinv.problem import Problem
from medinv.resources import TensorCount
from medinv.solvers import DDS


class Timed(Prior):
    """Another prior, with a clock."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior, self.seconds = prior, 0.0
        self.dtype, self.ndim, self.scale = prior.dtype, prior.ndim, prior.scale

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        start = time.perf_counter()
        out: Tensor = self.prior(x, sigma)
        self.seconds += time.perf_counter() - start
        return out


class Shrink(Prior):
    """The denoiser of white noise: one multiplication."""

    def __init__(self) -> None:
        super().__init__()
        self.dtype, self.ndim, self.scale = torch.float32, 2, IntensityScale(0.02)

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return x / (1 + float(sigma) ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--views", type=int, default=30)
    args = parser.parse_args()
    angles = torch.arange(args.views) * (math.pi / args.views)
    A = ParallelBeam((args.size, args.size), angles, 2.8)
    x = 0.02 * torch.rand(args.slices, args.size, args.size)
    y = A(x)
    A.norm()
    for name, solver in {
        "slices independent": DDS(steps=args.steps, gamma=None),
        "total variation along z": DDS(steps=args.steps, gamma=None, z_weight=3e-4, rho=0.01),
    }.items():
        with TensorCount() as count:
            DDS(**{**solver.__dict__, "steps": 3})(Problem(y, A), Shrink())
        volumes = count.peak_bytes / (x.numel() * 4)
        prior = Timed(load_prior("chest-ct-2d"))
        start = time.perf_counter()
        solver(Problem(y, A), prior)
        total = time.perf_counter() - start
        print(f"{name}: {total:.1f} s, of which {100 * (1 - prior.seconds / total):.1f} % are not "
              f"the network; at most {volumes:.1f} volumes alive")


if __name__ == "__main__":
    main()
