"""NIfTI-1 and -2 files as `Volume`, and back, with every voxel at its place.

Stored integers are scaled by the header; numbers come in as float32 or complex64. An oblique or
flipped grid stays as it is. Both header transforms are written; where the grid has shear, which a
qform cannot hold, the qform is marked unknown so that readers use the sform.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medinv.data.atomic import replacing
from medinv.data.volume import Volume
from medinv.errors import DataError

_COMPRESSION = 4
_SUFFIXES = (".nii", ".nii.gz")
_MILLIMETRES = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
_SPACES = {0: "unknown", 1: "scanner", 2: "aligned", 3: "talairach", 4: "mni", 5: "template"}


def read_nifti(path: str | Path) -> Volume:
    """Read a 3D NIfTI file.

    ``metadata["space"]`` says what the millimetres refer to (``scanner``, ``mni``...).

    Raises:
        DataError: no such file, not a readable NIfTI file, not one 3D volume, or NaN or
            Inf voxels.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a NIfTI file, found no file; check the path")
    image = _load(path)
    shape = image.shape[:3] + tuple(n for n in image.shape[3:] if n != 1)
    if len(shape) != 3:
        raise DataError(
            f"{path}: expected one volume (x, y, z), found shape {image.shape}; "
            "save one volume of the series as its own file"
        )
    voxels = _voxels(image, path).reshape(shape)
    data = torch.from_numpy(np.ascontiguousarray(voxels.T))
    if not data.isfinite().all():
        count = int((~data.isfinite()).sum())
        raise DataError(
            f"{path}: expected finite voxels, found {count} NaN or Inf; "
            "replace them (0 for the background) and save again"
        )
    scale = _MILLIMETRES[image.header.get_xyzt_units()[0]]
    affine = np.diag([scale, scale, scale, 1.0]) @ image.affine
    code = int(image.header["sform_code"]) or int(image.header["qform_code"])
    return Volume(data, torch.from_numpy(affine), {"space": _SPACES.get(code, "unknown")})


def write_nifti(volume: Volume, path: str | Path) -> None:
    """Write a volume as NIfTI-1, float32 or complex64, atomically.

    Raises:
        DataError: the name does not end in ``.nii`` or ``.nii.gz``.
        OutputError: the file could not be written; nothing is left under its name.
    """
    import nibabel

    path = Path(path)
    if not path.name.endswith(_SUFFIXES):
        raise DataError(f"{path}: expected a name that ends in .nii or .nii.gz; rename the output")
    data = volume.data.detach().cpu()
    voxels = data.to(torch.complex64 if data.is_complex() else torch.float32).resolve_conj()
    affine = volume.affine.cpu().numpy()
    image = nibabel.Nifti1Image(voxels.numpy().T, affine)
    code = _space_code(volume)
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=0 if _has_shear(affine) else code)
    image.header.set_xyzt_units("mm")
    with replacing(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".gz":  # no name and no time inside: equal volumes give equal files
            with gzip.GzipFile("", "wb", _COMPRESSION, file, mtime=0) as compressed:
                image.to_stream(compressed)
        else:
            image.to_stream(file)


def _load(path: Path) -> Any:  # noqa: ANN401  (nibabel is not typed)
    import nibabel

    try:
        image = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, OSError, ValueError) as error:
        raise DataError(f"{path}: expected a NIfTI file, but it cannot be read: {error}"
                        ) from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise DataError(
            f"{path}: expected a NIfTI file, found {type(image).__name__}; convert it to .nii.gz"
        )
    return image


def _voxels(image: Any, path: Path) -> np.ndarray[Any, np.dtype[Any]]:  # noqa: ANN401
    kind = image.header.get_data_dtype().kind
    if kind not in "iufc":
        raise DataError(
            f"{path}: expected one number per voxel, found {image.header.get_data_dtype()}; "
            "convert colours to one channel"
        )
    try:
        values = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: the voxels cannot be read, the file is cut off or damaged: "
                        f"{error}") from error
    numbers: np.ndarray[Any, np.dtype[Any]] = values.astype(
        np.complex64 if kind == "c" else np.float32
    )
    return numbers


def _space_code(volume: Volume) -> int:
    codes = {name: code for code, name in _SPACES.items()}
    return codes.get(str(volume.metadata.get("space", "")), 0) or codes["scanner"]


def _has_shear(affine: np.ndarray[Any, np.dtype[Any]]) -> bool:
    """Whether the columns of the affine are not at right angles."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(directions.T @ directions, np.eye(3), atol=1e-5)
