"""Write a file, or a folder, whole or not at all.

The content goes to a temporary name beside the target, which `os.replace` then moves into place:
a reader sees the old file or the new one, and a full disk or a killed run leaves neither half.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from medinv.errors import OutputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends without an error.

    The temporary name keeps the suffixes of ``path``, for writers that choose a format by them.
    Missing parent folders are made.

    Raises:
        OutputError: on any `OSError` inside the block (disk full, no permission). The temporary
            file is removed; what stood under ``path`` before is untouched.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp(), "note.txt")
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("done")
    >>> target.read_text()
    'done'
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(6)}.partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as failure:
        error = _system_error(failure)
        raise OutputError(
            f"{path}: the file could not be written ({error.strerror or error}); nothing was left "
            f"under this name. {_advice(error)}"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_leftovers(path: str | Path) -> None:
    """Remove what `replacing` left beside ``path`` where it was killed; nobody may be writing.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / ".0123456789ab.partial.note.txt").write_text("ha")
    >>> remove_leftovers(folder / "note.txt")
    >>> list(folder.iterdir())
    []
    """
    path = Path(path)
    name = re.compile(r"\.[0-9a-f]{12}\.partial\." + re.escape(path.name))
    with suppress(OSError):
        for other in list(path.parent.iterdir()):
            if name.fullmatch(other.name) and other.is_file() and not other.is_symlink():
                other.unlink()


def _system_error(failure: BaseException) -> OSError:
    """What the system said, also where a library (torch) hides it behind an error of its own."""
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    raise failure


def _advice(error: OSError) -> str:
    """What to do about a file that could not be written."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "The folder is read-only for you: choose another one, or change its permissions."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free some space or choose another output folder."
    return "Choose another output folder."


def check_new_folder(folder: str | Path) -> None:
    """Refuse a folder that already holds something.

    Raises:
        OutputError: it does, or a file stands there.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = "one that is not empty" if folder.is_dir() else "a file"
        raise OutputError(f"{folder}: expected a new or empty folder, found {found}; choose "
                          "another name, or remove it")


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` when the block ends without an error.

    Raises:
        OutputError: ``folder`` holds something already, or any `OSError` inside the block. The
            temporary folder is removed.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp(), "series")
    >>> with replacing_folder(target) as temporary:
    ...     _ = (temporary / "one.txt").write_text("done")
    >>> [path.name for path in target.iterdir()]
    ['one.txt']
    """
    folder = Path(folder)
    check_new_folder(folder)
    temporary = folder.with_name(f".{secrets.token_hex(6)}.partial.{folder.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _flush_to_disk(path)
        os.replace(temporary, folder)
    except (OSError, RuntimeError) as failure:
        error = _system_error(failure)
        raise OutputError(
            f"{folder}: the folder could not be written ({error.strerror or error}); nothing was "
            f"left under this name. {_advice(error)}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, atomically.

    Raises:
        OutputError: the file could not be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Mapping[str, object]) -> None:
    """Write ``content`` as indented JSON to ``path``, atomically.

    JSON has no NaN and no infinity; such numbers become null.

    Raises:
        OutputError: the file could not be written.
    """
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flush_to_disk(path: Path) -> None:
    """Make a delayed write error (a full disk or quota) appear before the file takes its name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
