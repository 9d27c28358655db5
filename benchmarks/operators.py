"""Time medinv's operators against sigpy, ASTRA slice by slice and, where installed, deepinv.

    python benchmarks/operators.py --threads 1 --repeats 7

All sides get the same data and take turns; the fastest of the repeats counts. ``--threads`` limits
every side, but numpy's FFT (sigpy) and ASTRA's CPU projector have one thread only, so 1 compares
the work and 2 what a user of two cores gets. On a machine with other work, use 1.
Prints a Markdown table; a difference is the largest one, relative to the largest value.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medinv.operators import CartesianMRI, ParallelBeam
from medinv.operators.sampling import uniform1d

SLICES, COILS, SIZE = 16, 8, 320
CT_SLICES, CT_SIZE, VIEWS = 64, 256, 180

Run = Callable[[], Tensor]


@dataclass
class Comparison:
    task: str
    peer_name: str
    ours: Run
    peer: Run

    def row(self, repeats: int) -> str:
        """One line of the table."""
        result, reference = self.ours(), self.peer()
        difference = float((result - reference).abs().max() / reference.abs().max())
        turns = [(seconds(self.ours), seconds(self.peer)) for _ in range(repeats)]
        ours, peer = (min(times) for times in zip(*turns, strict=True))
        return (f"| {self.task} | {1e3 * ours:.0f} ms | {self.peer_name} {1e3 * peer:.0f} ms | "
                f"{peer / ours:.1f}x | {difference:.0e} |")


def seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def mri_comparisons() -> Iterator[Comparison]:
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(SLICES, COILS, SIZE, SIZE, dtype=torch.complex64, generator=rng)
    maps /= torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    x = torch.randn(SLICES, SIZE, SIZE, dtype=torch.complex64, generator=rng)
    columns = uniform1d((SIZE, SIZE), 4.0).mask
    points = torch.rand(SIZE, SIZE, generator=rng) < 0.25
    for name, mask in (("1D mask", columns), ("1D mask, rows", columns.T), ("2D mask", points)):
        A = CartesianMRI(maps, mask)
        task = f"SENSE normal, {SLICES} slices x {COILS} coils x {SIZE}^2, {name}"

        def ours(A: CartesianMRI = A) -> Tensor:
            return A.normal(x)

        yield Comparison(task, "sigpy", ours, sigpy_normal(maps, mask, x))
        if importlib.util.find_spec("deepinv"):
            yield Comparison(task, "deepinv", ours, deepinv_normal(maps, mask, x))


def sigpy_normal(maps: Tensor, mask: Tensor, x: Tensor) -> Run:
    from sigpy.mri.linop import Sense

    weights = mask.numpy().astype(np.float32)
    operators = [Sense(item.numpy(), weights=weights) for item in maps]
    slices = [item.numpy() for item in x]
    return lambda: torch.from_numpy(np.stack(
        [A.N(item) for A, item in zip(operators, slices, strict=True)]))


def deepinv_normal(maps: Tensor, mask: Tensor, x: Tensor) -> Run:
    from deepinv.physics import MultiCoilMRI

    A = MultiCoilMRI(mask=mask.float(), coil_maps=maps, img_size=x.shape[-2:])
    channels = torch.view_as_real(x).movedim(-1, 1).contiguous()

    @torch.no_grad()
    def run() -> Tensor:
        result = A.A_adjoint(A.A(channels))
        return torch.view_as_complex(result.movedim(1, -1).contiguous())

    return run


def ct_comparisons() -> Iterator[Comparison]:
    rng = torch.Generator().manual_seed(0)
    angles = torch.arange(VIEWS) * math.pi / VIEWS
    A = ParallelBeam((CT_SIZE, CT_SIZE), angles, 1.0)
    x = torch.rand(CT_SLICES, CT_SIZE, CT_SIZE, generator=rng)
    y = torch.rand(CT_SLICES, *A.codomain.shape, generator=rng)
    project, backproject = astra_calls(A)
    task = f"{CT_SLICES} slices of {CT_SIZE}^2 x {VIEWS} views"
    name = f"ASTRA CPU, {CT_SLICES} calls"
    yield Comparison(f"parallel beam forward, {task}", name, lambda: A(x), lambda: project(x))
    yield Comparison(f"parallel beam adjoint, {task}", name, lambda: A.adjoint(y),
                     lambda: backproject(y))


def astra_calls(A: ParallelBeam) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """ASTRA's own forward and backprojection, slice by slice, as its documentation shows them."""
    import astra

    volume = astra.create_vol_geom(*A.domain.shape)
    detector = astra.create_proj_geom("parallel", A.col_mm / A.pixel_mm, A.n_cols,
                                      (-A.angles).tolist())
    projector = astra.create_projector("linear", detector, volume)

    def each(run: Callable[..., tuple[int, np.ndarray]], inputs: Tensor) -> Tensor:
        results = []
        for item in inputs.numpy():
            handle, result = run(item, projector)
            results.append(torch.from_numpy(result))
            astra.data2d.delete(handle)
        return torch.stack(results)

    return (lambda x: each(astra.create_sino, x),
            lambda y: each(astra.create_backprojection, y))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, best of {arguments.repeats}\n")
    print("| task | medinv | peer | medinv is faster by | difference |\n|---|---|---|---|---|")
    for comparisons in (mri_comparisons, ct_comparisons):
        for comparison in comparisons():
            print(comparison.row(arguments.repeats), flush=True)


if __name__ == "__main__":
    main()
