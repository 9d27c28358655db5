"""Projections of CT from files: DXchange HDF5, the Helsinki challenge's .mat, and all others.

DXchange (De Carlo et al., J. Synchrotron Rad. 21 (2014), 1224)
keeps counts of a parallel beam with frames without object (``data_white``) and without beam
(``data_dark``); it states no direction of rotation, so a picture may be a mirror image, and often
no unit of its angles. HTC 2022
(doi:10.5281/zenodo.8041800) keeps corrected line integrals of a fan beam with its geometry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medinv.arguments import checked
from medinv.data.ct.angles import AngleUnit, in_radians, noted
from medinv.data.ct.matlab_struct import read_mat_structs
from medinv.data.ct.projections_dicom import read_projection_dicom
from medinv.data.ct.projections_yaml import GEOMETRY_FILE, read_projection_arrays
from medinv.data.ct.sinogram import Sinogram, fitted
from medinv.data.metadata import Metadata
from medinv.data.mri.arrays import check_finite
from medinv.data.safety import (
    check_memory,
    hdf5_array,
    hdf5_dataset,
    hdf5_part,
    open_hdf5,
)
from medinv.errors import DataError, ShapeError
from medinv.operators import ct_geometry
from medinv.operators.noise import flat_dark_correct, log_transform

if TYPE_CHECKING:
    import h5py

_PIXEL = "measurement/instrument/detector/x_pixel_size"
_MM = {"mm": 1.0, "m": 1e3, "um": 1e-3, "micron": 1e-3, "microns": 1e-3, "cm": 10.0}
_ASSUMED_PIXEL = "the file holds no pixel size: 1 mm is assumed, so attenuation is per pixel"
_MIRROR = "the file does not say which way the object turned: the picture may be a mirror image"
_FLOOR = 1e-3


@checked
def read_sinogram(path: str | Path, *, rows: tuple[int, int] | None = None,
                  pixel_mm: float | None = None, angle_unit: AngleUnit | None = None) -> Sinogram:
    """Projections from a file or folder, as line integrals.

    Args:
        path: DXchange ``.h5``, HTC 2022 ``.mat``, ``geometry.yaml`` beside NumPy arrays (or their
            folder), or a folder, zip or file of DICOM-CT-PD.
        rows: first and last + 1 of the detector rows to keep; of HDF5, no other is read.
        pixel_mm: size of a detector pixel, for DXchange files that do not state it.
        angle_unit: of the view angles, where the file does not state it.

    Raises:
        DataError: what the reader of this kind raises.

    >>> read_sinogram("nothing.h5")
    Traceback (most recent call last):
    medinv.errors.DataError: nothing.h5: expected an HDF5 file, found no file; check the path
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in (".h5", ".hdf5", ".hdf"):
        return read_dxchange(path, rows=rows, pixel_mm=pixel_mm, angle_unit=angle_unit)
    if pixel_mm is not None:
        raise DataError(f"{path}: its geometry states the size of a pixel; leave out pixel_mm")
    if suffix == ".mat":
        sinogram = read_htc(path, angle_unit=angle_unit)
    elif suffix in (".yaml", ".yml") or (path / GEOMETRY_FILE).is_file():
        path = path / GEOMETRY_FILE if path.is_dir() else path
        sinogram = read_projection_arrays(path, angle_unit=angle_unit)
    elif suffix in (".npy", ".npz"):
        sinogram = read_projection_arrays(path.parent / GEOMETRY_FILE, angle_unit=angle_unit)
    else:
        sinogram = read_projection_dicom(path)
    return sinogram if rows is None else sinogram.rows(*rows)


