"""fastMRI-layout HDF5: raw Cartesian k-space, slice by slice.

``kspace`` is (slice, coil, ky, kx), of single-coil files (slice, ky, kx), with rows along the
readout; ``mask`` (kx,) marks the columns that a test file holds; ``reconstruction_rss`` or
``reconstruction_esc`` is the reference (slice, y, x), the centre of the image of the whole field
of view; ``ismrmrd_header`` is the XML of the ISMRMRD standard. The frequency step is one over the
encoded field of view, so a voxel of an uncropped image is that field over the number of samples.
Source: Zbontar et al. 2018, fastMRI (arXiv:1811.08839).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from medinv.data.atomic import replacing
from medinv.data.geometry import placed
from medinv.data.heaps import check_heaps
from medinv.data.metadata import Metadata, contrast_of
from medinv.data.mri.arrays import check_finite
from medinv.data.mri.ismrmrd_header import Encoding, parse_header
from medinv.data.mri.kspace import KSpace, measured_points
from medinv.data.safety import (
    check_memory,
    hdf5_array,
    hdf5_dataset,
    hdf5_errors,
    hdf5_part,
)
from medinv.data.volume import Volume
from medinv.errors import DataError, MedinvWarning

if TYPE_CHECKING:
    import h5py

_SAFE_ATTRIBUTES = ("acquisition", "max", "norm", "acceleration", "num_low_frequency")
REFERENCES = ("reconstruction_rss", "reconstruction_esc")
_KNEE = ("CORPD_FBK", "CORPDFS_FBK")
_Number = TypeVar("_Number", int, float)
_BRAIN = ("AXFLAIR", "AXT1", "AXT1POST", "AXT1PRE", "AXT2")


def read_fastmri(path: str | Path, key: str | None = None, slices: slice | None = None) -> KSpace:
    """Read a fastMRI-layout file; only the wanted slices leave the disk.

    The attribute ``patient_id`` is not carried over.

    Args:
        path: an HDF5 file.
        key: data set that holds k-space, ``kspace`` if not given.
        slices: which slices to read; all of them if not given.

    Raises:
        DataError: no such file or key, not HDF5, a broken header, NaN or Inf, other axes, more
            than the memory holds, or data that lie in another file.
        ShapeError: the mask has another size than k-space.

    >>> import h5py, tempfile
    >>> name = Path(tempfile.mkdtemp(), "scan.h5")
    >>> with h5py.File(name, "w") as content:
    ...     content["kspace"] = np.ones((20, 4, 8, 6), np.complex64)
    >>> read_fastmri(name, slices=slice(3, 5)).shape
    (2, 8, 6)
    """
    with FastMRIFile(path, key) as file:
        return file.kspace(slices)


class FastMRIFile:
    """A fastMRI-layout file of which slices are read when they are wanted.

    It can be pickled and used after a fork: each process opens its own HDF5 handle.

    Args:
        path: an HDF5 file.
        key: data set that holds k-space.

    Attributes:
        shape: (slice, coil, ky, kx); a single-coil file has one coil.
        metadata: ``acquisition``, ``max``, ``norm``, ``n_slices``..., and the header's sizes.
        acquisition: how the samples were acquired.
        encoding: the sizes of the header, where the file has one.
        names: what the file holds.

    Raises:
        DataError: as for `read_fastmri`.

    >>> import h5py, tempfile
    >>> name = Path(tempfile.mkdtemp(), "scan.h5")
    >>> with h5py.File(name, "w") as content:
    ...     content["kspace"] = np.ones((20, 4, 8, 6), np.complex64)
    >>> with FastMRIFile(name) as scan:
    ...     scan.shape, tuple(scan.kspace(slice(3, 4)).data.shape)
    ((20, 4, 8, 6), (1, 4, 8, 6))
    """

    def __init__(self, path: str | Path, key: str | None = None) -> None:
        self.path, self._key = Path(path), key or "kspace"
        self._handle: h5py.File | None = None
        self._process = os.getpid()
        if not self.path.is_file():
            raise DataError(f"{path}: expected an HDF5 file, found no file; check the path")
        with self._file() as file:
            stored = hdf5_dataset(file, self._key, self.path)
            self.shape = _four_axes(stored, self._key, self.path)
            self.metadata = _attributes(file) | {"n_slices": self.shape[0]}
            self.encoding, acquisition = _header(file, self.path)
            self.names = tuple(file)
        name = str(self.metadata.get("acquisition", ""))
        self.acquisition = _named(acquisition, name)
        if self.encoding is not None:
            self.metadata |= _sizes(self.encoding) | {"notes": self.encoding.notes}
            for note in self.encoding.notes:
                warnings.warn(f"{path}: {note}", MedinvWarning, stacklevel=2)

    def kspace(self, slices: slice | None = None) -> KSpace:
        """The samples of some slices, of all of them if not given; errors as `read_fastmri`."""
        wanted = slices or slice(None)
        n = len(range(*wanted.indices(self.shape[0])))
        if n == 0:
            raise DataError(f"{self.path}: slices {slices} select none of the {self.shape[0]} "
                            "slices; choose others")
        check_memory(self.path, (n, *self.shape[1:]), itemsize=8)
        with self._file() as file:
            stored = hdf5_dataset(file, self._key, self.path)
            if stored.dtype.kind != "c":
                raise DataError(f"{self.path}: expected complex {self._key}, found {stored.dtype}")
            part = hdf5_part(stored, wanted, path=self.path).astype(np.complex64, copy=False)
            mask = hdf5_array(file, "mask", self.path) if "mask" in file else None
        data = torch.from_numpy(part).reshape(n, *self.shape[1:])
        check_finite(data, self.path, "k-space")
        return self._kspace(data, None if mask is None else torch.from_numpy(mask != 0))

    def reference(self, slices: slice | None = None) -> Volume:
        """The reference images of the file, ``reconstruction_rss`` or ``reconstruction_esc``.

        Raises:
            DataError: there are none, or they have other axes or cannot be read.
            ShapeError: they are larger than k-space.
        """
        with self._file() as file:
            name = next((name for name in REFERENCES if name in file), None)
            if name is None:
                raise DataError(f"{self.path}: expected {' or '.join(REFERENCES)}, found "
                                f"{', '.join(sorted(file))}; test files hold no reference")
            stored = hdf5_dataset(file, name, self.path)
            check_memory(self.path, stored.shape, itemsize=8)
            if stored.ndim != 3 or stored.dtype.kind not in "iuf":
                raise DataError(f"{self.path}: expected {name} (slice, y, x) of real numbers, "
                                f"found {stored.dtype} {stored.shape}")
            image = torch.from_numpy(
                hdf5_part(stored, slices or slice(None), path=self.path).astype(np.float32))
        check_finite(image, self.path, name)
        grid = (len(image), *self.shape[2:])
        return placed(image, grid, self._voxel_mm(), None, self.metadata, self.acquisition)

    def close(self) -> None:
        """Close this process's handle; it opens again where it is needed."""
        if self._handle is not None and self._process == os.getpid():
            self._handle.close()
        self._handle = None

    def __enter__(self) -> FastMRIFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}

    @contextmanager
    def _file(self) -> Iterator[h5py.File]:
        import h5py

        with hdf5_errors(self.path):
            if self._handle is None or self._process != os.getpid():
                self._handle, self._process = h5py.File(self.path, "r"), os.getpid()
                check_heaps(self._handle, self.path)
            yield self._handle

    def _kspace(self, data: Tensor, mask: Tensor | None) -> KSpace:
        if mask is None:
            mask = measured_points(data)
            if not mask.numpy().any():
                raise DataError(f"{self.path}: expected measured samples, found only zeros; check "
                                "the export")
        elif tuple(mask.shape) == (self.shape[3],):
            inside = _acquired_columns(self.encoding, self.shape[3])
            mask = (mask & inside).expand(self.shape[2:])
        if self.encoding is None:
            return KSpace(data, mask, self.metadata, acquisition=self.acquisition)
        return KSpace(
            data, mask, self.metadata, self._voxel_mm(), self.acquisition,
            recon_shape=_house_axes(self.encoding.recon_shape),
            recon_fov_mm=_house_axes(self.encoding.recon_fov_mm),
        )

    def _voxel_mm(self) -> tuple[float, float, float] | None:
        if self.encoding is None:
            return None
        z, y, x = _house_axes(self.encoding.encoded_fov_mm)
        return z / self.encoding.encoded_shape[2], y / self.shape[2], x / self.shape[3]


