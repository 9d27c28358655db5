r"""What a derived DICOM series keeps of its source, and what it says of itself.

Kept: patient, study, frame of reference, scanner and acquisition. New: series and image UIDs under
2.25 (UUIDs, PS3.5 B.2), ``DERIVED\SECONDARY``, and a note that the images are not for diagnosis.
CT and MR have their own kinds of image; what comes from any other modality is written as secondary
capture, whose header asks for nothing that medinv does not know (a PET image must tell its decay
correction and detectors), with places added. The modality is that of the data, else ``OT``.
"""

from __future__ import annotations

import datetime
import json
import random
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from medinv.data.dicom.files import quiet, refusing
from medinv.data.dicom.header import words
from medinv.data.dicom.series import Series
from medinv.data.metadata import Metadata

if TYPE_CHECKING:
    from pydicom import Dataset

NOT_FOR_DIAGNOSIS = "NOT FOR DIAGNOSTIC USE"
_SOP_CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_OTHER = "OT"
_SYNTHETIC = "ANONYMOUS"
_TEXT_LIMIT = 1024  # of a DICOM short text (ST)

_KEPT = (
    # patient
    "SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate",
    "PatientSex", "PatientAge", "PatientSize", "PatientWeight", "PatientIdentityRemoved",
    "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    # study
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription",
    "AccessionNumber", "ReferringPhysicianName",
    # frame of reference, series, scanner
    "FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition", "BodyPartExamined",
    "Laterality", "ProtocolName", "Manufacturer", "ManufacturerModelName", "BurnedInAnnotation",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)
_EMPTY = (  # type 2: there, even where nothing is known
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
    "PatientPosition", "Laterality", "Manufacturer", "AcquisitionNumber",
)
_ACQUISITION = {
    "CT": ("KVP", "DataCollectionDiameter"),
    "MR": ("ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType",
           "RepetitionTime", "EchoTime", "EchoTrainLength", "InversionTime", "FlipAngle",
           "MagneticFieldStrength", "ImagingFrequency", "ImagedNucleus"),
}
_FROM_METADATA = {
    "CT": {"KVP": "kvp"},
    "MR": {"RepetitionTime": "tr_ms", "EchoTime": "te_ms", "InversionTime": "ti_ms",
           "FlipAngle": "flip_angle_deg", "MagneticFieldStrength": "field_strength_t"},
}
_UNKNOWN: dict[str, dict[str, str | None]] = {  # what PS3.3 asks for even where it is not known
    "CT": {"KVP": None},
    "MR": {"ScanningSequence": "RM", "SequenceVariant": "NONE", "ScanOptions": None,
           "MRAcquisitionType": None, "RepetitionTime": None, "EchoTime": None,
           "EchoTrainLength": None},
}


@dataclass(frozen=True)
class Derivation:
    """What the images say of where they come from.

    Attributes:
        description: of the series, such as ``DDS, 60 views``.
        text: how the images were made, and how their values are stored.
        provenance: medinv's version, the recipe's hash, seeds, checksums of the inputs.
    """

    description: str
    text: str
    provenance: Mapping[str, object]


class UIDs:
    """New UIDs under 2.25: random, or the same ones for the same seed.

    >>> UIDs(7).new() == UIDs(7).new(), UIDs(7).new()[:5]
    (True, '2.25.')
    """

    def __init__(self, seed: int | None = None) -> None:
        self._bits = random.SystemRandom() if seed is None else random.Random(seed)

    def new(self) -> str:
        """Another UID."""
        return f"2.25.{uuid.UUID(int=self._bits.getrandbits(128), version=4).int}"


