"""Unfinished computations on disk: a killed run goes on where it was.

A loop of a solver depends on its image, the state of its random numbers, and on whatever else
keeps a state from step to step: the coupling of slices, a prior that adapts itself. All of it is
written every few minutes, whole or not at all, and read back at the start of the loop. On a CPU
the result is then that of an uninterrupted run, bit for bit.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_map_only

from medinv.data.atomic import replacing
from medinv.data.ownership import STATE, clear_states
from medinv.errors import CheckpointError


@runtime_checkable
class Stateful(Protocol):
    """What changes from step to step beside the image."""

    def state(self) -> dict[str, Any]:
        """Tensors, numbers, and lists and dicts of them."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take on a state that `state` returned."""


@dataclass(frozen=True)
class Snapshots:
    """A folder that holds what a computation has done so far.

    Args:
        folder: where the files are; made at the first of them, removed by `clear`.
        fingerprint: of everything that decides the result. A snapshot of another is refused.
        minutes: the least time between two snapshots of one loop; 0 keeps every step.
        joined: parts of the state that the solver does not know of (see `joined_by`).

    Example:
        >>> import tempfile
        >>> snapshots = Snapshots(Path(tempfile.mkdtemp(), "unfinished"), "recipe 1", minutes=0)
        >>> snapshots.finished("sample", lambda: torch.ones(2)).tolist()
        [1.0, 1.0]
        >>> snapshots.finished("sample", lambda: torch.zeros(2)).tolist()  # known already
        [1.0, 1.0]
    """

    folder: Path
    fingerprint: str
    minutes: float = 3.0
    joined: tuple[Stateful, ...] = field(default=())

    def part(self, name: str) -> Snapshots:
        """Snapshots of one part of the computation, in a folder of their own."""
        return Snapshots(self.folder / name, self.fingerprint, self.minutes, self.joined)

    def joined_by(self, other: Stateful) -> Snapshots:
        """The same, with the state of ``other`` in every snapshot of a loop."""
        return Snapshots(self.folder, self.fingerprint, self.minutes, (*self.joined, other))

    def finished(self, name: str, compute: Callable[[], Tensor],
                 rng: Generator | None = None) -> Tensor:
        """The result of ``compute``, which is called only if it is not known from before.

        Args:
            name: of the result, for its file.
            compute: makes it.
            rng: random numbers that ``compute`` uses up; they end as after it.
        """
        known = self.load(name)
        if known is None:
            result = compute()
            self.save(name, {"result": result, "rng": None if rng is None else rng.get_state()})
            return result
        if rng is not None:
            rng.set_state(known["rng"])
        stored: Tensor = known["result"]
        return stored

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write ``state``, atomically.

        Raises:
            OutputError: the file could not be written.
        """
        with replacing(self._path(name)) as temporary, temporary.open("wb") as file:
            torch.save({"fingerprint": self.fingerprint, "state": state}, file)

    def load(self, name: str) -> dict[str, Any] | None:
        """What was saved under ``name``, or None.

        Raises:
            CheckpointError: a snapshot of another computation, or a damaged file.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            fingerprint, state = content["fingerprint"], content["state"]
        except (RuntimeError, OSError, EOFError, KeyError, TypeError,
                pickle.UnpicklingError) as error:
            raise CheckpointError(f"{path}: expected a snapshot of a run, but it cannot be read "
                                  f"({type(error).__name__}); delete it, or start anew without "
                                  "--resume") from error
        if fingerprint != self.fingerprint:
            raise CheckpointError(
                f"{path}: this is a snapshot of another run: recipe, input, prior or precision "
                "has changed since. Change it back, choose another output, or start anew without "
                "--resume")
        loaded: dict[str, Any] = state
        return loaded

    def clear(self) -> None:
        """Remove the snapshots, and the folder unless something else is in it."""
        clear_states(self.folder)
        with suppress(OSError):
            self.folder.rmdir()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{STATE}"


class Resumable:
    """The state of a solver's loop, restored at its start and offered after each step.

    Args:
        snapshots: where it is kept; None keeps nothing.
        rng: the loop's random numbers, torch's global ones if None.
        others: what else the loop changes; None stands for nothing.

    Example:
        >>> def double(x, steps, snapshots=None):
        ...     loop = Resumable(snapshots, None)
        ...     first, x = loop.restore(x)
        ...     for i in range(first, steps):
        ...         x = 2 * x
        ...         loop.offer(i + 1, x)
        ...     return x
        >>> double(torch.ones(()), 3)
        tensor(8.)
    """

    def __init__(self, snapshots: Snapshots | None, rng: Generator | None,
                 *others: Stateful | None) -> None:
        self._snapshots, self._rng = snapshots, rng
        joined = () if snapshots is None else snapshots.joined
        self._others = [other for other in (*others, *joined) if other is not None]
        self._saved = time.monotonic()

    def restore(self, x: Tensor) -> tuple[int, Tensor]:
        """The first step to do, and its image: 0 and ``x`` unless a snapshot knows better."""
        known = None if self._snapshots is None else self._snapshots.load("loop")
        if known is None:
            return 0, x
        self._generator(x).set_state(known["rng"])
        others = tree_map_only(Tensor, lambda t: t.to(x.device), known["others"])
        for other, state in zip(self._others, others, strict=True):
            other.restore(state)
        return known["step"], known["x"].to(x.device)

    def offer(self, step: int, x: Tensor) -> None:
        """Save the state with which ``step`` starts, if it is time to."""
        if self._snapshots is None or (
                time.monotonic() - self._saved < 60 * self._snapshots.minutes):
            return
        self._snapshots.save("loop", {
            "step": step, "x": x, "rng": self._generator(x).get_state(),
            "others": [other.state() for other in self._others],
        })
        self._saved = time.monotonic()

    def _generator(self, x: Tensor) -> Generator:
        if self._rng is not None:
            return self._rng
        return torch.cuda.default_generators[x.device.index or 0] if x.is_cuda else (
            torch.default_generator)
