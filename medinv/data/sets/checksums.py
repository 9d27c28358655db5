"""Is a file the one that a manifest describes?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from medinv.data.sets.manifests import DataFile
from medinv.errors import DataError


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Checksum of a file's content, lower-case hexadecimal.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "empty")
    >>> path.touch()
    >>> file_hash(path, "md5")
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def digest(paths: Iterable[Path]) -> str:
    """One checksum for many files: the sha256 of their sha256, sorted and joined."""
    return hashlib.sha256("".join(sorted(map(file_hash, paths))).encode()).hexdigest()


def verify_size(path: Path, file: DataFile, name: str) -> None:
    """Raise `DataError` where the size is known and another one."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        raise DataError(
            f"{path}: expected {file.size} bytes for {name}, found {size}; "
            "the file is incomplete or another version. Delete it and fetch again."
        )


def verify(path: Path, file: DataFile, name: str) -> None:
    """Raise `DataError` where the size or a checksum is known and another one."""
    verify_size(path, file, name)
    algorithm, expected = ("sha256", file.sha256) if file.sha256 else ("md5", file.md5)
    if expected is None:
        return
    found = file_hash(path, algorithm)
    if found != expected:
        raise DataError(
            f"{path}: expected {algorithm} {expected} for {name}, found {found}; "
            "the file is damaged or another version. Delete it and fetch again."
        )
