"""Slices of many volumes for training, without loading the volumes.

A volume is decoded once and written to the cache as an uncompressed ``.npy`` file whose first axis
runs over the slices of the wanted plane; a slice is then one contiguous read of a memory map,
shared by all workers through the operating system's page cache. The name of the file is the
checksum of the source and of the preparation, so a changed file or setting is another entry and
nothing is ever stale; ``.npy`` is read without pickle.

Measured with ``benchmarks/slice_cache.py`` (three int16 volumes of 256 x 256 x 128; ranges of five
runs on two busy CPU cores), a random slice takes 85-240 ms if the file is decoded, 20-85 ms with
MONAI's PersistentDataset, which unpickles the whole volume, 0.02-2 ms with its CacheDataset, which
holds every volume in the memory of every process, and 0.02-0.25 ms here.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from medinv.data.atomic import replacing
from medinv.data.geometry import to_ras
from medinv.data.nifti import read_nifti
from medinv.data.sets.checksums import file_hash
from medinv.data.sets.fetch import cache_folder
from medinv.errors import DataError

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")

_FORMAT = 3  # raise it when the same source and preparation would give another file


class SliceStack:
    """The slices of one volume: ``stack[i]`` is (y, x), read from the disk when asked for.

    It is picklable, and every process opens the memory map for itself.

    Args:
        source: the file to decode, once.
        prepare: makes the slices (n, y, x) of it. Its ``repr`` is part of the entry's name, so it
            must tell everything that decides the result: a frozen dataclass does.
        folder: where the cache is; the user's cache folder if not given.

    Example:
        >>> import tempfile
        >>> from medinv.data import shepp_logan
        >>> folder = Path(tempfile.mkdtemp())
        >>> shepp_logan((4, 8, 8)).to_nifti(folder / "a.nii.gz")
        >>> stack = SliceStack(folder / "a.nii.gz", PlaneOf("coronal"), folder / "cache")
        >>> len(stack), stack[3].shape
        (8, torch.Size([4, 8]))
    """

    def __init__(self, source: str | Path, prepare: Callable[[Path], Tensor],
                 folder: str | Path | None = None) -> None:
        self.source, self.prepare = Path(source), prepare
        self.folder = Path(folder) if folder is not None else cache_folder("slices")
        self._map: np.ndarray | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_map": None}

    def __len__(self) -> int:
        return int(self._slices().shape[0])

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self._slices()[index]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows and columns."""
        n, y, x = self._slices().shape
        return n, y, x

    def _slices(self) -> np.ndarray:
        if self._map is None:
            path = self.folder / f"{self._name()}.npy"
            if not path.is_file():
                self._write(path)
            self._map = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._map

    def _name(self) -> str:
        if not self.source.is_file():
            raise DataError(f"{self.source}: expected a volume, found no file; check the path")
        stat = self.source.stat()
        checksum = _checksum(self.source.resolve(), stat.st_size, stat.st_mtime_ns)
        text = f"{_FORMAT} {checksum} {self.prepare!r}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _write(self, path: Path) -> None:
        slices = self.prepare(self.source)
        if slices.ndim != 3 or not slices.numel():
            raise DataError(f"{self.source}: expected slices (n, y, x), found shape "
                            f"{tuple(slices.shape)}")
        with replacing(path) as temporary:
            np.save(temporary, slices.contiguous().numpy(), allow_pickle=False)


@cache
def _checksum(path: Path, size: int, mtime_ns: int) -> str:
    """Hash a file once, however many planes are cut from it, as long as it does not change."""
    return file_hash(path)


@dataclass(frozen=True)
class PlaneOf:
    """Slices of a NIfTI volume in an anatomical plane, whatever the order of its axes.

    The volume is turned to RAS+ by swaps and flips alone. Axial slices have rows towards the
    front and columns to the right; coronal and sagittal slices have rows upwards, and columns to
    the right and to the front.
    """

    plane: Plane

    def __call__(self, path: Path) -> Float[Tensor, "n y x"]:
        """Decode the volume; slices run upwards, to the front, or to the right."""
        data = to_ras(read_nifti(path)).data
        return data.movedim(PLANES.index(self.plane), 0)


class VolumeSlices(Dataset[Tensor]):
    """Every slice of many volumes as one map-style data set, for a `DataLoader`.

    Args:
        files: NIfTI volumes.
        plane: which slices.
        folder: the cache; the user's cache folder if not given. What it lacks is decoded at
            construction, one volume in memory at a time.
        transform: applied to each slice (y, x); picklable where workers are spawned.

    Raises:
        DataError: no volumes, or one that cannot be read.

    Example:
        >>> import tempfile
        >>> from medinv.data import shepp_logan
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("a.nii.gz", "b.nii.gz"):
        ...     shepp_logan((4, 8, 8)).to_nifti(folder / name)
        >>> slices = VolumeSlices(sorted(folder.glob("*.nii.gz")), "axial", folder / "cache")
        >>> len(slices), slices[5].shape
        (8, torch.Size([8, 8]))
    """

    def __init__(self, files: Sequence[str | Path], plane: Plane = "axial",
                 folder: str | Path | None = None,
                 transform: Callable[[Tensor], Tensor] | None = None) -> None:
        if not files:
            raise DataError("VolumeSlices: expected at least one volume, got none")
        self.stacks = [SliceStack(file, PlaneOf(plane), folder) for file in files]
        self.transform = transform
        self._ends = list(accumulate(map(len, self.stacks)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        volume = bisect_right(self._ends, index)
        start = self._ends[volume - 1] if volume else 0
        image = self.stacks[volume][index - start]
        return image if self.transform is None else self.transform(image)
