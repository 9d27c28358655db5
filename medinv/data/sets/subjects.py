"""The files of a split by subject: nobody is trained on and tested on."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from medinv.data.sets.manifests import Manifest, SubjectSplit
from medinv.errors import DataError


def place(subject: str) -> float:
    """Where a subject stands in [0, 1): the first 6 bytes of the sha256 of its name.

    >>> place("IXI002") == place("IXI002"), 0 <= place("IXI012") < 1
    (True, True)
    """
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:6], "big") / 2**48


def subject_files(manifest: Manifest, split: str, root: str | Path) -> dict[str, list[Path]]:
    """The files of ``split`` under ``root`` by subject, both sorted.

    Args:
        manifest: a data set with splits by subject.
        split: ``train``, ``validation``, ``test``...
        root: the folder that holds the set.

    Raises:
        DataError: no such split by subject, or a file whose subject cannot be told.

    Example:
        >>> import tempfile
        >>> from medinv.data import load_manifest
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "multicoil_val").mkdir()
        >>> (root / "multicoil_val" / "2022061203_T101.h5").touch()
        >>> list(subject_files(load_manifest("m4raw"), "validation", root))
        ['2022061203']
    """
    part = manifest.splits.get(split)
    if not isinstance(part, SubjectSplit):
        known = [n for n, value in manifest.splits.items() if isinstance(value, SubjectSplit)]
        raise DataError(f"{manifest.name}: no split {split!r} by subject; it has "
                        f"{', '.join(known) or 'none'}")
    low, high = part.share
    groups: dict[str, list[Path]] = {}
    found = {path for pattern in part.files for path in Path(root).glob(pattern)}
    for path in sorted(filter(Path.is_file, found)):
        subject = _subject(manifest, path.relative_to(root).as_posix())
        if low <= place(subject) < high:
            groups.setdefault(subject, []).append(path)
    return dict(sorted(groups.items()))


def _subject(manifest: Manifest, name: str) -> str:
    match = re.search(manifest.subject or "", name)
    if match is None or not match.groupdict().get("subject"):
        raise DataError(
            f"{manifest.name}: the subject of a file that a split matches cannot be told by "
            f"{manifest.subject!r}; move the file away, or correct `subject`"
        )
    return match["subject"]
