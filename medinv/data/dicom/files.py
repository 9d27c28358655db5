"""The files of a DICOM folder, zip or DICOMDIR, each opened when it is needed.

Names in DICOM exports often hold UIDs or a patient's name. A message therefore shows the path
that the caller gave, UIDs masked, and counts the files inside instead of naming them.
"""

from __future__ import annotations

import io
import logging
import re
import stat
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from medinv.data.expansion import check_expansion
from medinv.errors import DataError, MedinvError

if TYPE_CHECKING:
    from collections.abc import Iterator

PathOrPaths = str | Path | Sequence[str | Path]

_UID = re.compile(r"\d+(?:\.\d+){4,}")
_MAX_MEMBER_BYTES = 4 * 2**30
_MAX_ZIP_BYTES = 64 * 2**30


@dataclass(frozen=True)
class File:
    """One file of an export: its number in name order, and how to open it."""

    number: int
    open: Callable[[], io.BufferedIOBase]


def label(path: PathOrPaths) -> str:
    """The caller's path for messages, UIDs masked.

    >>> label("exports/1.2.840.113619.2.55.3/")
    'exports/<UID>'
    """
    if isinstance(path, (str, Path)):
        return _UID.sub("<UID>", str(Path(path)))
    return f"{len(path)} files"


@contextmanager
def refusing(name: str, what: str) -> Iterator[None]:
    """Turn whatever a parser raises on hostile bytes into a `DataError` that quotes none of them.

    The cause is left out on purpose: pydicom's messages quote the file's values. A panic of a
    codec written in Rust is no `Exception`.
    """
    try:
        yield
    except (MedinvError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise DataError(f"{name}: {what} ({type(error).__name__}); the file is damaged or cut off,"
                        " export it again") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom's warnings and log lines back: they quote values, UIDs among them."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def find_files(path: PathOrPaths) -> list[File]:
    """The files of a folder (with its subfolders), a zip, a DICOMDIR, a list, or one file.

    Raises:
        DataError: nothing there, a zip that is unsafe or damaged, or a DICOMDIR that points to
            files that are missing or outside its folder.
    """
    if not isinstance(path, (str, Path)):
        return _on_disk([Path(item) for item in path], label(path))
    path = Path(path)
    if path.is_dir():
        inside = (item for item in path.rglob("*") if not item.name.startswith("."))
        return _on_disk(sorted(item for item in inside if item.is_file()), label(path))
    if not path.is_file():
        raise DataError(f"{label(path)}: expected a DICOM folder, file or zip, found nothing; "
                        "check the path")
    if path.name.upper() == "DICOMDIR":
        return _on_disk(_listed(path), label(path))
    if zipfile.is_zipfile(path):
        return _in_zip(path)
    return _on_disk([path], label(path))


def _on_disk(paths: Sequence[Path], name: str) -> list[File]:
    for number, path in enumerate(paths, 1):
        if not path.is_file():
            raise DataError(f"{name}: file {number} of {len(paths)} is missing; check the list")
    return [File(number, _opener(path)) for number, path in enumerate(paths, 1)]


def _opener(path: Path) -> Callable[[], io.BufferedIOBase]:
    return lambda: path.open("rb")


def _listed(path: Path) -> list[Path]:
    """The images that a DICOMDIR lists, inside its folder."""
    import pydicom

    root = path.parent.resolve()
    with refusing(label(path), "expected a DICOMDIR, but it cannot be read"):
        dataset = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence"])
        records = [record.get("ReferencedFileID") for record in
                   dataset.get("DirectoryRecordSequence") or ()]
    names = [[name] if isinstance(name, str) else list(name) for name in records if name]
    paths = [root.joinpath(*(str(part) for part in parts)).resolve() for parts in names]
    if any(not item.is_relative_to(root) for item in paths):
        raise DataError(f"{label(path)}: it points to files outside its folder; refused. Pass the "
                        "folder of the images instead")
    return paths


def _in_zip(path: Path) -> list[File]:
    """The members of a zip; nothing is unpacked to the disk."""
    with refusing(label(path), "expected a zip of DICOM files, but it cannot be read"):
        archive = zipfile.ZipFile(path)
        members = sorted((item for item in archive.infolist() if not item.is_dir()),
                         key=lambda item: item.filename)
    _check_members(members, path)

    def opener(member: zipfile.ZipInfo) -> Callable[[], io.BufferedIOBase]:
        def open_member() -> io.BufferedIOBase:
            with refusing(label(path), "a member of the zip cannot be read"):
                return io.BytesIO(archive.read(member))

        return open_member

    return [File(number, opener(member)) for number, member in enumerate(members, 1)]


def _check_members(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Refuse paths that leave the folder, links, passwords, and sizes out of proportion."""
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{label(path)}: a member's path leaves the zip, or is a link; "
                            "refused. Zip the folder again")
        if member.flag_bits & 1:
            raise DataError(f"{label(path)}: the zip has a password; unpack it first")
    total = sum(member.file_size for member in members)
    largest = max((member.file_size for member in members), default=0)
    check_expansion(label(path), total, path.stat().st_size)
    if total > _MAX_ZIP_BYTES or largest > _MAX_MEMBER_BYTES:
        raise DataError(
            f"{label(path)}: expected a zip of at most {_MAX_ZIP_BYTES} bytes unpacked and "
            f"{_MAX_MEMBER_BYTES} for one file, found {total} and {largest}; unpack it and pass "
            "the folder"
        )