def write_fastmri_reconstruction(path: str | Path, volume: Volume) -> None:
    """Write ``reconstruction`` (slice, y, x) float32 for fastMRI's evaluation, atomically.

    Complex images are written by magnitude. The layout holds no positions.

    Raises:
        DataError: the name does not end in ``.h5``.
        OutputError: the file could not be written; nothing is left under its name.

    >>> import tempfile
    >>> image = Volume(torch.ones(2, 4, 4), torch.eye(4, dtype=torch.float64))
    >>> write_fastmri_reconstruction(Path(tempfile.mkdtemp(), "scan.h5"), image)
    """
    import h5py

    if Path(path).suffix != ".h5":
        raise DataError(f"{path}: expected a name that ends in .h5; rename the output")
    image = volume.data.detach().cpu()
    image = (image.abs() if image.is_complex() else image).to(torch.float32)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file["reconstruction"] = image.numpy()


def _four_axes(stored: h5py.Dataset, key: str, path: Path) -> tuple[int, int, int, int]:
    shape = tuple(int(n) for n in stored.shape)
    if len(shape) == 3:
        return shape[0], 1, shape[1], shape[2]
    if len(shape) == 4:
        return shape[0], shape[1], shape[2], shape[3]
    raise DataError(f"{path}: expected {key} (slice, coil, ky, kx), or (slice, ky, kx) of one "
                    f"coil, found shape {shape}; reorder the axes")


