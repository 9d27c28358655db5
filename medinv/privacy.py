"""Names of folders often hold names of users and patients: texts that people pass on lose them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePath

_AT_START = re.compile(r"(?m)^[/~][^:\n]*/(?=[^/:\n]+:)")  # a message begins with its file
_ELSEWHERE = re.compile(r"(?<![\w:/.~-])~?(?:/[^\s/:;,'\"()<>|]+)+/(?=[^\s/])")


def without_folders(text: str, known: Iterable[str | Path] = ()) -> str:
    """A text in which absolute paths have lost their folders.

    Args:
        text: such as a message or a note.
        known: paths that may be in it; their folders are found even where they hold spaces.

    Example:
        >>> without_folders("/home/doe/Smith John/scan.h5: expected k-space; see /data/x/y.txt")
        'scan.h5: expected k-space; see y.txt'
        >>> without_folders("out/scan.h5 at 3/4 of https://example.org/a/b")
        'out/scan.h5 at 3/4 of https://example.org/a/b'
    """
    text = _AT_START.sub("", text)
    paths = [path for path in map(PurePath, known) if path.is_absolute() and len(path.parts) > 2]
    for path in sorted(paths, key=lambda path: len(path.parts), reverse=True):
        text = text.replace(str(path), path.name)
        text = re.sub(rf"{re.escape(str(path.parent))}/(?![^\s:]*/)", "", text)
    return _ELSEWHERE.sub("", text)
