"""The one loop over noise levels: a method is its step.

Resuming, progress, random numbers and what is kept alive from step to step live here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Generator, Tensor

from medinv.errors import NumericalError
from medinv.samplers.renoise import gaussian_like
from medinv.samplers.snapshots import Resumable, Snapshots, Stateful

OnStep: TypeAlias = Callable[[int, Tensor], None]
"""Called after step ``i`` (from 0) with the current image, in physical units; don't modify it."""

Step: TypeAlias = Callable[[int, Tensor, float, float], tuple[Tensor, Tensor | None]]
"""``(i, x, sigma, sigma_next)`` to the image of the next level, and the estimate to show,
or None where it reported one itself. It may work in the memory of ``x``, which is lost."""


@dataclass(frozen=True, eq=False)
class Run:
    """What a call of a method is given beside the problem and the prior.

    Attributes:
        rng: source of random numbers; torch's global one if None.
        on_step: called after each step.
        snapshots: where the unfinished state is kept, and continued from.
        unit: physical intensity of one prior unit, for ``on_step``.
    """

    rng: Generator | None = None
    on_step: OnStep | None = None
    snapshots: Snapshots | None = None
    unit: float = 1.0

    def noise(self, like: Tensor, *, shared_axis: int | None = None) -> Tensor:
        """Standard normal noise (see `gaussian_like`)."""
        return gaussian_like(like, self.rng, shared_axis=shared_axis)

    @property
    def seed(self) -> int:
        """That of the random numbers, for what needs some of its own."""
        return torch.initial_seed() if self.rng is None else self.rng.initial_seed()

    def carry(self, x: Tensor) -> Tensor:
        """What the next step starts from; ``x``. `medinv.evaluation.laws` folds noise here."""
        return x

    def report(self, i: int, x: Tensor) -> None:
        """Show the estimate of step ``i``, given in prior units."""
        if self.on_step is not None:
            self.on_step(i, self.unit * x)


def descend(levels: Sequence[float], x: Tensor, step: Step, run: Run,
            *states: Stateful | None) -> Tensor:
    """Go from the first noise level to the last, or on from where an interrupted run was.

    Args:
        levels: decreasing noise levels; there is one step less.
        x: the image at the first; its memory may be lost.
        step: from one level to the next.
        run: random numbers, progress and snapshots.
        states: what else ``step`` changes; None stands for nothing.

    Returns:
        The image at the last level.

    Raises:
        NumericalError: the image has NaN or infinity; the step is named.

    Example:
        >>> import torch
        >>> halve = lambda i, x, sigma, sigma_next: (x / 2, x)
        >>> descend([1.0, 0.5, 0.0], torch.ones(1), halve, Run())
        tensor([0.2500])
    """
    loop = Resumable(run.snapshots, run.rng, *states)
    first, x = loop.restore(x)
    for i, (sigma, sigma_next) in enumerate(pairwise(levels[first:]), first):
        x, shown = step(i, run.carry(x), sigma, sigma_next)
        if not bool(x.isfinite().all()):
            raise NumericalError(f"step {i + 1} of {len(levels) - 1}: the image is no longer "
                                 "finite; the solver's weights may be too large, or the prior or "
                                 "operator broken")
        if shown is not None:
            run.report(i, shown)
        del shown  # the next step takes its memory
        loop.offer(i + 1, x)
    return x
