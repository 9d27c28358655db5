"""Who a series belongs to: read only where a person asks for it by name."""

from __future__ import annotations

from medinv.data.dicom.files import quiet, refusing
from medinv.data.dicom.header import words
from medinv.data.dicom.series import Series

_IDENTIFIERS = ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID",
                "SeriesInstanceUID", "FrameOfReferenceUID")


def identifiers(series: Series) -> dict[str, str]:
    """The patient's name, ID and birth date, and the UIDs, from the first file of a series.

    Raises:
        DataError: the file cannot be read.
    """
    import pydicom

    first = series.headers[0]
    with quiet(), first.file.open() as stream, refusing(first.name, "it cannot be read"):
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True,
                                  specific_tags=list(_IDENTIFIERS))
        return {name: " ".join(words(dataset, name)) for name in _IDENTIFIERS}
