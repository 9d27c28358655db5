"""NIfTI-1 and -2 files as `Volume`, and back, with every voxel at its place.

Reading: the sform counts where its code is above 0, else the qform where its code is; a file with
neither has no known place, which ``metadata["position"]`` says. Stored integers are scaled by the
header; metres and micrometres become mm; numbers come in as float32 or complex64. An oblique or
flipped grid stays as it is. Writing: both transforms; where the grid has shear, which a qform
cannot hold, the qform is marked unknown so that readers use the sform.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medinv.data.atomic import replacing, write_json
from medinv.data.expansion import check_expansion
from medinv.data.safety import check_memory
from medinv.data.volume import Volume
from medinv.errors import DataError

_COMPRESSION = 4
_SUFFIXES = (".nii", ".nii.gz")
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # by the code of the unit; unknown: mm
_INT16_STEPS = 65534  # one less than there are, as rounding of slope and intercept may need it
_MAX_AXIS = 32767
_HEADER_BYTES = 348
_OFFSETS = {348: "f", 540: "q"}  # by the size of the header: NIfTI-1 and -2
_OFFSET_AT = {348: 108, 540: 168}
_MAX_OFFSET = 2**26
_SPACES = {0: "unknown", 1: "scanner", 2: "aligned", 3: "talairach", 4: "mni", 5: "template"}


def read_nifti(path: str | Path, *, index: int | None = None) -> Volume:
    """Read a NIfTI file.

    ``metadata["space"]`` says what the millimetres refer to (``scanner``, ``mni``...).

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.
        index: which volume of a series (x, y, z, t) to read; only it leaves the disk.

    Raises:
        DataError: no such file, not a readable NIfTI file, several volumes and none chosen, more
            than the memory holds, or NaN or Inf voxels.

    >>> import tempfile
    >>> name = Path(tempfile.mkdtemp(), "image.nii.gz")
    >>> write_nifti(Volume(torch.zeros(2, 3, 4), torch.eye(4, dtype=torch.float64)), name)
    >>> read_nifti(name).data.shape
    torch.Size([2, 3, 4])
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a NIfTI file, found no file; check the path")
    _check_offset(path)
    image = _load(path)
    voxels = _voxels(image, path, _choose(image.shape, index, path))
    data = torch.from_numpy(np.ascontiguousarray(voxels.T))
    if not data.isfinite().all():
        count = int((~data.isfinite()).sum())
        raise DataError(
            f"{path}: expected finite voxels, found {count} NaN or Inf; "
            "replace them (0 for the background) and save again"
        )
    code = int(image.header["sform_code"]) or int(image.header["qform_code"])
    facts: dict[str, object] = {"space": _SPACES.get(code, "unknown")}
    if code == 0:
        facts["position"] = "unknown: the file has neither sform nor qform; x to the left assumed"
    return Volume(data, _affine(image, path), facts)


def write_nifti(volume: Volume, path: str | Path, *, scaled_int16: bool = False,
                provenance: Mapping[str, object] | None = None) -> None:
    """Write a volume as NIfTI-1, float32 or complex64, atomically.

    Args:
        volume: what to write; an axis may have 32767 voxels.
        path: its name, ending in ``.nii`` or ``.nii.gz``.
        scaled_int16: write 16-bit integers with a slope and an intercept: half of the size, each
            voxel off by at most half a step, ``(max - min) / 131068``; the header says how much.
        provenance: written as JSON beside the file, under its name with the suffix ``.json``.

    Raises:
        DataError: the name has another suffix, or a complex volume as integers.
        OutputError: the file could not be written; nothing is left under its name.

    >>> import tempfile
    >>> image = Volume(torch.rand(2, 3, 4), torch.eye(4, dtype=torch.float64))
    >>> write_nifti(image, Path(tempfile.mkdtemp(), "image.nii.gz"), scaled_int16=True)
    """
    import nibabel

    path = Path(path)
    if not path.name.endswith(_SUFFIXES):
        raise DataError(f"{path}: expected a name that ends in .nii or .nii.gz; rename the output")
    if max(volume.data.shape) > _MAX_AXIS:
        raise DataError(f"{path}: expected at most {_MAX_AXIS} voxels along an axis, got "
                        f"{tuple(volume.data.shape)}; crop the volume")
    data = volume.data.detach().cpu().resolve_conj()
    voxels = data.to(torch.complex64 if data.is_complex() else torch.float32).numpy()
    affine = volume.affine.cpu().numpy()
    slope, inter, note = 1.0, 0.0, ""
    if scaled_int16:
        voxels, slope, inter = _quantised(voxels, path)
        note = f"int16, each voxel off by at most {slope / 2:.3g}"
    image = nibabel.Nifti1Image(voxels.T, affine)
    code = _space_code(volume)
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=0 if _has_shear(affine) else code)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, inter)
    image.header["descrip"] = note
    with replacing(path) as temporary, temporary.open("wb") as file:
        if path.suffix == ".gz":  # no name and no time inside: equal volumes give equal files
            with gzip.GzipFile("", "wb", _COMPRESSION, file, mtime=0) as compressed:
                image.to_stream(compressed)
        else:
            image.to_stream(file)
    if provenance is not None:
        write_json(provenance_path(path), provenance)


