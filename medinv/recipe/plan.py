"""What a run will cost, from three steps of each method on a few slices.

Time grows with the slices, but for test-time adaptation, which looks at a fixed number of them.
Memory is the larger of two moments: in the network, what the solver holds beside the activations
of one batch; and between its calls, the solver's own volumes, counted exactly.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from medinv.errors import InputError
from medinv.priors import Prior, ProductPrior, linearize
from medinv.priors.batches import largest_chunk, limit_chunks
from medinv.problem import Problem
from medinv.recipe.measurement import Measured
from medinv.recipe.schema import ReconstructRecipe
from medinv.recipe.settings import SolverSettings, needs_prior
from medinv.recipe.slab import prior_of_slab, slab
from medinv.resources import TensorCount, available_bytes, device_bytes, held_bytes, measure
from medinv.solvers import Diffusion

_GIB = 2**30
_ROOM = 0.95  # of the available memory that a plan may take
_COUNTED = (16, 32)  # slices of the slabs on which tensors are counted


@dataclass(frozen=True)
class Plan:
    """What a run will cost.

    Attributes:
        seconds: by method, all samples together.
        host_bytes: most memory of the process, with what it holds already.
        device_bytes: most memory of torch's tensors on a CUDA device, 0 if it runs on the CPU.
        available_bytes: what there is where the solver runs, with what is held; None if unknown.
        batch: slices that pass through the network at once.

    Example:
        >>> print(Plan({"FBP": 3.0, "DDS": 237.0}, 2**30, 0, 2**34, 8))
        about 4.0 minutes and 1.0 GiB of 16.0 GiB, 8 slices at a time
    """

    seconds: dict[str, float]
    host_bytes: int
    device_bytes: int
    available_bytes: int | None
    batch: int

    def __str__(self) -> str:
        """One line."""
        total = sum(self.seconds.values())
        duration = f"{total / 60:.1f} minutes" if total >= 60 else f"{total:.0f} seconds"
        known = self.available_bytes
        of = "" if known is None else f" of {known / _GIB:.1f} GiB"
        n_bytes, where = ((self.device_bytes, " on the GPU") if self.device_bytes
                          else (self.host_bytes, ""))
        return (f"about {duration} and {n_bytes / _GIB:.1f} GiB{of}{where}, {self.batch} "
                "slices at a time")

    def facts(self) -> dict[str, Any]:
        """For programs: the attributes, and minutes in all."""
        return {"minutes": sum(self.seconds.values()) / 60, **vars(self)}


@dataclass(frozen=True)
class _Memory:
    """Bytes: a volume's, those alive between network calls and during one, one batch's."""

    between: int
    during: int
    batch: int

    def total(self, share: float) -> int:
        """With a batch of ``share`` of the size that was tried."""
        return max(self.between, self.during + int(share * self.batch))


class _Enough(Exception):  # noqa: N818  (no error)
    """The probe has seen what it needs."""


@torch.no_grad()
def plan(recipe: ReconstructRecipe, measured: Measured, prior: Prior | None) -> Plan:
    """Try three steps of each method on a slab, and choose the batch that fits into memory.

    The prior's batch is made smaller where it has to be.

    Raises:
        InputError: the memory does not suffice even for one slice at a time.
    """
    held, room = held_bytes(), available_bytes()
    device = device_bytes(measured.y.device)
    chunk = 1 if prior is None else largest_chunk(prior)
    problem = measured.problem
    few = slab(problem, chunk)
    growth = problem.n_slices / few.n_slices
    few.linear.norm()
    part = None if prior is None else prior_of_slab(prior, problem, chunk)
    network = _network(few, part)
    methods = (*recipe.baselines, recipe.solver)
    tried = [_try(s, few, part, growth, network[0]) for s in methods]
    seconds = {s.title: took for s, (took, _) in zip(methods, tried, strict=True)}
    seconds[recipe.solver.title] *= recipe.samples
    gradient = _gradient(few, part) if any(_differentiates(s) for s in methods) else 0
    needs = [_memory(s, problem, prior, _adapting(s, few, part, network[1], peak), gradient)
             for s, (_, peak) in zip(methods, tried, strict=True)]
    host = held + _kept(recipe, few, growth)
    if device is None:
        fixed, available = host, None if room is None else held + room
    else:
        (fixed, room), held = device, device[0]
        available = held + room
    batch = chunk
    while True:
        total = fixed + max(need.total(batch / chunk) for need in needs)
        if available is None or total <= held + _ROOM * (available - held) or batch == 1:
            break
        batch //= 2
    if available is not None and total > available:
        raise InputError(
            f"memory: this run needs about {total / _GIB:.1f} GiB, {available / _GIB:.1f} GiB are "
            "there; take fewer slices (measurement.slices) or larger voxels (measurement.pool), "
            "leave out baselines, or use a machine with more memory")
    if prior is not None:
        limit_chunks(prior, batch)
    if device is None:
        return Plan(seconds, total, 0, available, batch)
    return Plan(seconds, host, total, available, batch)


def _network(few: Problem, prior: Prior | None) -> tuple[float, int]:
    """Seconds and bytes of one network call on the slab; the first call warms up."""
    if prior is None:
        return 0.0, 0
    x = few.linear.adjoint(few.y)
    prior(x, 1.0)
    with measure(x.device) as cost:
        prior(x, 1.0)
    return cost.seconds, cost.peak_bytes


def _gradient(few: Problem, prior: Prior | None) -> int:
    """Bytes of one backpropagation through the network, of the slab."""
    if prior is None:
        return 0
    x = few.linear.adjoint(few.y)
    with measure(x.device) as cost:
        D, vjp = linearize(prior, x, 1.0)
        vjp(D)
    return cost.peak_bytes


def _differentiates(settings: SolverSettings) -> bool:
    """Whether the method goes through the network's Jacobian."""
    solver = settings.build()
    return isinstance(solver, Diffusion) and "jacobian" in solver.needs


