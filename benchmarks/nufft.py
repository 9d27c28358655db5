"""Radial multi-coil MRI against sigpy, in one run: time, error, and what an iteration costs.

    python benchmarks/nufft.py --size 320 --coils 8 --spokes 160 --oversampling 2 --threads 2

Both sides apply coil maps and Fourier sums, forward and adjoint. The error is that of the Fourier
sums (in L2, relative) against the direct sum in double precision, at some random samples, of white
noise, which shows all frequencies; and of the adjoint at some random pixels. All calls take turns;
the fastest of the repeats counts. On a machine with other work, use one thread.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import sigpy
import sigpy.mri
import torch
from torch import Tensor

from medinv.operators import LinearOperator, NonCartesianMRI, trajectories


def milliseconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Fastest time of each, taken in turns after one call to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: min(values) for name, values in times.items()}


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def direct_forward(x: Tensor, points: Tensor) -> np.ndarray:
    """``F x`` at a few points ``(n, 2)``, separable over the axes, in double precision."""
    waves = [torch.exp(-2j * math.pi / n * points[:, axis, None]
                       * (torch.arange(n, dtype=torch.float64) - n // 2))
             for axis, n in enumerate(x.shape)]
    y = torch.einsum("py,yx,px->p", waves[0], x.to(torch.complex128), waves[1])
    return (y / math.sqrt(x.numel())).numpy()


def direct_adjoint(y: Tensor, points: Tensor, pixels: Tensor, n: int) -> np.ndarray:
    """``F^H y`` at a few pixels ``(m, 2)``."""
    phase = 2 * math.pi / n * (pixels.double() - n // 2) @ points.reshape(-1, 2).T
    return (torch.exp(1j * phase) @ y.flatten().to(torch.complex128) / n).numpy()


def errors(points: Tensor, n: int, eps: float, rng: torch.Generator) -> None:
    """Print the error of both in each direction, at 400 samples and pixels."""
    x = torch.randn(n, n, dtype=torch.complex64, generator=rng)
    y = torch.randn(points.shape[:-1], dtype=torch.complex64, generator=rng)
    A = NonCartesianMRI(torch.ones(1, n, n, dtype=torch.complex64), points, eps=eps)
    coordinates = points.float().numpy()
    some = torch.randperm(y.numel(), generator=rng)[:400]
    expected = direct_forward(x, points.reshape(-1, 2)[some])
    ours = relative(A(x)[0].flatten()[some].numpy(), expected)
    theirs = relative(sigpy.nufft(x.numpy(), coordinates).ravel()[some], expected)
    print(f"error, forward   medinv {ours:.1e}   sigpy {theirs:.1e}   ratio {theirs / ours:.0f}")
    pixels = torch.randint(n, (400, 2), generator=rng)
    expected = direct_adjoint(y, points, pixels, n)
    at = tuple(pixels.T.numpy())
    ours = relative(A.adjoint(y[None]).numpy()[at], expected)
    theirs = relative(sigpy.nufft_adjoint(y.numpy(), coordinates, (n, n))[at], expected)
    print(f"error, adjoint   medinv {ours:.1e}   sigpy {theirs:.1e}   ratio {theirs / ours:.0f}")


def compare(A: LinearOperator, maps: Tensor, points: Tensor, x: Tensor, repeats: int) -> None:
    """Print the time of both in each direction, and of the normal operator."""
    y = A(x)
    peer = sigpy.mri.linop.Sense(maps.numpy(), coord=points.float().numpy())
    image, signal = x.numpy(), y.numpy()
    ms = milliseconds({
        "forward": lambda: A(x), "sigpy forward": lambda: peer(image),
        "adjoint": lambda: A.adjoint(y), "sigpy adjoint": lambda: peer.H(signal),
        "normal": lambda: A.normal(x),
    }, repeats)
    for name in ("forward", "adjoint"):
        print(f"{name:8}  medinv {ms[name]:6.1f} ms   sigpy {ms['sigpy ' + name]:6.1f} ms   "
              f"{ms['sigpy ' + name] / ms[name]:.2f}x faster")
    both = ms["forward"] + ms["adjoint"]
    print(f"normal    Toeplitz {ms['normal']:4.1f} ms   forward + adjoint {both:.1f} ms   "
          f"{both / ms['normal']:.2f}x faster")
    start = time.perf_counter()
    A.solve(y, max_iter=20, tol=0.0)
    print(f"CG        {1e3 * (time.perf_counter() - start) / 20:.1f} ms per iteration")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--spokes", type=int, default=160)
    parser.add_argument("--oversampling", type=int, default=2, help="of the readout")
    parser.add_argument("--eps", type=float, default=1e-6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rng, n = torch.Generator().manual_seed(0), given.size
    trajectory = trajectories.radial(given.spokes, n, oversampling=given.oversampling)
    print(f"{n}^2 x {given.coils} coils, {trajectory}, eps {given.eps:g}, "
          f"{given.threads} threads")
    maps = torch.randn(given.coils, n, n, dtype=torch.complex64, generator=rng)
    maps /= maps.abs().square().sum(0).sqrt()
    A = NonCartesianMRI(maps, trajectory.points, eps=given.eps)
    x = torch.randn(n, n, dtype=torch.complex64, generator=rng)
    errors(trajectory.points, n, given.eps, rng)
    compare(A, maps, trajectory.points, x, given.repeats)


if __name__ == "__main__":
    main()