def provenance_path(path: str | Path) -> Path:
    """The JSON beside a NIfTI file.

    >>> provenance_path("out/brain.nii.gz").name
    'brain.json'
    """
    path = Path(path)
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def _check_offset(path: Path) -> None:
    """Refuse a header that declares gigabytes before the voxels, which a small .gz can hold."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            start = file.read(_HEADER_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a NIfTI file, but it cannot be read: {error}; copy it "
                        "again") from error
    if len(start) < _HEADER_BYTES:
        raise DataError(f"{path}: expected a NIfTI file, but it cannot be read: it has only "
                        f"{len(start)} bytes; copy it again")
    for order in "<>":
        size = struct.unpack_from(order + "i", start)[0]
        if size in _OFFSETS:
            offset = float(struct.unpack_from(order + _OFFSETS[size], start,
                                              _OFFSET_AT[size])[0])
            if not 0 <= offset <= _MAX_OFFSET:
                raise DataError(f"{path}: expected the voxels within the first {_MAX_OFFSET} "
                                f"bytes, the header says at {offset:.4g}; it is damaged")


def _choose(shape: tuple[int, ...], index: int | None, path: Path) -> tuple[int, ...]:
    """The index, beyond x, y and z, of the volume to read."""
    beyond = shape[3:]
    n = math.prod(beyond)
    if any(size <= 0 for size in shape) or len(shape) < 2:
        raise DataError(f"{path}: expected positive sizes, the header declares {shape}; the file "
                        "is damaged")
    if index is None and n > 1:
        raise DataError(f"{path}: expected one volume, found shape {shape}: choose one with "
                        f"index=0 to {n - 1}, or save it as its own file")
    if not 0 <= (index or 0) < n:
        raise DataError(f"{path}: expected an index from 0 to {n - 1}, got {index}")
    return tuple(int(i) for i in np.unravel_index(index or 0, beyond, order="F"))


def _load(path: Path) -> Any:  # noqa: ANN401  (nibabel is not typed)
    import nibabel

    with _nibabel_errors(path, "expected a NIfTI file, but it cannot be read"):
        image = nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Image):
        raise DataError(
            f"{path}: expected a NIfTI file, found {type(image).__name__}; convert it to .nii.gz"
        )
    return image


def _affine(image: Any, path: Path) -> torch.Tensor:  # noqa: ANN401
    scale = _MILLIMETRES.get(int(image.header["xyzt_units"]) % 8, 1.0)
    affine = torch.from_numpy(np.diag([scale, scale, scale, 1.0]) @ image.affine)
    if not affine.isfinite().all() or torch.linalg.det(affine[:3, :3]) == 0:
        raise DataError(f"{path}: the header's transform is not invertible: {affine.tolist()}; "
                        "correct its sform or qform")
    return affine


def _voxels(image: Any, path: Path,  # noqa: ANN401
            chosen: tuple[int, ...]) -> np.ndarray[Any, np.dtype[Any]]:
    """(x, y, z), as float32 or complex64."""
    kind = image.header.get_data_dtype().kind
    if kind not in "iufc":
        raise DataError(
            f"{path}: expected one number per voxel, found {image.header.get_data_dtype()}; "
            "convert colours to one channel"
        )
    shape = (*image.shape, 1)[:3]
    if path.suffix == ".gz":
        _check_unpacked(image, path, chosen)
    check_memory(path, shape, itemsize=16)
    with _nibabel_errors(path, "the voxels cannot be read, the file is cut off or damaged"), \
            np.errstate(all="ignore"):
        values = np.asanyarray(image.dataobj[(slice(None),) * min(len(image.shape), 3) + chosen])
        numbers: np.ndarray[Any, np.dtype[Any]] = values.astype(
            np.complex64 if values.dtype.kind == "c" else np.float32
        ).reshape(shape)
    return numbers


def _check_unpacked(image: Any, path: Path, chosen: tuple[int, ...]) -> None:  # noqa: ANN401
    """Refuse voxels that a small .gz can't hold, up to the end of the chosen volume."""
    beyond = image.shape[3:]
    n_volumes = int(np.ravel_multi_index(chosen, beyond, order="F")) + 1 if beyond else 1
    n_bytes = math.prod(image.shape[:3]) * n_volumes * image.header.get_data_dtype().itemsize
    check_expansion(path, n_bytes, path.stat().st_size)


@contextmanager
def _nibabel_errors(path: Path, what: str) -> Iterator[None]:
    """Turn what nibabel raises on a damaged file into a `DataError`."""
    import nibabel

    try:
        yield
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError,
            OSError, EOFError, ValueError, TypeError, KeyError, IndexError, OverflowError,
            MemoryError, zlib.error, np.linalg.LinAlgError) as error:
        raise DataError(f"{path}: {what}: {error or type(error).__name__}") from error


def _quantised(
    voxels: np.ndarray[Any, np.dtype[Any]], path: Path
) -> tuple[np.ndarray[Any, np.dtype[Any]], float, float]:
    """16-bit integers, slope and intercept, both as the header's float32 holds them."""
    if voxels.dtype.kind == "c":
        raise DataError(f"{path}: expected real voxels for 16-bit integers, got complex ones; "
                        "write them as they are, or their magnitude")
    low, high = float(voxels.min()), float(voxels.max())
    slope = float(np.float32((high - low) / _INT16_STEPS)) or 1.0
    inter = float(np.float32((high + low) / 2))
    levels = np.rint((voxels.astype(np.float64) - inter) / slope)
    return np.clip(levels, -32768, 32767).astype(np.int16), slope, inter


def _space_code(volume: Volume) -> int:
    codes = {name: code for code, name in _SPACES.items()}
    return codes.get(str(volume.metadata.get("space", "")), 0) or codes["scanner"]


def _has_shear(affine: np.ndarray[Any, np.dtype[Any]]) -> bool:
    """Whether the columns of the affine are not at right angles."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(directions.T @ directions, np.eye(3), atol=1e-5)
