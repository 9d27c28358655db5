"""The header of one DICOM file: only the tags that medinv uses, none that names a person.

The patient's name, ID and birth date are never read. UIDs are, to group files and to know a copy
from another image; they stay inside.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from medinv.data.dicom.files import File, refusing
from medinv.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

CSA_HEADER = 0x00291010
PHILIPS_FRAME, PHILIPS_INTERCEPT, PHILIPS_SLOPE = 0x2005140F, 0x2005100D, 0x2005100E
_KEYWORDS = (
    # identity and kind
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription",
    "StudyInstanceUID", "FrameOfReferenceUID",
    "ProtocolName", "ImageType", "Modality", "InstanceNumber", "AcquisitionNumber",
    # geometry
    "Rows", "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "PatientPosition",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    # values
    "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel", "RescaleSlope",
    "PhotometricInterpretation", "RescaleIntercept", "ModalityLUTSequence", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "Units",
    # acquisition
    "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength", "BodyPartExamined",
    "ScanningSequence", "PulseSequenceName", "EchoPulseSequence", "EchoTrainLength",
    "RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "DiffusionBValue",
    "DiffusionGradientOrientation", "TemporalPositionIdentifier", "TriggerTime", "KVP",
    "XRayTubeCurrent", "ConvolutionKernel", "PatientAge", "PatientSex", "EchoNumbers",
)
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
_FILE_META_BYTES = 1024
_BLOCK_BYTES = 2**20
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PRIVATE = (CSA_HEADER, PHILIPS_INTERCEPT, PHILIPS_SLOPE)


@dataclass(frozen=True, repr=False)
class Header:
    """What one file says of itself.

    Attributes:
        file: where it is.
        dataset: the tags that medinv uses.
        offset: byte at which the element of the pixels starts.
        name: how messages call the file.
    """

    file: File
    dataset: Dataset
    offset: int
    name: str

    @property
    def transfer_syntax(self) -> str:
        """UID of the file's encoding; empty where the file does not state it."""
        return str(self.dataset.file_meta.get("TransferSyntaxUID", ""))

    def text(self, keyword: str) -> str:
        """A text value on one line; empty where it is absent."""
        joined = " ".join(self.words(keyword))
        return " ".join("".join(c if c.isprintable() else " " for c in joined).split())[:64]

    def words(self, keyword: str) -> tuple[str, ...]:
        """The values of a tag as text; none where it is absent or broken."""
        return words(self.dataset, keyword)

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Exactly ``count`` finite numbers; None where the tag is absent or empty.

        Raises:
            DataError: another count, not numbers, NaN or Inf.
        """
        return numbers(self.dataset, keyword, count, self.name)

    def number(self, keyword: str) -> float | None:
        """One finite number, or None (see `numbers`)."""
        values = self.numbers(keyword, 1)
        return None if values is None else values[0]

    def count(self, keyword: str, default: int | None = None) -> int:
        """A whole number of at least 0.

        Raises:
            DataError: absent without a default, negative, or not a whole number.
        """
        value = self.number(keyword)
        if value is None and default is not None:
            return default
        if value is None or value < 0 or value != int(value):
            raise DataError(f"{self.name}: expected {keyword} as a whole number, found "
                            f"{'none' if value is None else value}; the header is damaged")
        return int(value)


def words(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of a tag as text; none where it is absent or broken."""
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom decodes a value when it is first used
        return ()
    many = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(str(word) for word in (value if many else [value]) if word is not None)


def items(dataset: Dataset, key: str | int) -> list[Dataset]:
    """The items of a sequence; none where it is absent or is not one."""
    from pydicom import Dataset

    try:
        value = _value(dataset, key)
    except Exception:  # pydicom decodes a value when it is first used
        return []
    found = value if isinstance(value, Sequence) else ()
    return [item for item in found if isinstance(item, Dataset)]


def _value(dataset: Dataset, key: str | int) -> Any:  # noqa: ANN401  (pydicom is loosely typed)
    element: Any = dataset.get(key)
    return element.value if isinstance(key, int) and element is not None else element


def numbers(dataset: Dataset, key: str | int, count: int, name: str) -> tuple[float, ...] | None:
    """``count`` finite numbers of a data set, or None (see `Header.numbers`)."""
    try:
        found = _converted(dataset, key)
        if found == ():
            return None
    except Exception:  # pydicom decodes a value when it is first used
        found = ()
    if len(found) != count or not all(math.isfinite(item) for item in found):
        raise DataError(f"{name}: expected {key} as {count} finite numbers, found something else; "
                        "the header is damaged, export the series again")
    return found


def _converted(dataset: Dataset, key: str | int) -> tuple[float, ...]:
    """The numbers of a tag; from its bytes, where pydicom has not spent its time on them yet."""
    from pydicom.dataelem import RawDataElement

    element = dataset.get_item(key)
    if isinstance(element, RawDataElement) and element.value is not None:
        if element.VR in ("DS", "IS"):
            text = element.value.decode("ascii").strip(" \0")
            return tuple(float(part) for part in text.split("\\")) if text else ()
        if element.VR in _BINARY:
            order = "<" if element.is_little_endian else ">"
            code = _BINARY[element.VR]
            n = len(element.value) // struct.calcsize(code)
            return struct.unpack(f"{order}{n}{code}", element.value)
    value = _value(dataset, key)
    if isinstance(value, bytes):  # a private tag of unknown type, in Philips' files a float
        return struct.unpack("<f", value) if len(value) == 4 else ()
    if value is None or value == "":
        return ()
    many = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(float(item) for item in (value if many else [value]))


@cache
def _tags() -> list[int]:
    from pydicom.datadict import tag_for_keyword

    tags = [tag_for_keyword(keyword) for keyword in _KEYWORDS]
    return [*_PRIVATE, *(tag for tag in tags if tag is not None)]


def pixels_digest(header: Header) -> bytes:
    """A checksum of all that follows the header: to tell copies from other images.

    Raises:
        DataError: the file cannot be read.
    """
    with header.file.open() as stream, refusing(header.name, "it cannot be read"):
        stream.seek(header.offset)
        digest = hashlib.sha256()
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
        return digest.digest()


def read_header(file: File, name: str) -> Header | None:
    """The header of a file; None where it is not DICOM.

    Raises:
        DataError: the file is DICOM, but damaged.
    """
    import pydicom

    with file.open() as stream:
        start = stream.read(_FILE_META_BYTES)
        bare = start[:2] in (b"\x02\x00", b"\x08\x00")  # DICOM without its preamble
        if start[128:132] != b"DICM" and not bare:
            return None
        if _DEFLATED in start:
            raise DataError(f"{name}: the whole file is deflated, which would let a small file "
                            "fill the memory; export it uncompressed")
        stream.seek(0)
        with refusing(name, "the DICOM header cannot be read"):
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=bare,
                                      specific_tags=_tags())
            return Header(file, dataset, stream.tell(), name)
