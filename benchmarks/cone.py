"""Time and memory of the cone-beam projector on the CPU, beside ITK-RTK where it is installed.

    python benchmarks/cone.py --threads 2 --repeats 5

Both sides get the same scan and take turns; the fastest of the repeats counts. The memory is the
growth of the process's peak beyond input and result, in a process of its own.
Prints Markdown tables. ``pip install itk-rtk`` adds the peer.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from medinv.operators import ConeBeam

SIZE, VIEWS, DETECTOR = 128, 90, 160

Run = Callable[[], Tensor]


def scan(size: int, views: int, detector: int) -> ConeBeam:
    angles = torch.arange(views) * (2 * math.pi / views)
    pixel = 2.5 * size / detector
    return ConeBeam((size,) * 3, angles, 1.0, 6.0 * size, 4.0 * size, detector, detector, pixel,
                    pixel)


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def blob(A: ConeBeam) -> Tensor:
    """A smooth object off the centre, on which all implementations of Joseph's rule agree."""
    z, y, x = (torch.arange(n) / n - 0.5 for n in A.domain.shape)
    squares = (z - 0.1)[:, None, None] ** 2 + (y + 0.1)[:, None] ** 2 + (x - 0.2) ** 2
    return torch.exp(-squares / 0.02)


def pair(A: ConeBeam, x: Tensor, y: Tensor) -> tuple[Run, Run]:
    return lambda: A(x), lambda: A.adjoint(y)


def rtk_is_installed() -> bool:
    return any(item.metadata["Name"] == "itk-rtk" for item in importlib.metadata.distributions())


def rtk_pair(A: ConeBeam, x: Tensor, y: Tensor) -> tuple[Run, Run]:
    """ITK-RTK's Joseph projectors on the same scan; it rotates around y, and its z is our -y."""
    import itk
    from itk import RTK as rtk

    g = A.geometry
    assert g.angles is not None
    size, source, detector = g.shape[0], 6.0 * g.shape[0], 10.0 * g.shape[0]
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    for angle in g.angles.tolist():
        geometry.AddProjection(source, detector, math.degrees(angle))
    volume = rtk_image(itk, x.flip(1).transpose(0, 1).contiguous(), 1.0, size)
    projections = rtk_image(itk, y, float(g.col_axes[0].norm()), g.n_cols)
    no_volume = rtk_image(itk, torch.zeros_like(x), 1.0, size)  # the filters add to what they get
    nothing = rtk_image(itk, torch.zeros_like(y), float(g.col_axes[0].norm()), g.n_cols)
    kind = itk.Image[itk.F, 3]

    def forward() -> Tensor:
        run = rtk.JosephForwardProjectionImageFilter[kind, kind].New()
        run.SetInput(0, nothing)
        run.SetInput(1, volume)
        run.SetGeometry(geometry)
        run.InPlaceOff()  # keeps its inputs
        run.Update()
        return torch.from_numpy(itk.array_view_from_image(run.GetOutput())).clone()

    def adjoint() -> Tensor:
        run = rtk.JosephBackProjectionImageFilter[kind, kind].New()
        run.SetInput(0, no_volume)
        run.SetInput(1, projections)
        run.SetGeometry(geometry)
        run.InPlaceOff()  # keeps its inputs
        run.Update()
        return torch.from_numpy(itk.array_view_from_image(run.GetOutput())).clone()

    return forward, adjoint


def rtk_image(itk: object, values: Tensor, spacing: float, n: int) -> object:
    image = itk.image_from_array(values.numpy())  # type: ignore[attr-defined]
    image.SetSpacing([spacing, spacing, 1.0 if len(values) == VIEWS else spacing])
    middle = -(n - 1) / 2 * spacing
    image.SetOrigin([middle, middle, 0.0 if len(values) == VIEWS else middle])
    return image


def speed(repeats: int, threads: int) -> None:
    A = scan(SIZE, VIEWS, DETECTOR)
    x, y = blob(A), torch.rand(A.codomain.shape)
    sides = {"medinv": pair(A, x, y)}
    if rtk_is_installed():
        import itk

        itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
        sides["ITK-RTK"] = rtk_pair(A, x, y)
    compiling = [seconds(run) for run in sides["medinv"]]
    print(f"First calls, compiled or from numba's cache: {compiling[0]:.1f} s forward, "
          f"{compiling[1]:.1f} s adjoint\n")
    print(f"| {SIZE}^3, {VIEWS} views of {DETECTOR}^2, {threads} threads | forward | adjoint |")
    print("|---|---|---|")
    best = {name: [math.inf, math.inf] for name in sides}
    for _ in range(repeats):
        for name, runs in sides.items():
            best[name] = [min(b, seconds(run)) for b, run in zip(best[name], runs, strict=True)]
    for name, (forward, adjoint) in best.items():
        print(f"| {name} | {forward:.2f} s | {adjoint:.2f} s |")
    results = [runs[0]() for runs in sides.values()]
    for result in results[1:]:
        difference = float((result - results[0]).norm() / results[0].norm())
        print(f"\nDifference of the projections of a smooth object: {difference:.1e}")


def growth_mib(run: Run) -> float:
    """Growth of the resident memory's peak during a call (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status_mib("VmRSS")
    run()
    return status_mib("VmHWM") - before


def status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(name))
    return int(line.split()[1]) / 1024


def measure_memory(queue: multiprocessing.Queue[tuple[float, float]], threads: int) -> None:
    torch.set_num_threads(threads)
    small = scan(16, 2, 8)
    small.adjoint(small(torch.zeros(small.domain.shape)))  # compiled and imported
    A = scan(256, 8, 256)
    x, y = torch.rand(A.domain.shape), torch.rand(A.codomain.shape)
    forward, adjoint = (growth_mib(run) for run in pair(A, x, y))
    queue.put((forward - y.nbytes / 2**20, adjoint - x.nbytes / 2**20))


def memory(threads: int) -> None:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[tuple[float, float]] = context.Queue()
    process = context.Process(target=measure_memory, args=(queue, threads))
    process.start()
    forward, adjoint = queue.get()
    process.join()
    print("\n| 256^3 (64 MiB), memory beside input and result | forward | adjoint |")
    print("|---|---|---|")
    print(f"| medinv | {forward:.0f} MiB | {adjoint:.0f} MiB |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    speed(arguments.repeats, arguments.threads)
    memory(arguments.threads)


if __name__ == "__main__":
    main()
