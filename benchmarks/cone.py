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
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor

from medinv.operators import ConeBeam

SIZE, VIEWS, DETECTOR = 128, 90, 160

Run = Callable[[], object]


def scan(size: int, views: int, detector: int) -> ConeBeam:
    angles = torch.arange(views) * (2 * math.pi / views)
    pixel = 2.5 * size / detector
    return ConeBeam((size,) * 3, angles, 1.0, 6.0 * size, 4.0 * size, detector, detector, pixel,
                    pixel)


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def pair(A: ConeBeam, x: Tensor, y: Tensor) -> tuple[Run, Run]:
    return lambda: A(x), lambda: A.adjoint(y)


def rtk_is_installed() -> bool:
    return any(item.metadata["Name"] == "itk-rtk" for item in importlib.metadata.distributions())


def rtk_pair(A: ConeBeam, x: Tensor, y: Tensor) -> tuple[Run, Run]:
    """ITK-RTK's Joseph projectors on the same scan (its axes are x, z, y)."""
    import itk
    from itk import RTK as rtk

    g = A.geometry
    assert g.angles is not None
    size, source, detector = g.shape[0], 6.0 * g.shape[0], 10.0 * g.shape[0]
    geometry = rtk.ThreeDCircularProjectionGeometry.New()
    for angle in g.angles.tolist():
        geometry.AddProjection(source, detector, math.degrees(angle))
    volume = rtk_image(itk, x, 1.0, size)
    projections = rtk_image(itk, y, float(g.col_axes[0].norm()), g.n_cols)
    kind = itk.Image[itk.F, 3]

    def forward() -> None:
        run = rtk.JosephForwardProjectionImageFilter[kind, kind].New()
        run.SetInput(0, projections)
        run.SetInput(1, volume)
        run.SetGeometry(geometry)
        run.InPlaceOff()  # keeps its inputs
        run.Update()

    def adjoint() -> None:
        run = rtk.JosephBackProjectionImageFilter[kind, kind].New()
        run.SetInput(0, volume)
        run.SetInput(1, projections)
        run.SetGeometry(geometry)
        run.InPlaceOff()  # keeps its inputs
        run.Update()

    return forward, adjoint


def rtk_image(itk: object, values: Tensor, spacing: float, n: int) -> object:
    image = itk.image_from_array(values.numpy())  # type: ignore[attr-defined]
    image.SetSpacing([spacing, spacing, 1.0 if len(values) == VIEWS else spacing])
    middle = -(n - 1) / 2 * spacing
    image.SetOrigin([middle, middle, 0.0 if len(values) == VIEWS else middle])
    return image


def speed(repeats: int, threads: int) -> None:
    A = scan(SIZE, VIEWS, DETECTOR)
    x, y = torch.rand(A.domain.shape), torch.rand(A.codomain.shape)
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


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory(queue: multiprocessing.Queue[tuple[float, float]], threads: int) -> None:
    torch.set_num_threads(threads)
    small = scan(16, 2, 8)
    small.adjoint(small(torch.zeros(small.domain.shape)))  # compiled and imported
    A = scan(256, 8, 256)
    x, y = torch.rand(A.domain.shape), torch.rand(A.codomain.shape)
    before = peak_mib()
    A(x)
    forward = peak_mib() - before - y.nbytes / 2**20
    before = peak_mib()
    A.adjoint(y)
    queue.put((forward, peak_mib() - before - x.nbytes / 2**20))


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
