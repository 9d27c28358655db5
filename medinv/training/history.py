"""The rows that a training run leaves behind, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from medinv.data.atomic import remove_leftovers, write_text


class History:
    """``history.jsonl``: a row for each validation, each step once.

    Args:
        path: of the file. Rows after ``step`` are dropped: a killed run does them again.
        step: the last update that is done.

    Raises:
        OutputError: the file could not be written.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp(), "history.jsonl")
        >>> History(path, 0).add({"step": 4})
        >>> History(path, 2).add({"step": 3})
        >>> print(path.read_text(), end="")
        {"step": 3}
    """

    def __init__(self, path: Path, step: int) -> None:
        remove_leftovers(path)
        self._path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._rows = [line for line in lines if _step(line) <= step]
        if lines != self._rows:
            self._write()

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row."""
        self._rows.append(json.dumps(row))
        self._write()

    def _write(self) -> None:
        write_text(self._path, "".join(row + "\n" for row in self._rows))


def _step(line: str) -> float:
    """The step of a row; infinite for half a row."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
