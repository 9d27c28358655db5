"""Slices of multi-coil k-space files with coil maps, for training on measurements.

Files have the fastMRI layout: ``kspace`` (slice, coil, ky, kx) in HDF5. HDF5 handles must not
cross a fork or be pickled, so every process opens its own, and keeps the last few open. Maps are
estimated once: the centre of k-space that ESPIRiT calibrates on, the size of the slice and the
settings decide them, so the checksum of these names their cache entry, and a file of gigabytes is
never hashed. Entries are ``.npy``, read without pickle and written atomically, so workers may
race for one.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from medinv.data.atomic import replacing
from medinv.data.safety import check_memory, hdf5_dataset, hdf5_errors, hdf5_part
from medinv.data.sets.fetch import cache_folder
from medinv.data.sets.headers import array_shapes
from medinv.errors import DataError
from medinv.operators.calibration import Width, centre_block, per_axis
from medinv.operators.coils import espirit

if TYPE_CHECKING:
    import h5py

_FORMAT = 2  # raise it when espirit() gives other maps for the same input
_OPEN_FILES = 16


class KSpaceSlice(NamedTuple):
    """One slice, as `KSpaceSlices` gives it; a `DataLoader` can batch it.

    Attributes:
        kspace: (coil, ky, kx) complex64.
        maps: (coil, y, x) complex64, ``sum_c |S_c|^2`` 1 in their support and 0 outside.
        file: index of the file.
        slice: index of the slice in it.
    """

    kspace: Tensor
    maps: Tensor
    file: int
    slice: int


class KSpaceSlices(Dataset[KSpaceSlice]):
    """Every slice of many k-space files, with ESPIRiT maps that are estimated once.

    Files may differ in coils and matrix; a `DataLoader` then needs ``batch_size=None``.

    Args:
        files: HDF5 files; only their headers are read here.
        key: data set that holds k-space (slice, coil, ky, kx).
        calibration_width: see `medinv.operators.coils.espirit`.
        threshold: see `medinv.operators.coils.espirit`.
        crop: see there.
        folder: the cache of maps; the user's cache folder if not given.

    Raises:
        DataError: no files, or one without four-dimensional k-space.
        InputError: on access, a slice whose centre is not fully sampled.

    Example:
        >>> import h5py, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with h5py.File(folder / "scan.h5", "w") as file:
        ...     file["kspace"] = torch.randn(2, 4, 24, 24, dtype=torch.complex64).numpy()
        >>> slices = KSpaceSlices([folder / "scan.h5"], calibration_width=12, folder=folder)
        >>> len(slices), slices[1].maps.shape
        (2, torch.Size([4, 24, 24]))
    """

    def __init__(self, files: Sequence[str | Path], key: str = "kspace", *,
                 calibration_width: Width = None, threshold: float = 0.02, crop: float = 0.95,
                 folder: str | Path | None = None) -> None:
        if not files:
            raise DataError("KSpaceSlices: expected at least one file, got none")
        self.files, self.key = [Path(file) for file in files], key
        self.calibration_width, self.threshold, self.crop = calibration_width, threshold, crop
        self.folder = Path(folder) if folder is not None else cache_folder("maps")
        self._ends = list(accumulate(_n_slices(file, key) for file in self.files))
        self._open: OrderedDict[Path, h5py.File] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> KSpaceSlice:
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        file = bisect_right(self._ends, index)
        number = index - (self._ends[file - 1] if file else 0)
        kspace = self._read(self.files[file], number)
        return KSpaceSlice(kspace, self._maps(kspace), file, number)

    def _read(self, path: Path, number: int) -> Tensor:
        with hdf5_errors(path):
            stored = hdf5_dataset(self._handle(path), self.key, path)
            check_memory(path, stored.shape[1:], itemsize=8)
            values = hdf5_part(stored, slice(number, number + 1), path=path)[0]
        if values.ndim != 3 or values.dtype.kind != "c":
            raise DataError(f"{path}: expected complex {self.key} (slice, coil, ky, kx), found "
                            f"{values.dtype} (slice, {', '.join(map(str, values.shape))})")
        return torch.from_numpy(values.astype(np.complex64, copy=False))

    def _handle(self, path: Path) -> Any:  # noqa: ANN401  (h5py has no types)
        """This process's handle; those of the process that it was forked from are let go."""
        import h5py

        if self._process != os.getpid():
            self._open, self._process = OrderedDict(), os.getpid()
        if path not in self._open:
            self._open[path] = h5py.File(path, "r")  # medinv.data.safety checks what is read
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]

    def _maps(self, kspace: Tensor) -> Tensor:
        path = self.folder / f"{self._maps_name(kspace)}.npy"
        if path.is_file():
            return torch.from_numpy(np.load(path, allow_pickle=False))
        maps = espirit(kspace, calibration_width=self.calibration_width,
                       threshold=self.threshold, crop=self.crop)
        with replacing(path) as temporary:
            np.save(temporary, maps.numpy(), allow_pickle=False)
        return maps

    def _maps_name(self, kspace: Tensor) -> str:
        """Checksum of all that decides the maps."""
        width, grid = self.calibration_width, kspace.shape[-2:]
        widths = per_axis("KSpaceSlices", width or 24, 2)
        centre = centre_block(kspace, [min(2 * w, n) for w, n in zip(widths, grid, strict=True)])
        settings = (_FORMAT, tuple(kspace.shape), width, self.threshold, self.crop)
        checksum = hashlib.sha256(repr(settings).encode())
        checksum.update(centre.contiguous().numpy().tobytes())
        return checksum.hexdigest()


def _n_slices(path: Path, key: str) -> int:
    if not path.is_file():
        raise DataError(f"{path}: expected an HDF5 file, found no file; check the path")
    shape = (array_shapes(path) or {}).get(key)
    if shape is None or len(shape) != 4:
        raise DataError(f"{path}: expected {key} (slice, coil, ky, kx), found "
                        f"{shape or 'no such data set'}; pass the key of multi-coil k-space")
    return shape[0]
