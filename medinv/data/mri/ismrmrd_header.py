"""The XML header of ISMRMRD, which raw files carry and fastMRI's files copy.

Sizes stand in the order (x, y, z) of the standard: x is the readout, y the phase encoding, z the
second phase encoding or the slice. Names and patient identifiers are not read.
Source: Inati et al. 2017, ISMRM Raw data format, Magn. Reson. Med. 77, 411; https://ismrmrd.github.io.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from medinv.data.metadata import Metadata, contrast_of
from medinv.data.safety import parse_xml
from medinv.errors import DataError

_PROTON_MHZ_PER_T = 42.577
_MAX_MATRIX = 65535  # the standard's indices are 16 bits wide
_PATIENT_POSITIONS = frozenset(
    f"{first}F{side}" for first in "HF" for side in ("P", "S", "DR", "DL")
)
_SPACES = ("encodedSpace", "reconSpace")
_Matrix = tuple[int, int, int]
_Lengths = tuple[float, float, float]


@dataclass(frozen=True)
class Limit:
    """Range and centre of an encoding step."""

    minimum: int
    maximum: int
    center: int


@dataclass(frozen=True)
class Encoding:
    """One encoding of a scan; sizes and fields of view along (x, y, z), x the readout.

    Attributes:
        trajectory: ``cartesian``, ``radial``, ``spiral``, ``epi``...
        encoded_shape: matrix of k-space.
        encoded_fov_mm: one over the step of k-space, so with the readout's oversampling.
        recon_shape: matrix of the image.
        recon_fov_mm: of the image.
        step_1: of the phase encoding, where the header says so.
        step_2: of the second phase encoding, where the header says so.
        calibration: ``embedded``, ``separate``...; empty where the header does not say.
        notes: what people should know: a field of view that was 0.
    """

    trajectory: str
    encoded_shape: tuple[int, int, int]
    encoded_fov_mm: tuple[float, float, float]
    recon_shape: tuple[int, int, int]
    recon_fov_mm: tuple[float, float, float]
    step_1: Limit | None = None
    step_2: Limit | None = None
    calibration: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """What medinv reads of an ISMRMRD header: at least one encoding, and the acquisition."""

    encodings: tuple[Encoding, ...]
    acquisition: Metadata


def parse_header(text: bytes | str, path: Path) -> Header:
    """Parse an ISMRMRD header.

    Args:
        text: the XML.
        path: the file, for messages.

    Raises:
        DataError: not plain XML (see `medinv.data.safety.parse_xml`), or without the matrices and
            fields of view of an encoding. A field of view of 0 is repaired, and noted.
    """
    root = parse_xml(text, path)
    blocks = root.findall("{*}encoding")
    if not blocks:
        raise DataError(f"{path}: ISMRMRD header: expected an encoding, found none; export the "
                        "header again")
    return Header(tuple(_encoding(block, path) for block in blocks), _acquisition(root))


def _encoding(block: Element, path: Path) -> Encoding:
    shapes = [_shape(block, space, path) for space in _SPACES]
    fields, notes = _fields_of_view(block, shapes, path)
    return Encoding(
        trajectory=_text(block, "trajectory") or "cartesian",
        encoded_shape=shapes[0], encoded_fov_mm=fields[0],
        recon_shape=shapes[1], recon_fov_mm=fields[1],
        step_1=_limit(block, "kspace_encoding_step_1"),
        step_2=_limit(block, "kspace_encoding_step_2"),
        calibration=_text(block, "parallelImaging", "calibrationMode") or "",
        notes=notes,
    )


def _fields_of_view(block: Element, shapes: list[_Matrix],
                    path: Path) -> tuple[list[_Lengths], tuple[str, ...]]:
    """Of both spaces; where one is 0, voxels are as large as the other's, or 1 mm."""
    stated = [_triple(block, space, "fieldOfView_mm", path, zero=True) for space in _SPACES]
    voxels = [max(field[axis] / shape[axis] for field, shape in zip(stated, shapes, strict=True))
              for axis in range(3)]
    unknown = [name for name, size in zip("xyz", voxels, strict=True) if size == 0]
    x, y, z = (size or 1.0 for size in voxels)
    fields = [(field[0] or x * shape[0], field[1] or y * shape[1], field[2] or z * shape[2])
              for field, shape in zip(stated, shapes, strict=True)]
    if not unknown:
        return fields, ()
    return fields, (f"the field of view along {', '.join(unknown)} is 0 in the header: voxels of "
                    "1 mm are assumed there, so distances are not to scale",)


def _shape(block: Element, space: str, path: Path) -> tuple[int, int, int]:
    x, y, z = _triple(block, space, "matrixSize", path)
    if max(x, y, z) > _MAX_MATRIX:
        raise DataError(f"{path}: ISMRMRD header: expected a matrix of at most {_MAX_MATRIX} "
                        f"along an axis, found {space}/matrixSize {x:g} x {y:g} x {z:g}; "
                        "correct the header")
    return max(round(x), 1), max(round(y), 1), max(round(z), 1)


def _triple(block: Element, space: str, field: str, path: Path, *,
            zero: bool = False) -> _Lengths:
    values = []
    for axis in "xyz":
        value = _number(block, space, field, axis)
        if value is None or not (value > 0 or (zero and value == 0)):
            raise DataError(
                f"{path}: ISMRMRD header: expected a positive encoding/{space}/{field}/{axis}, "
                f"found {_text(block, space, field, axis)!r}; correct the header"
            )
        values.append(value)
    return values[0], values[1], values[2]


def _limit(block: Element, step: str) -> Limit | None:
    ends = [_number(block, "encodingLimits", step, end) for end in ("minimum", "maximum",
                                                                    "center")]
    numbers = [round(end) for end in ends if end is not None and 0 <= end <= _MAX_MATRIX]
    return Limit(*numbers) if len(numbers) == 3 else None


def _acquisition(root: Element) -> Metadata:
    system, sequence = "acquisitionSystemInformation", "sequenceParameters"
    protocol = _text(root, "measurementInformation", "protocolName") or ""
    position = (_text(root, "measurementInformation", "patientPosition") or "").upper()
    frequency = _positive(root, "experimentalConditions", "H1resonanceFrequency_Hz")
    field = _positive(root, system, "systemFieldStrength_T")
    if field is None and frequency is not None:
        field = round(frequency / 1e6 / _PROTON_MHZ_PER_T, 3)
    sex = (_text(root, "subjectInformation", "patientGender") or "").upper()
    return Metadata(
        modality="MR",
        manufacturer=_text(root, system, "systemVendor"),
        model=_text(root, system, "systemModel"),
        field_strength_t=field,
        sequence=_text(root, sequence, "sequence_type"),
        contrast=contrast_of(protocol),
        tr_ms=_positive(root, sequence, "TR"),
        te_ms=_positive(root, sequence, "TE"),
        ti_ms=_positive(root, sequence, "TI"),
        flip_angle_deg=_positive(root, sequence, "flipAngle_deg"),
        patient_position=position if position in _PATIENT_POSITIONS else None,
        sex=sex if sex in ("F", "M", "O") else None,
    )


def _text(element: Element, *names: str) -> str | None:
    text = element.findtext("/".join(f"{{*}}{name}" for name in names))
    return text.strip() or None if text else None


def _number(element: Element, *names: str) -> float | None:
    """A finite number, None where there is none."""
    try:
        value = float(_text(element, *names) or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _positive(element: Element, *names: str) -> float | None:
    value = _number(element, *names)
    return value if value is not None and value > 0 else None
