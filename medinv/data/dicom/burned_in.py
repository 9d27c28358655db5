"""Signs in a header that an image's pixels may name or show the patient."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from medinv.data.dicom.header import words

if TYPE_CHECKING:
    from pydicom import Dataset

_OFTEN = (  # secondary captures, ultrasound
    "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3",
)
_SCREEN = re.compile(
    r"SCREEN.?(SAVE|SHOT)|CAPTURE|(CSA|DOSE).?(REPORT|INFO)|PATIENT.?PROTOCOL", re.IGNORECASE)
_GREY = ("CT", "MR", "PT", "NM")  # a colour image of these was drawn by a program
_OVERLAYS, _OVERLAY_BIT = range(0x6000, 0x6100), 0x0102


def suspicion(dataset: Dataset) -> str | None:
    """Why the pixels may name or show the patient; None where nothing says so."""
    if _flag(dataset, "RecognizableVisualFeatures") == "YES":
        return ("its header says that the patient can be recognised in the image "
                "(RecognizableVisualFeatures YES)")
    flag = _flag(dataset, "BurnedInAnnotation")
    if flag == "YES":
        return "its header says that text is burned into the image (BurnedInAnnotation YES)"
    if flag != "NO" and (kind := _kind(dataset)):
        return (f"{kind}, which often has the patient's name burned in, and its header does not "
                "deny it")
    for tag in dataset.keys():  # noqa: SIM118  (its items are decoded, its keys are not)
        if tag.group in _OVERLAYS and tag.element == _OVERLAY_BIT and dataset[tag].value:
            return "an overlay is kept in the unused bits of the pixels"
    return None


def _flag(dataset: Dataset, keyword: str) -> str:
    return "".join(words(dataset, keyword)).strip().upper()


def _kind(dataset: Dataset) -> str | None:
    """What kind of image it is, if of one that often holds text."""
    if "".join(words(dataset, "SOPClassUID")).startswith(_OFTEN):
        return "a screen capture or ultrasound image"
    if _flag(dataset, "ConversionType"):
        return "a converted image or screen capture (ConversionType)"
    for keyword in ("ImageType", "SeriesDescription"):
        if any(_SCREEN.search(word) for word in words(dataset, keyword)):
            return f"a screen capture or report ({keyword})"
    if _flag(dataset, "Modality") in _GREY and _flag(dataset, "SamplesPerPixel") not in ("", "1"):
        return f"a {_flag(dataset, 'Modality')} image in colour"
    return None