def _attributes(file: h5py.File) -> dict[str, object]:
    """Those that are one number or text; others, an empty one too, are left out."""
    found = {name: _plain(file.attrs[name]) for name in _SAFE_ATTRIBUTES if name in file.attrs}
    return {name: value for name, value in found.items() if isinstance(value, str | int | float)}


def _header(file: h5py.File, path: Path) -> tuple[Encoding | None, Metadata]:
    if "ismrmrd_header" not in file:
        return None, Metadata(modality="MR")
    text = hdf5_array(file, "ismrmrd_header", path).item()
    if not isinstance(text, bytes | str):
        raise DataError(f"{path}: expected ismrmrd_header as one text, found "
                        f"{type(text).__name__}; export the header again")
    header = parse_header(text, path)
    return header.encodings[0], header.acquisition


def _named(acquisition: Metadata, name: str) -> Metadata:
    """What the names of fastMRI's own protocols add to the header."""
    plane = {"COR": "coronal", "AX": "axial"}
    return replace(
        acquisition,
        contrast=contrast_of(name) or acquisition.contrast,
        anatomy="knee" if name in _KNEE else "brain" if name in _BRAIN else acquisition.anatomy,
        plane=next((plane[start] for start in plane if name in (*_KNEE, *_BRAIN)
                    and name.startswith(start)), acquisition.plane),
    )


def _acquired_columns(encoding: Encoding | None, n_columns: int) -> Tensor:
    """Columns within the limits of the phase encoding; beyond them the array is padded with 0."""
    columns = torch.arange(n_columns)
    if encoding is None or encoding.step_1 is None or encoding.encoded_shape[1] != n_columns:
        return columns >= 0
    first = n_columns // 2 - encoding.step_1.center
    return (columns >= first) & (columns <= first + encoding.step_1.maximum)


def _house_axes(sizes: tuple[_Number, _Number, _Number]) -> tuple[_Number, _Number, _Number]:
    """(x, y, z) of ISMRMRD, x the readout, as (z, y, x) of the arrays, whose rows are readouts."""
    x, y, z = sizes
    return z, x, y


def _sizes(encoding: Encoding) -> dict[str, object]:
    names = ("encoded_shape", "encoded_fov_mm", "recon_shape", "recon_fov_mm")
    return {name: _house_axes(getattr(encoding, name)) for name in names}


def _plain(value: object) -> object:
    """An HDF5 attribute as a plain Python value."""
    item = getattr(value, "item", None)
    plain = item() if callable(item) and getattr(value, "size", 1) == 1 else value
    return plain.decode(errors="replace") if isinstance(plain, bytes) else plain
