"""Unpack archives of others: nothing leaves the target folder, nothing explodes."""

from __future__ import annotations

import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from medinv.errors import DownloadError

_LARGEST_RATIO = 200  # of unpacked to packed bytes; deflate itself reaches 1032 on zeros


def extract_members(archive: Path, members: Iterable[str], folder: Path) -> None:
    """Extract the ``members`` that a zip file (a wheel) holds into ``folder``.

    Raises:
        DownloadError: not a zip file, any member's path leaves the folder or is a link, or the
            members unpack to more than 200 times the archive's size.
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
    if sum(info.file_size for info in infos) > _LARGEST_RATIO * archive.stat().st_size:
        zipped.close()
        raise DownloadError(
            f"{archive.name}: refused, it unpacks to more than {_LARGEST_RATIO} times its size"
        )
    return zipped


def _unpack_tar(archive: Path, folder: Path) -> None:
    limit = _LARGEST_RATIO * archive.stat().st_size
    try:
        with tarfile.open(archive) as tar:
            if sum(member.size for member in tar) > limit:
                raise DownloadError(
                    f"{archive.name}: refused, it unpacks to more than {_LARGEST_RATIO} times "
                    "its size"
                )
            tar.extractall(folder, filter="data")
    except tarfile.FilterError as error:
        raise DownloadError(f"{archive.name}: refused, {error}") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DownloadError(
            f"{archive.name}: expected a whole zip or tar file: {error}") from error