def _try(settings: SolverSettings, few: Problem, prior: Prior | None, growth: float,
         network: float) -> tuple[float, int]:
    """Seconds of the whole volume, and bytes of three steps on the slab."""
    with measure(few.y.device) as cost:
        seconds = _seconds(settings, few, prior, growth, network)
    return seconds, cost.peak_bytes


def _adapting(settings: SolverSettings, few: Problem, prior: Prior | None, network: int,
              peak: int) -> int:
    """Bytes of the network: of a call, or of what adapts it, as the trial's peak tells."""
    if "adaptation" not in settings.fields:
        return network
    return max(network, peak - _count(_wrapped(settings), few, prior)[1])


def _wrapped(settings: SolverSettings) -> SolverSettings:
    """The solver around which a prior adapts, which needs no network where tensors are counted."""
    return SolverSettings.model_validate(settings.fields.get("solver") or {"name": "DDS"})


def _seconds(settings: SolverSettings, few: Problem, prior: Prior | None, growth: float,
             network: float) -> float:
    """Of the whole volume: setup, and a step as often as there are steps.

    The first step warms up; of the two that follow the faster counts, which other programs
    disturbed less.
    """
    start, ends = time.perf_counter(), list[float]()

    def on_step(i: int, x: Tensor) -> None:  # noqa: ARG001
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        ends.append(time.perf_counter())
        if len(ends) > 2:
            raise _Enough

    with suppress(_Enough):
        _run(settings, few, prior, on_step)
    if settings.steps is None or len(ends) < 2:
        return (time.perf_counter() - start) * growth
    step = min(after - before for before, after in pairwise(ends))
    setup = max(ends[0] - start - step, 0.0)
    if "adaptation" in settings.fields:
        return setup + settings.steps * (step + network * (growth - 1))
    return (setup + settings.steps * step) * growth


def _memory(settings: SolverSettings, problem: Problem, prior: Prior | None,
            batch: int, gradient: int) -> _Memory:
    """Of the whole volume: a straight line through two slabs, larger than operators' blocks."""
    if "adaptation" in settings.fields:
        return _memory(_wrapped(settings), problem, prior, batch, gradient)
    counts = {n: _count(settings, slab(problem, n), prior) for n in _COUNTED}
    (small, low), (large, high) = ((slab(problem, n).n_slices, counts[n]) for n in _COUNTED)
    more = (problem.n_slices - large) / max(large - small, 1)
    between, during = (int(b + more * (b - a)) for a, b in zip(low, high, strict=True))
    if _differentiates(settings):
        batch = max(batch, gradient)
    return _Memory(between, during, batch if needs_prior(settings) else 0)


def _count(settings: SolverSettings, few: Problem, prior: Prior | None) -> tuple[int, int]:
    """Most bytes alive at all, and in a network call: with a prior that is one multiplication."""
    steps: list[int] = []

    def on_step(i: int, _: Tensor) -> None:
        steps.append(i)
        if len(steps) > 1:
            raise _Enough

    with TensorCount() as count, suppress(_Enough):
        light = None if prior is None else _Light(prior, count)
        pair = ProductPrior([light, light]) if light and isinstance(prior, ProductPrior) else light
        _run(settings, few, pair, on_step)
    return count.peak_bytes, 0 if light is None else light.held


def _run(settings: SolverSettings, few: Problem, prior: Prior | None, on_step: Any) -> Tensor:  # noqa: ANN401
    solver = settings.build()
    if needs_prior(settings):
        rng = Generator().manual_seed(0)
        return solver(few, prior, rng=rng, on_step=on_step)  # type: ignore[no-any-return]
    return solver(few, on_step=on_step)  # type: ignore[no-any-return]


def _kept(recipe: ReconstructRecipe, few: Problem, growth: float) -> int:
    """Images of the methods, which are kept until all is written."""
    image = few.linear.adjoint(few.y)
    n = len(recipe.baselines) + (1 if recipe.samples == 1 else 3)
    return int(n * image.numel() * image.element_size() * growth)


class _Light(Prior):
    """The denoiser of white noise in the place of a network; notes what is alive around it."""

    def __init__(self, prior: Prior, count: TensorCount) -> None:
        super().__init__()
        self.dtype, self.ndim, self.scale = prior.dtype, prior.ndim, prior.scale
        self.count, self.held = count, 0

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``x / (1 + sigma^2)``."""
        denoised = x / (1 + float(sigma) ** 2)
        self.held = max(self.held, self.count.alive_bytes)
        return denoised
