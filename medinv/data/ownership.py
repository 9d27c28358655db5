"""Which files medinv wrote: only those are ever removed or replaced, and only when asked to.

An output folder holds `LIST`, the names of what a run wrote there (`claim`). A folder of
intermediate states holds `MARK` (`open_own`). Whatever is not listed or marked is the user's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path, PurePosixPath

from medinv.data.atomic import write_json, write_text
from medinv.errors import OutputError

LIST = "medinv-files.json"
MARK = "medinv-unfinished.txt"
STATE = ".snapshot"  # the suffix of a file of intermediate states
_MARK_TEXT = "medinv keeps an unfinished run in this folder, and removes its files at the end.\n"
_MAX_LIST_BYTES = 10_000_000


def check_free(path: str | Path, *, overwrite: bool = False) -> None:
    """Refuse a file name that is taken.

    Args:
        path: of a file to be written.
        overwrite: whether the user asked for a file there to be replaced.

    Raises:
        OutputError: it is taken, and not by a file that may be replaced.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: expected a file name, found a folder; choose another name")
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path}: expected a new name, found a file; choose another one, or "
                          "pass --overwrite (overwrite=True)")


def claim(folder: str | Path, names: Iterable[str], *, replace: bool = False) -> None:
    """Make a folder ready for files of these names, and list them there as medinv's own.

    Args:
        folder: may not exist yet, or hold files of the user's.
        names: of what will be written, relative to it; a folder's ends in ``/``.
        replace: remove the files that an earlier run listed.

    Raises:
        OutputError: as for `check_claim`; nothing has been changed then.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> claim(folder, ["figure.png"])
    >>> sorted(path.name for path in folder.iterdir())
    ['medinv-files.json']
    """
    folder, names = Path(folder), list(names)
    check_claim(folder, names, replace=replace)
    for name in listed(folder):
        _remove(folder / name, folder)
    record(folder, names)


def check_claim(folder: str | Path, names: Iterable[str], *, replace: bool = False) -> None:
    """Refuse names that are taken in a folder; arguments as for `claim`.

    Raises:
        OutputError: one belongs to the user, or there are results of an earlier run that may not
            be replaced.
    """
    folder = Path(folder)
    own = listed(folder)
    there = [name for name in own if os.path.lexists(folder / name)]
    if there and not replace:
        raise OutputError(f"{folder}: holds the results of an earlier run ({_some(there)}); "
                          "choose another folder, or pass --overwrite (overwrite=True) to remove "
                          "them")
    foreign = [name for name in names if _is_foreign(folder, name, own)]
    if foreign:
        raise OutputError(f"{folder}: {_some(foreign)} would be written, but such a file is there "
                          "that no run of medinv wrote; move it away or choose another folder")


def _is_foreign(folder: Path, name: str, own: list[str]) -> bool:
    """Whether the user has something under the name."""
    path = folder / name
    if name.endswith("/"):
        inside = [path] if path.is_symlink() or path.is_file() else list(path.rglob("*"))
        return any(item.is_symlink() or not item.is_dir() for item in inside
                   if item.relative_to(folder).as_posix() not in own)
    return os.path.lexists(path) and (name not in own or path.is_dir())


def record(folder: str | Path, names: Iterable[str]) -> None:
    """Write the list of what medinv wrote into a folder.

    Raises:
        OutputError: the list could not be written.
    """
    files = [name for name in sorted(names) if not name.endswith("/")]
    write_json(Path(folder) / LIST, {"medinv": version("medinv"), "files": files})


def listed(folder: str | Path) -> list[str]:
    """The names that medinv's list in a folder tells, and that lie inside it; none without one.

    Raises:
        OutputError: there is a file of the list's name that is no list of medinv.
    """
    path = Path(folder) / LIST
    if not os.path.lexists(path):
        return []
    try:
        if path.stat().st_size > _MAX_LIST_BYTES:
            raise ValueError("too long")
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        if not isinstance(files, list):
            raise ValueError("no list")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise OutputError(f"{path}: expected the list of what medinv wrote, but it cannot be "
                          "read; move it away or choose another folder") from error
    return [name for name in files if isinstance(name, str) and _is_inside(name)]


def _is_inside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not ({"..", "/"} & set(parts) or "\\" in name or "\0" in name)


def open_own(folder: str | Path) -> None:
    """Make a marked folder for intermediate states, unless it is there.

    Raises:
        OutputError: there is something that medinv did not make.
    """
    check_own(folder)
    write_text(Path(folder) / MARK, _MARK_TEXT)


def check_own(folder: str | Path) -> None:
    """Refuse a folder that is neither new, empty nor marked.

    Raises:
        OutputError: it is not.
    """
    folder = Path(folder)
    if is_own(folder) or not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir() or any(folder.iterdir()):
        raise OutputError(f"{folder}: medinv keeps unfinished runs under this name, but what is "
                          "there is not medinv's; move it away or choose another output")


def is_own(folder: str | Path) -> bool:
    """Whether medinv's mark is in the folder."""
    folder = Path(folder)
    return not folder.is_symlink() and (folder / MARK).is_file()


def clear_own(folder: str | Path) -> None:
    """Remove the states in a marked folder, and the folder unless something else is in it."""
    folder = Path(folder)
    if is_own(folder):
        clear_states(folder)
        with suppress(OSError):
            (folder / MARK).unlink()
        _remove_empty(folder)


def clear_states(folder: Path) -> None:
    """Remove the states in a folder and below; what else is there stays."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is inside comes first
        if path.is_symlink():
            continue
        if path.is_dir():
            _remove_empty(path)
        elif path.suffix == STATE:
            with suppress(OSError):
                path.unlink()


def _remove(path: Path, folder: Path) -> None:
    """Remove a file below ``folder``, and the folders that it leaves empty."""
    parents = [parent for parent in path.parents if folder in parent.parents]
    if path.is_dir() and not path.is_symlink() or any(parent.is_symlink() for parent in parents):
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the file of an earlier run could not be removed "
                          f"({error.strerror or error})") from error
    for parent in parents:
        _remove_empty(parent)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
