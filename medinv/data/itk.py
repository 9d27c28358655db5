"""NRRD and MetaImage files as `Volume`, read by SimpleITK (``pip install medinv[itk]``).

ITK's places are LPS, as DICOM's; here they are RAS+. Only files that hold their own voxels are
read: a header that points to another file (``.nhdr``, ``.mhd``, ``data file:``) is refused.
"""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medinv.data.expansion import check_expansion
from medinv.data.safety import check_memory
from medinv.data.volume import Volume
from medinv.errors import DataError, DependencyError

SUFFIXES = (".nrrd", ".mha")
_POINTERS = (b"data file:", b"datafile:")
_MAX_HEADER = 65536
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_BYTES = 8


def read_itk(path: str | Path) -> Volume:
    """Read a three-dimensional ``.nrrd`` or ``.mha`` image; voxels become float32.

    Raises:
        DataError: no such file, not such an image, one that points to another file, other than
            three axes, several values per voxel, NaN or Inf, or more than the memory holds.
        DependencyError: SimpleITK is not installed.

    >>> read_itk("scan.mha")
    Traceback (most recent call last):
    medinv.errors.DataError: scan.mha: expected .nrrd or .mha, found no file; check the path
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected .nrrd or .mha, found no file; check the path")
    _check_own_voxels(path)
    reader, itk = _open(path)
    shape = tuple(reader.GetSize())[::-1]
    if len(shape) != 3 or reader.GetNumberOfComponents() != 1:
        raise DataError(f"{path}: expected one value per voxel (x, y, z), found "
                        f"{reader.GetNumberOfComponents()} in {shape[::-1]}; export one volume")
    itemsize = itk.Image(1, 1, 1, reader.GetPixelID()).GetSizeOfPixelComponent()
    check_expansion(path, math.prod(shape) * itemsize, path.stat().st_size)
    check_memory(path, shape, 2 * _BYTES)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise DataError(f"{path}: the voxels cannot be read; the file is damaged") from error
    data = torch.from_numpy(itk.GetArrayFromImage(image).astype(np.float32))
    if not bool(data.isfinite().all()):
        raise DataError(f"{path}: expected finite voxels, found NaN or Inf; repair the export")
    return Volume(data, _affine(image, path), {"space": "scanner"})


def _open(path: Path) -> tuple[Any, Any]:
    """A reader that has read the header, and the module."""
    try:
        itk: Any = import_module("SimpleITK")
    except ImportError as error:
        raise DependencyError(f"{path}: SimpleITK reads {', '.join(SUFFIXES)} and is not "
                              'installed; pip install "medinv[itk]"') from error
    itk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = itk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(f"{path}: expected an .nrrd or .mha image, but its header cannot be "
                        "read; export it again") from error
    return reader, itk


def _affine(image: Any, path: Path) -> torch.Tensor:  # noqa: ANN401  (SimpleITK has no types)
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    affine = _LPS_TO_RAS @ lps
    if not np.isfinite(affine).all() or math.isclose(np.linalg.det(affine), 0, abs_tol=1e-12):
        raise DataError(f"{path}: the directions and spacings are no grid: {affine.tolist()}; "
                        "correct the header")
    return torch.from_numpy(affine)


def _check_own_voxels(path: Path) -> None:
    with path.open("rb") as file:
        header = file.read(_MAX_HEADER)
    if path.suffix.lower() == ".nrrd":
        header = header.replace(b"\r\n", b"\n").partition(b"\n\n")[0]
        points = any(line.strip().lower().startswith(_POINTERS) for line in header.splitlines())
    else:
        after = header.partition(b"ElementDataFile")[2].partition(b"\n")[0]
        points = after.strip(b" =\r\t") != b"LOCAL"
    if points:
        raise DataError(f"{path}: expected a file that holds its voxels, found a header that "
                        "points to another file; save it as one .nrrd or .mha file")
