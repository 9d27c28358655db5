"""fastMRI-layout HDF5: raw Cartesian k-space, slice by slice.

``kspace`` is (slice, coil, ky, kx) with rows along the readout; ``mask`` (kx,) marks the columns
that a test file holds; ``ismrmrd_header`` is the XML of the ISMRMRD standard. The frequency step
is one over the encoded field of view, so a voxel of an uncropped image is that field over the
number of samples. Source: Zbontar et al. 2018, fastMRI (arXiv:1811.08839); https://ismrmrd.github.io.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import torch
from torch import Tensor

from medinv.data.arrays import check_kspace
from medinv.data.kspace import KSpace, measured_points
from medinv.errors import DataError

if TYPE_CHECKING:
    import h5py

_HEADER_LIMIT = 1_000_000
_SAFE_ATTRIBUTES = ("acquisition", "max", "norm", "acceleration", "num_low_frequency")


def read_fastmri(path: str | Path, key: str | None = None, slices: slice | None = None) -> KSpace:
    """Read a fastMRI-layout file; only the wanted slices leave the disk.

    The attribute ``patient_id`` is not carried over.

    Args:
        path: an HDF5 file.
        key: data set that holds k-space, ``kspace`` if not given.
        slices: which slices to read; all of them if not given.

    Raises:
        DataError: no such file or key, not HDF5, a broken header, NaN or Inf, other axes.
        ShapeError: the mask has another size than k-space.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected an HDF5 file, found no file; check the path")
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path, key or "kspace", slices or slice(None))
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: expected an HDF5 file, but it cannot be read: {error}"
                        ) from error


def _read(file: h5py.File, path: Path, key: str, slices: slice) -> KSpace:
    if key not in file or not hasattr(file[key], "shape"):
        raise DataError(f"{path}: no data set {key!r}; it holds {', '.join(sorted(file))}")
    stored = file[key]
    if stored.ndim != 4:
        raise DataError(
            f"{path}: expected {key} (slice, coil, ky, kx), found shape {stored.shape}; "
            "single-coil files lack the coil axis and are not read yet"
        )
    part = stored[slices]
    if not part.size:
        raise DataError(f"{path}: slices {slices} select none of the {stored.shape[0]} slices")
    data = check_kspace(torch.from_numpy(part), path)
    mask = _mask(file, data)
    metadata: dict[str, object] = {
        name: _plain(file.attrs[name]) for name in _SAFE_ATTRIBUTES if name in file.attrs
    }
    metadata["n_slices"] = int(stored.shape[0])
    if "ismrmrd_header" not in file:
        return KSpace(data, mask, metadata)
    header = parse_header(file["ismrmrd_header"][()], path)
    field_z, field_y, field_x = header["encoded_fov_mm"]
    n_z = max(int(header["encoded_shape"][0]), 1)
    voxel = (field_z / n_z, field_y / data.shape[2], field_x / data.shape[3])
    return KSpace(data, mask, {**metadata, **header}, voxel)


def _mask(file: h5py.File, data: Tensor) -> Tensor:
    if "mask" not in file:
        return measured_points(data)
    mask = torch.from_numpy(file["mask"][()]) != 0
    n_rows, n_columns = data.shape[2:]
    if tuple(mask.shape) == (n_columns,):
        mask = mask.expand(n_rows, n_columns)
    return mask


def parse_header(header: bytes | str, path: Path) -> dict[str, tuple[float, ...]]:
    """Matrix sizes and fields of view of an ISMRMRD header, as (z, y, x) of medinv.

    ISMRMRD's x is the readout, the rows of fastMRI's arrays: medinv's y.

    Raises:
        DataError: not XML, too large, with a document type (entities could read files or exhaust
            the memory), or without the encoded and reconstructed space.
    """
    text = header.decode("utf-8", errors="replace") if isinstance(header, bytes) else header
    if len(text) > _HEADER_LIMIT or "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise DataError(
            f"{path}: ismrmrd_header is not plain ISMRMRD XML (a document type, or over "
            f"{_HEADER_LIMIT} characters); export the header again"
        )
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: ismrmrd_header is not valid XML: {error}") from error
    return {
        "encoded_shape": _triple(root, "encodedSpace", "matrixSize", path),
        "encoded_fov_mm": _triple(root, "encodedSpace", "fieldOfView_mm", path),
        "recon_shape": _triple(root, "reconSpace", "matrixSize", path),
        "recon_fov_mm": _triple(root, "reconSpace", "fieldOfView_mm", path),
    }


def _triple(
    root: ElementTree.Element, space: str, field: str, path: Path
) -> tuple[float, float, float]:
    values = []
    for axis in ("z", "x", "y"):
        text = root.findtext(f".//{{*}}encoding/{{*}}{space}/{{*}}{field}/{{*}}{axis}")
        try:
            value = float(text or "")
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise DataError(
                f"{path}: ismrmrd_header: expected a positive encoding/{space}/{field}/{axis}, "
                f"found {text!r}; correct the header"
            )
        values.append(value)
    return values[0], values[1], values[2]


def _plain(value: object) -> object:
    """An HDF5 attribute as a plain Python value."""
    item = getattr(value, "item", None)
    return item() if callable(item) else value