def template(source: Series | None, acquisition: Metadata, uids: UIDs) -> Dataset:
    """The tags that all images of a new series share, before their derivation is described.

    Raises:
        DataError: the source's first file cannot be read.
    """
    from pydicom import Dataset

    original = Dataset() if source is None else _first(source)
    modality = _code((source.modality if source else "") or acquisition.modality or "")
    kept = Dataset()
    for keyword in (*_KEPT, *_ACQUISITION.get(modality, ())):
        if keyword in original:
            kept[keyword] = original[keyword]
    if not re.fullmatch(r"\d{3}[DWMY]", str(kept.get("PatientAge", ""))):
        kept.pop("PatientAge", None)  # such as 0Y, which anonymisers leave
    if source is None:
        kept.PatientName = kept.PatientID = _SYNTHETIC
    for keyword in _EMPTY:
        if keyword not in kept:
            setattr(kept, keyword, None)
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if not kept.get(keyword):
            setattr(kept, keyword, uids.new())
    _add_acquisition(kept, modality, acquisition)
    kept.Modality = modality
    kept.SOPClassUID = _SOP_CLASSES.get(modality, _SECONDARY_CAPTURE)
    if kept.SOPClassUID == _SECONDARY_CAPTURE:
        kept.ConversionType, kept.PatientOrientation = "WSD", None  # by a workstation
        if source is None:
            kept.BurnedInAnnotation = "NO"
    kept.SeriesInstanceUID = uids.new()
    return kept


def _code(modality: str) -> str:
    """The modality as DICOM may write it.

    >>> _code("PT"), _code("pet?"), _code("")
    ('PT', 'OT', 'OT')
    """
    return modality if re.fullmatch(r"[A-Z0-9_]{2,16}", modality) else _OTHER


def describe_derivation(dataset: Dataset, derivation: Derivation) -> None:
    """Say in a header how the images were made, and that nobody should diagnose from them."""
    now = datetime.datetime.now()
    room = 64 - len(NOT_FOR_DIAGNOSIS) - 3  # of a long string (LO)
    dataset.SeriesDescription = f"{derivation.description[:room]} - {NOT_FOR_DIAGNOSIS}"
    dataset.ImageType = ["DERIVED", "SECONDARY", *_image_type(dataset.Modality)]
    dataset.DerivationDescription = f"{NOT_FOR_DIAGNOSIS}. {derivation.text}"[:_TEXT_LIMIT]
    dataset.ImageComments = f"{NOT_FOR_DIAGNOSIS}: computed by medinv {version('medinv')}"
    dataset.ContributingEquipmentSequence = [_equipment(derivation.provenance, now)]
    for kind in ("Series", "Content", "InstanceCreation"):
        setattr(dataset, f"{kind}Date", now.strftime("%Y%m%d"))
        setattr(dataset, f"{kind}Time", now.strftime("%H%M%S"))


def _image_type(modality: str) -> list[str]:
    return ["AXIAL"] if modality == "CT" else ["OTHER"]  # CT: anything but a localizer


def _equipment(provenance: Mapping[str, object], now: datetime.datetime) -> Dataset:
    from pydicom import Dataset

    purpose, equipment = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "109102", "DCM"
    purpose.CodeMeaning = "Processing Equipment"
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    equipment.Manufacturer = equipment.ManufacturerModelName = "medinv"
    equipment.SoftwareVersions = version("medinv")
    equipment.ContributionDateTime = now.strftime("%Y%m%d%H%M%S")
    equipment.ContributionDescription = json.dumps(dict(provenance), default=str)[:_TEXT_LIMIT]
    return equipment


def _add_acquisition(dataset: Dataset, modality: str, acquisition: Metadata) -> None:
    from pydicom.valuerep import DSfloat

    for keyword, name in _FROM_METADATA.get(modality, {}).items():
        value = getattr(acquisition, name)
        if keyword not in dataset and value is not None:
            setattr(dataset, keyword, DSfloat(value, auto_format=True))
    for keyword, unknown in _UNKNOWN.get(modality, {}).items():
        if keyword not in dataset:
            setattr(dataset, keyword, unknown)
    if "IR" not in words(dataset, "ScanningSequence"):
        dataset.pop("InversionTime", None)  # PS3.3 allows it with inversion recovery alone


def _first(source: Series) -> Dataset:
    """The whole header of the first image, decoded."""
    import pydicom

    first = source.headers[0]
    with quiet(), first.file.open() as stream, refusing(first.name, "it cannot be read"):
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
        dataset.decode()
        for keyword in (*_KEPT, *_ACQUISITION.get(source.modality, ())):
            dataset.get(keyword)
    return dataset
