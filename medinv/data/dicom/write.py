"""A `Volume` as a derived DICOM series, one file per slice.

Voxels keep their places: axes are flipped or swapped so that slices stand as radiologists look at
them and rows, columns and slices are right-handed in DICOM's LPS, and each slice carries its own
position. Integers within 16 bits are stored as they are, CT is rounded to 1 HU, anything else is
scaled; the header states the step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medinv.data.atomic import replacing_folder, write_json
from medinv.data.dicom.derived import Derivation, UIDs, describe_derivation, template
from medinv.data.dicom.files import PathOrPaths, label, quiet
from medinv.data.dicom.frames import Frame, frames_of
from medinv.data.dicom.reader import choose_series, without_captures
from medinv.data.dicom.series import Series, list_series
from medinv.data.geometry import as_shown
from medinv.data.volume import Volume
from medinv.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

Array = np.ndarray[Any, np.dtype[np.float64]]

_LIMITS = np.iinfo(np.int16)
_CT_WINDOW = (40.0, 400.0)  # soft tissue: centre and width, HU
_SKEW = 1e-3  # cosine between rows and columns, at most
_TILT_PIXELS = 0.5  # how far the last slice may lie beside the first one's normal


@dataclass(frozen=True, eq=False)
class _Stored:
    """Voxels as 16-bit integers: value = slope * voxel."""

    voxels: np.ndarray[Any, np.dtype[np.int16]]
    slope: float
    text: str


def write_dicom(
    volume: Volume,
    folder: str | Path,
    source: Series | PathOrPaths | None = None,
    *,
    description: str = "medinv",
    derivation: str = "Reconstructed by medinv.",
    provenance: Mapping[str, object] | None = None,
    uid_seed: int | None = None,
) -> list[Path]:
    """Write a volume as a new DICOM series, which a viewer shows on top of its source.

    The whole folder appears at once, or not at all. Images say that they are derived and not for
    diagnostic use. Without a source they belong to a new study of a patient called ANONYMOUS.

    Args:
        volume: real voxels; HU for CT.
        folder: new or empty.
        source: the series (or the folder that holds it alone) whose patient, study, frame of
            reference, modality and acquisition the new one shares; without one, the modality is
            the volume's, and ``OT`` (other) where that is not known.
        description: of the new series; the note on diagnostic use follows it.
        derivation: how the voxels were made, for ``DerivationDescription``.
        provenance: medinv's version, the recipe's hash, checksums of the inputs...; goes into the
            headers (its first 1,024 characters) and ``<folder>.json``.
        uid_seed: for the same UIDs every time; random ones if None.

    Returns:
        The files, in order of their slices.

    Raises:
        DataError: complex or non-finite voxels, axes that are not at right angles, or a CT that is
            not in HU.
        OutputError: the folder is not empty, or cannot be written.

    >>> import tempfile
    >>> from medinv.data import Metadata, read_dicom
    >>> voxels = torch.arange(24.0).reshape(2, 3, 4)
    >>> affine = torch.diag(torch.tensor([-1.0, -1, 2.5, 1]).double())
    >>> ct = Volume(voxels, affine, {"unit": "HU"}, Metadata(modality="CT"))
    >>> folder = Path(tempfile.mkdtemp(), "derived")
    >>> [path.name for path in write_dicom(ct, folder)]
    ['image-0001.dcm', 'image-0002.dcm']
    >>> torch.equal(read_dicom(folder).data, voxels)
    True
    """
    _check(volume)
    series = _source_series(source)
    uids = UIDs(uid_seed)
    with quiet():
        shared = template(series, volume.acquisition, uids)
        _check_unit(volume, shared.Modality)
        shown = as_shown(volume)
        stored = _stored(shown, shared.Modality)
        facts = {"medinv": version("medinv"), **(provenance or {})}
        describe_derivation(shared, Derivation(description, f"{derivation} {stored.text}", facts))
        shared.SeriesNumber = _series_number(series)
        _add_grid(shared, shown)
        _add_values(shared, stored)
        positions = _lps(shown)
        originals = [frame for header in series.headers for frame in frames_of(header)
                     ] if series else []
        names = []
        with replacing_folder(folder) as temporary:
            for z, position in enumerate(_slice_positions(positions, len(stored.voxels))):
                names.append(f"image-{z + 1:04d}.dcm")
                image = _image(shared, z, position, stored.voxels[z], uids)
                _add_source(image, originals, position, positions[:3, 2])
                image.save_as(temporary / names[-1], enforce_file_format=True)
    if provenance is not None:
        write_json(Path(folder).with_name(f"{Path(folder).name}.json"), facts)
    return [Path(folder) / name for name in names]


def _source_series(source: Series | PathOrPaths | None) -> Series | None:
    if source is None:
        return None
    if isinstance(source, Series):
        return without_captures(source)
    return without_captures(choose_series(list_series(source), None, label(source)))


def _check(volume: Volume) -> None:
    if volume.data.is_complex():
        raise DataError("write_dicom: expected real voxels, got complex ones; write the "
                        "magnitude, volume.with_data(volume.data.abs()), or the phase, .angle()")
    if not volume.data.isfinite().all():
        raise DataError("write_dicom: expected finite voxels, found NaN or Inf; correct them")
    x, y, z = (volume.affine[:3, :3] / torch.tensor(volume.spacing_mm)).T
    slices, rows, cols = volume.data.shape
    if abs(float(x @ y)) > _SKEW:
        raise DataError("write_dicom: expected rows and columns at right angles, found a cosine "
                        f"of {float(x @ y):.3g} between them; resample the volume")
    dx, dy, dz = volume.spacing_mm
    drift = max(abs(float(z @ x)) / dx, abs(float(z @ y)) / dy) * dz * (slices - 1)
    if drift > _TILT_PIXELS:
        raise DataError("write_dicom: expected slices stacked along their normal, found the last "
                        f"one {drift:.3g} pixels beside it; resample the volume")


def _check_unit(volume: Volume, modality: str) -> None:
    unit = volume.metadata.get("unit", "HU")
    if modality == "CT" and unit != "HU":
        raise DataError(f"write_dicom: expected a CT in HU, got {unit!r}; convert attenuations "
                        "with mu_to_hu and set metadata['unit'] to 'HU'")


def _stored(volume: Volume, modality: str) -> _Stored:
    values = volume.data.numpy().astype(np.float64)
    largest = float(np.abs(values).max())
    fits = _LIMITS.min <= values.min() and values.max() <= _LIMITS.max
    if fits and np.array_equal(values, np.rint(values)):
        return _Stored(values.astype(np.int16), 1.0, "Values are stored exactly.")
    if fits and modality == "CT":
        return _Stored(np.rint(values).astype(np.int16), 1.0,
                       "Values are rounded to 1 HU, off by at most 0.5 HU.")
    slope = float(_decimal(largest / _LIMITS.max))
    voxels = np.rint(values / slope).clip(_LIMITS.min, _LIMITS.max).astype(np.int16)
    return _Stored(voxels, slope, f"Values are stored in steps of {slope:.4g}, off by at most "
                   f"{slope / 2:.4g}.")


def _lps(volume: Volume) -> Array:
    """Voxel index (x, y, z) to LPS mm."""
    result: Array = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine.numpy()
    return result


def _slice_positions(affine: Array, n_slices: int) -> list[Array]:
    return [affine[:3, 3] + z * affine[:3, 2] for z in range(n_slices)]


def _add_grid(dataset: Dataset, volume: Volume) -> None:
    """What all slices share: size, orientation, spacing."""
    affine = _lps(volume)
    dx, dy, dz = volume.spacing_mm
    thickness = volume.acquisition.slice_thickness_mm or dz
    dataset.Rows, dataset.Columns = volume.data.shape[1:]
    directions = [*(affine[:3, 0] / dx), *(affine[:3, 1] / dy)]
    dataset.ImageOrientationPatient = [_decimal(value) for value in directions]
    dataset.PixelSpacing = [_decimal(dy), _decimal(dx)]
    dataset.SliceThickness = _decimal(thickness)
    dataset.SpacingBetweenSlices = _decimal(dz)


def _add_values(dataset: Dataset, stored: _Stored) -> None:
    """How stored numbers become values, and how they are shown at first."""
    is_ct = dataset.Modality == "CT"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    if is_ct or stored.slope != 1:  # the MR image of PS3.3 knows no rescale
        dataset.RescaleSlope, dataset.RescaleIntercept = _decimal(stored.slope), "0"
        dataset.RescaleType = "HU" if is_ct else "US"
    centre, width = _CT_WINDOW if is_ct else _window(stored)
    dataset.WindowCenter, dataset.WindowWidth = _decimal(centre), _decimal(width)


def _window(stored: _Stored) -> tuple[float, float]:
    """From the first to the 99.5th percentile."""
    low, high = np.percentile(stored.voxels, [1, 99.5]) * stored.slope
    return float(low + high) / 2, max(float(high - low), stored.slope)


def _series_number(source: Series | None) -> int:
    """Derived series are listed behind those of the scanner."""
    return 1000 + (source.number or 0) if source else 1


def _image(
    shared: Dataset, z: int, position: Array, pixels: np.ndarray[Any, np.dtype[np.int16]],
    uids: UIDs,
) -> Dataset:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    image = Dataset(shared)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(uids.new())
    image.InstanceNumber = z + 1
    image.ImagePositionPatient = [_decimal(value) for value in position]
    image.PixelData = pixels.astype("<i2").tobytes()
    image["PixelData"].VR = "OW"
    return image


def _add_source(image: Dataset, originals: Sequence[Frame], position: Array, step: Array) -> None:
    """Name the image of the source that lies at the same place, if there is one."""
    from pydicom import Dataset

    if not originals:
        return
    length = float(np.linalg.norm(step))
    offsets = np.stack([frame.position for frame in originals]) - position
    distances = np.abs(offsets @ step) / length
    nearest = int(distances.argmin())
    header = originals[nearest].header
    kind, uid = header.text("SOPClassUID"), header.text("SOPInstanceUID")
    if distances[nearest] < length / 2 and kind and uid:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = kind, uid
        image.SourceImageSequence = [reference]


def _decimal(value: float) -> str:
    """A number as DICOM writes it, in at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value) + 0.0)