def read_dxchange(path: str | Path, *, rows: tuple[int, int] | None = None,
                  pixel_mm: float | None = None, angle_unit: AngleUnit | None = None) -> Sinogram:
    """Line integrals of a parallel beam from counts in DXchange's layout.

    ``-log((data - dark) / (white - dark))``, with the means of the white and dark frames. A pixel
    that is not brighter with the beam than without counts as opaque everywhere.

    Args:
        path: an HDF5 file with ``exchange/data``, ``data_white``, ``theta``, maybe ``data_dark``.
        rows: first and last + 1 of the detector rows to read; all if None.
        pixel_mm: size of a detector pixel; the file's, or 1 mm and a note, if None.
        angle_unit: of ``theta``; the file's, or told by the angles' span and a note, if None.

    Raises:
        DataError: not such a file, shapes that disagree, values that are not finite, or rows that
            the detector does not have.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        data = hdf5_dataset(file, "exchange/data", path)
        if data.ndim != 3 or data.dtype.kind not in "iuf":
            raise DataError(f"{path}: expected exchange/data as real numbers (view, row, column), "
                            f"found {data.dtype} {data.shape}; export the projections again")
        start, stop = (0, data.shape[1]) if rows is None else rows
        if not 0 <= start < stop <= data.shape[1]:
            raise DataError(f"{path}: expected rows [start, stop] within the {data.shape[1]} of "
                            f"the detector, got [{start}, {stop}]; choose others")
        check_memory(path, (data.shape[0], stop - start, data.shape[2]), itemsize=16)
        counts = torch.from_numpy(
            hdf5_part(data, slice(None), slice(start, stop), path=path).astype(np.float32))
        white = _frames(file, "exchange/data_white", path, data.shape, (start, stop))
        dark = torch.zeros_like(white)
        if "data_dark" in file["exchange"]:
            dark = _frames(file, "exchange/data_dark", path, data.shape, (start, stop))
        angles, told = _theta(file, path, data.shape[0], angle_unit)
        stated = _pixel_mm(file, path)
    for name, values in (("data", counts), ("white and dark frames", white - dark)):
        check_finite(values, path, name)
    transmission, dead = _transmission(counts, white, dark, path)
    gain = float((white - dark).median())
    floor = min(_FLOOR, 0.5 / gain) if gain > 0 else _FLOOR
    size = pixel_mm or stated or 1.0
    _, n_rows, n_cols = counts.shape
    try:
        geometry = ct_geometry.parallel((n_rows, n_cols, n_cols), angles, size, n_cols, size)
    except ShapeError as error:
        raise DataError(f"{path}: its angles and pixel size make no scan: {error}") from error
    notes = [_MIRROR] if pixel_mm or stated else [_MIRROR, _ASSUMED_PIXEL]
    notes += [told] if told else []
    if dead:
        notes.append(f"{dead} detector pixels are dead and count as opaque")
    facts = {"format": "DXchange", "notes": tuple(notes)}
    return Sinogram(log_transform(transmission, floor=floor), geometry, metadata=facts)


def _transmission(counts: Tensor, white: Tensor, dark: Tensor, path: Path) -> tuple[Tensor, int]:
    """Flat- and dark-corrected counts, and how many pixels are dead."""
    is_dead = ~(white > dark)
    dead = int(is_dead.sum())
    if 2 * dead > is_dead.numel():
        raise DataError(f"{path}: expected white frames brighter than dark ones, found {dead} of "
                        f"{is_dead.numel()} pixels where they are not; are the two swapped?")
    white = torch.where(is_dead, dark + 1, white)
    counts = torch.where(is_dead, dark, counts)
    return flat_dark_correct(counts, white, dark), dead


def _frames(file: h5py.File, name: str, path: Path, shape: tuple[int, ...],
            rows: tuple[int, int]) -> Tensor:
    """The mean (row, col) of some frames, of the wanted rows only."""
    frames = hdf5_dataset(file, name, path)
    if frames.ndim != 3 or frames.shape[1:] != shape[1:] or frames.dtype.kind not in "iuf":
        raise DataError(f"{path}: expected {name} as numbers (frame, {shape[1]}, {shape[2]}), "
                        f"found {frames.dtype} {frames.shape}; export the scan again")
    check_memory(path, (frames.shape[0], rows[1] - rows[0], shape[2]), itemsize=16)
    part = hdf5_part(frames, slice(None), slice(*rows), path=path)
    return torch.from_numpy(part.astype(np.float64).mean(0)).float()


def _theta(file: h5py.File, path: Path, n_views: int, unit: AngleUnit | None
           ) -> tuple[Tensor, str | None]:
    """View angles in radians, and a note if their unit was guessed."""
    theta = hdf5_array(file, "exchange/theta", path)
    if theta.shape != (n_views,) or theta.dtype.kind not in "iuf" or not np.isfinite(theta).all():
        raise DataError(f"{path}: expected exchange/theta as {n_views} finite angles, found "
                        f"{theta.dtype} {theta.shape}; export the scan again")
    stated = file["exchange/theta"].attrs.get("units", "")
    name = stated.decode(errors="replace") if isinstance(stated, bytes) else str(stated)
    return in_radians(torch.from_numpy(theta.astype(np.float64)), unit or name, str(path))


def _pixel_mm(file: h5py.File, path: Path) -> float | None:
    """The size of a detector pixel; None where the file states none in a known unit."""
    if _PIXEL not in file:
        return None
    size = hdf5_array(file, _PIXEL, path)
    units = file[_PIXEL].attrs.get("units", "m")
    name = units.decode(errors="replace") if isinstance(units, bytes) else str(units)
    factor = _MM.get(name.strip().lower())
    if size.size != 1 or size.dtype.kind not in "iuf" or factor is None:
        return None
    value = float(size.reshape(-1)[0]) * factor
    return value if 0 < value < math.inf else None


def read_htc(path: str | Path, *, angle_unit: AngleUnit | None = None) -> Sinogram:
    """Fan-beam line integrals of the Helsinki Tomography Challenge 2022 (``.mat``).

    The picture agrees with the challenge's own reconstructions, which are ASTRA's: there y points
    up, so columns are reversed and angles ``theta`` become ``180 - theta`` degrees.

    Args:
        path: the file.
        angle_unit: of its angles, degrees in the challenge; told by their span if None.

    Raises:
        DataError: not such a file, or a geometry that cannot be.
    """
    path = Path(path)
    scan = _htc_struct(path)
    data = _htc_numbers(scan, "sinogram", path)
    parameters = scan.get("parameters")
    if not isinstance(parameters, Mapping):
        raise DataError(f"{path}: expected the scan's geometry in its field parameters, found "
                        "none; download the file again")
    degrees = _htc_numbers(parameters, "angles", path).reshape(-1)
    if data.ndim != 2 or len(degrees) != data.shape[0]:
        raise DataError(f"{path}: expected a sinogram (view, col) with an angle for each view, "
                        f"found {data.shape} and {len(degrees)} angles; download the file again")
    source_mm, to_detector_mm, col_mm = (
        float(_htc_numbers(parameters, name, path, size=1).item())
        for name in ("distanceSourceOrigin", "distanceSourceDetector", "pixelSizePost"))
    check_finite(torch.from_numpy(data), path, "line integrals")
    theta = torch.from_numpy(degrees)
    check_finite(theta, path, "angles")
    radians, told = in_radians(theta, angle_unit, str(path))
    angles = math.pi - radians
    try:
        geometry = fitted(ct_geometry.fan((1, 1), angles, col_mm, source_mm,
                                          to_detector_mm - source_mm, data.shape[1], col_mm))
    except ShapeError as error:
        raise DataError(f"{path}: its parameters make no fan beam: {error}") from error
    integrals = torch.from_numpy(data[:, None, ::-1].astype(np.float32))
    return Sinogram(integrals, geometry, metadata={"format": "HTC 2022", **noted(told)},
                    acquisition=Metadata(modality="CT", kvp=_kvp(parameters)))


def _htc_struct(path: Path) -> Mapping[str, Any]:
    found = read_mat_structs(path)
    scans = [value for value in found.values() if isinstance(value, dict) and "sinogram" in value]
    if len(scans) != 1:
        raise DataError(f"{path}: expected one struct with a sinogram, as the Helsinki challenge "
                        f"has it, found {len(scans)}; of other scans save a .npy and a "
                        f"{GEOMETRY_FILE}")
    return scans[0]


def _htc_numbers(scan: Mapping[str, Any], name: str, path: Path, size: int | None = None
                 ) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A field of real numbers."""
    values = np.asarray(scan.get(name))
    if values.dtype.kind not in "iuf" or values.size != (size or values.size) or not values.size:
        raise DataError(f"{path}: expected real numbers in {name}, found "
                        f"{'nothing' if scan.get(name) is None else 'something else'}; download "
                        "the file again")
    return values.astype(np.float64)


def _kvp(parameters: Mapping[str, Any]) -> float | None:
    try:
        value = float(parameters.get("voltage", "nan"))
    except (TypeError, ValueError):
        return None
    return value if 0 < value < math.inf else None
