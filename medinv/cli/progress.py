"""Progress bars with the time left, on the error stream so that results can be piped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from medinv.recipe.run import Progress as Stage
    from medinv.training import Progress as Update


_PAUSE_SECONDS = 30.0  # between two lines of a stage, where no terminal shows bars


@contextmanager
def stages() -> Iterator[Callable[[Stage], None]]:
    """Yield a callback that shows one line per stage of a reconstruction."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console).show
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bars:

        def show(stage: Stage) -> None:
            if stage.stage not in tasks:
                _finish(bars, tasks)
                tasks[stage.stage] = bars.add_task(stage.stage, total=stage.steps)
            bars.update(tasks[stage.stage], completed=stage.step)

        yield show
        _finish(bars, tasks)


class _Lines:
    """Progress for a file or a pipe: a line when a stage starts, every half minute, at its end."""

    def __init__(self, console: Console) -> None:
        self._console, self._stage, self._told = console, "", 0.0

    def show(self, stage: Stage) -> None:
        """A step of a reconstruction."""
        steps = "" if stage.steps is None else f": step {stage.step} of {stage.steps}"
        self._tell(stage.stage, f"{stage.stage}{steps}", last=stage.step == stage.steps)

    def show_update(self, update: Update) -> None:
        """An update of a training run."""
        left = timedelta(seconds=round(update.seconds_left))
        self._tell("training", f"training: update {update.step} of {update.updates}, loss "
                   f"{update.loss:.4f}, {left} left", last=update.step == update.updates)

    def _tell(self, stage: str, line: str, *, last: bool) -> None:
        now = time.monotonic()
        if stage != self._stage or last or now - self._told >= _PAUSE_SECONDS:
            self._stage, self._told = stage, now
            self._console.print(line, soft_wrap=True, highlight=False, markup=False)


def _finish(bars: Progress, tasks: dict[str, TaskID]) -> None:
    """Close the last stage: it may have ended before its largest number of steps."""
    if tasks:
        last = list(tasks.values())[-1]
        done = max(int(bars.tasks[last].completed), 1)
        bars.update(last, total=done, completed=done)


@contextmanager
def updates(total: int) -> Iterator[Callable[[Update], None]]:
    """Yield a callback that shows the updates of a training run and its last losses."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console).show_update
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}, validation {task.fields[validation]}, "
                   "{task.fields[left]} left"),
    )
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("training", total=total, loss="-", validation="-", left="-")
        average: float | None = None

        def show(update: Update) -> None:
            nonlocal average
            average = update.loss if average is None else 0.98 * average + 0.02 * update.loss
            left = timedelta(seconds=round(update.seconds_left))
            bars.update(task, completed=update.step, loss=f"{average:.4f}", left=str(left))
            if update.validation:
                mean = sum(update.validation.values()) / len(update.validation)
                bars.update(task, validation=f"{mean:.4f}")

        yield show
