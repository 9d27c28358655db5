"""`Metadata` from a DICOM header, classic or enhanced."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medinv.data.dicom.frames import Frame, frame_groups
from medinv.data.dicom.header import Header, items, numbers, words
from medinv.data.metadata import Metadata, contrast_of, nearest_plane
from medinv.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

_SEQUENCES = {"SE": "SpinEcho", "IR": "InversionRecovery", "GR": "GradientEcho",
              "EP": "EchoPlanar"}
_ENHANCED_SEQUENCES = {"SPIN": "SpinEcho", "GRADIENT": "GradientEcho"}
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def acquisition_of(frame: Frame) -> Metadata:
    """How a slice was acquired, as far as its header says.

    A tag that is broken, negative or absent is left out: it describes, and the voxels stand
    without it.
    """
    header = frame.header
    groups = frame_groups(header, frame.index)

    def number(*keywords: str) -> float | None:
        return _first_number(header, groups, keywords)

    def text(keyword: str) -> str | None:
        return header.text(keyword) or None

    sex = header.text("PatientSex")
    return Metadata(
        modality=text("Modality"), manufacturer=text("Manufacturer"),
        model=text("ManufacturerModelName"), field_strength_t=number("MagneticFieldStrength"),
        anatomy=_anatomy(header, groups), sequence=_sequence(header, groups),
        contrast=contrast_of(header.text("SeriesDescription"))
        or contrast_of(header.text("ProtocolName")),
        tr_ms=number("RepetitionTime"), te_ms=number("EffectiveEchoTime", "EchoTime"),
        ti_ms=number("InversionTime", "InversionTimes") or None,  # 0 means no inversion
        flip_angle_deg=number("FlipAngle"),
        b_value_s_mm2=number("DiffusionBValue"), plane=nearest_plane(frame.normal.tolist()),
        slice_thickness_mm=number("SliceThickness"), kvp=number("KVP"),
        tube_current_ma=number("XRayTubeCurrent", "XRayTubeCurrentInmA"),
        kernel=text("ConvolutionKernel"), patient_position=text("PatientPosition"),
        age_years=_age(header.text("PatientAge")), sex=sex if sex in ("F", "M", "O") else None,
    )


def _first_number(
    header: Header, groups: Sequence[Dataset], keywords: Sequence[str]
) -> float | None:
    for keyword in keywords:
        for group in groups:
            try:
                found = numbers(group, keyword, 1, header.name)
            except DataError:
                continue
            if found is not None and found[0] >= 0:
                return found[0]
    return None


def _anatomy(header: Header, groups: Sequence[Dataset]) -> str | None:
    regions = [item for group in groups for item in items(group, "AnatomicRegionSequence")]
    names = [word for item in regions for word in words(item, "CodeMeaning")]
    return (header.text("BodyPartExamined") or " ".join(names[:1])).lower() or None


def _sequence(header: Header, groups: Sequence[Dataset]) -> str | None:
    """The kind of sequence in ISMRMRD's words; a spin echo with a train is a TurboSpinEcho."""
    kinds = [_SEQUENCES[word] for word in words(header.dataset, "ScanningSequence")
             if word in _SEQUENCES]
    kinds = kinds or [_ENHANCED_SEQUENCES[word] for word in
                      words(header.dataset, "EchoPulseSequence") if word in _ENHANCED_SEQUENCES]
    train = _first_number(header, groups, ("RFEchoTrainLength", "EchoTrainLength")) or 0
    if "SpinEcho" in kinds and "EchoPlanar" not in kinds and train > 1:
        kinds[kinds.index("SpinEcho")] = "TurboSpinEcho"
    return " ".join(kinds) or None


def _age(text: str) -> float | None:
    """Years from DICOM's ``042Y``, ``011M``, ``003W`` or ``010D``; 0 means that it was removed."""
    found = re.fullmatch(r"(\d{1,3})([YMWD])", text)
    return float(found[1]) * _YEARS[found[2]] or None if found else None
