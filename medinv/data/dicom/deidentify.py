"""De-identify DICOM series by the Basic Application Level Confidentiality Profile (PS3.15).

Each attribute is removed, emptied, replaced by a dummy or kept as the profile's table says; where
the table leaves a choice to the kind of image, the one that conforms for every kind is taken.
Stricter than the table: text, dates and bytes that it does not list go too, unless they are known
to be technical (`medinv.data.dicom.unlisted`), and so do attributes that DICOM does not define, or
that hold text where it defines none. UIDs and patients get new names that depend on a salt,
the same ones throughout a run. Pixels are copied bit for bit, compressed or not.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from medinv.data.atomic import check_new_folder, replacing_folder, write_json
from medinv.data.dicom.burned_in import suspicion
from medinv.data.dicom.confidentiality import EDITION, PROFILE
from medinv.data.dicom.files import PathOrPaths, find_files, quiet, refusing
from medinv.data.dicom.header import Header, words
from medinv.data.dicom.series import list_series
from medinv.data.dicom.unlisted import is_kept
from medinv.errors import DataError

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset
    from pydicom.tag import BaseTag
    from pydicom.uid import UID

_CODES = {keyword: code for code, listed in PROFILE.items() for keyword in listed.split()}
_REGISTERED = "1.2.840.10008."  # UIDs of the standard itself
_GRAPHICS = (range(0x5000, 0x5100), range(0x6000, 0x6100))  # groups of curves and overlays
_DUMMIES = {"DA": "19000101", "DT": "19000101000000", "TM": "000000", "AS": "000Y", "DS": "0",
            "IS": "0", "OB": b"\0\0", "UN": b"\0\0"}
_DUMMY = "REMOVED"


@dataclass(frozen=True)
class Report:
    """What a de-identification did, without any value of what it removed.

    Attributes:
        series: one line for each: its folder, modality, number of images.
        n_patients: different patients among them.
        n_left_out: files that hold no image, or repeat another.
        actions: action to attribute's keyword to how often.
    """

    series: list[str] = field(default_factory=list)
    n_patients: int = 0
    n_left_out: int = 0
    actions: dict[str, dict[str, int]] = field(default_factory=dict)

    def facts(self) -> dict[str, object]:
        """For JSON."""
        return {
            "medinv": version("medinv"), "profile": _method(), "series": self.series,
            "patients": self.n_patients, "files left out": self.n_left_out,
            "attributes": self.actions,
        }


def deidentify(
    source: PathOrPaths,
    folder: str | Path,
    *,
    salt: str | None = None,
    allow_burned_in: bool = False,
) -> Report:
    """Copy DICOM series without what identifies the patient.

    Writes ``folder/series-001/image-0001.dcm``... and ``folder/report.json``, at once or not at
    all. Patient's name and ID become ``ANON-`` and ten letters; images of one patient, study or
    frame of reference stay together.

    What remains: numbers, codes and technical terms (scanner, sequence, kernel), text in the
    comments of a JPEG stream, and faces. Look at what you publish.

    Args:
        source: folder, zip, DICOMDIR, file, or list of files. Files without an image (reports,
            presentations) are left out.
        folder: new or empty.
        salt: a secret text; the same one gives the same new UIDs and patients. Random if None,
            and then nobody can find the way back.
        allow_burned_in: copy images whose pixels have, or may have, text or a recognisable face.

    Raises:
        DataError: nothing to read, a damaged file, or text burned into an image.
        OutputError: the folder is not empty, or cannot be written.

    Example:
        >>> deidentify("exports/", "shareable/").n_patients  # doctest: +SKIP
        1
    """
    check_new_folder(folder)
    profile = Profile(salt or secrets.token_hex(32))
    groups = list_series(source)
    lines, n_images = [], 0
    with replacing_folder(folder) as temporary, quiet():
        for number, series in enumerate(groups, 1):
            name = f"series-{number:03d}"
            (temporary / name).mkdir()
            for index, header in enumerate(series.headers, 1):
                dataset = _read(header, allow_burned_in)
                with refusing(header.name, "it cannot be de-identified"):
                    profile.apply(dataset)
                    dataset.save_as(temporary / name / f"image-{index:04d}.dcm",
                                    enforce_file_format=True)
            n_images += len(series.headers)
            lines.append(f"{name}: {series.modality or 'unknown'}, {len(series.headers)} files")
        report = Report(lines, len(profile.patients), len(find_files(source)) - n_images,
                        {action: dict(sorted(counts.items()))
                         for action, counts in sorted(profile.counts.items())})
        write_json(temporary / "report.json", report.facts())
    return report


def _read(header: Header, allow_burned_in: bool) -> Dataset:
    import pydicom

    with header.file.open() as stream, refusing(header.name, "it cannot be read"):
        dataset = pydicom.dcmread(stream, force=True)
        burned_in = suspicion(dataset)
    if burned_in and not allow_burned_in:
        raise DataError(f"{header.name}: {burned_in}; look at it, then leave it out or allow it "
                        "(allow_burned_in, --allow-burned-in)")
    return dataset


class Profile:
    """The profile with one salt; counts what it does."""

    def __init__(self, salt: str) -> None:
        self._salt = salt.encode()
        self.counts: dict[str, Counter[str]] = {}
        self.patients: set[str] = set()
        self._images: Counter[str] = Counter()

    def apply(self, dataset: Dataset) -> None:
        """De-identify a file's header in place; its pixels are not touched."""
        from pydicom import Dataset
        from pydicom.dataset import FileMetaDataset

        patient = "".join(words(dataset, "PatientID") or words(dataset, "PatientName"))
        pseudonym = f"ANON-{self._digest('patient', patient).hex()[:10].upper()}"
        self.patients.add(pseudonym)
        syntax = _transfer_syntax(dataset)
        self._clean(dataset, pseudonym)
        self._separate(dataset)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.preamble = bytes(128)
        dataset.PatientName = dataset.PatientID = pseudonym
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = _method()
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
        code.CodeMeaning = "Basic Application Confidentiality Profile"
        dataset.DeidentificationMethodCodeSequence = [code]
        dataset.LongitudinalTemporalInformationModified = "REMOVED"

    def _separate(self, dataset: Dataset) -> None:
        """Another UID for a further image that bears the same one as an image before it."""
        if "SOPInstanceUID" not in dataset:
            return
        uid = str(dataset.SOPInstanceUID)
        if repeats := self._images[uid]:
            dataset.SOPInstanceUID = self.uid(f"{uid} {repeats}")
        self._images[uid] += 1

    def uid(self, old: str) -> str:
        """The new name of a UID; those that the standard itself defines stay.

        >>> Profile("secret").uid("1.2.3") == Profile("secret").uid("1.2.3")
        True
        >>> Profile("secret").uid("1.2.840.10008.1.2")
        '1.2.840.10008.1.2'
        """
        if not old or old.startswith(_REGISTERED):
            return old
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', old)[:16], version=4).int}"

    def _digest(self, kind: str, text: str) -> bytes:
        return hmac.digest(self._salt, f"{kind}:{text}".encode(), hashlib.sha256)

    def _clean(self, dataset: Dataset, pseudonym: str) -> None:
        for tag in list(dataset.keys()):
            keyword, action = _action(tag)
            kind = dataset[tag].VR
            if action == "K" and (kind == "UN" or not is_kept(keyword, kind)):
                keyword, action = "undefined", "X"
            if action != "K":
                names = {"X": "removed", "Z": "emptied", "D": "dummy", "U": "new UID"}
                self.counts.setdefault(names[action], Counter())[keyword] += 1
            if action == "X":
                del dataset[tag]
            else:
                self._change(dataset[tag], action, pseudonym)

    def _change(self, element: DataElement, action: str, pseudonym: str) -> None:
        if element.VR == "SQ":
            if action == "Z":
                element.value = []
            for item in element.value:
                self._clean(item, pseudonym)
        elif element.keyword in ("PatientName", "PatientID"):
            element.value = pseudonym
        elif action == "Z":
            element.clear()
        elif action == "D":
            element.value = _DUMMIES.get(element.VR, _DUMMY)
        elif action == "U":
            old = element.value
            many = not isinstance(old, str) and old is not None
            element.value = [*map(self.uid, old)] if many else self.uid(str(old or ""))


def _action(tag: BaseTag) -> tuple[str, str]:
    """An attribute's keyword and what becomes of it: X, Z, D, U, or K where it is kept."""
    from pydicom.datadict import dictionary_VR, keyword_for_tag

    if tag.is_private:
        return "private", "X"
    if any(tag.group in groups for groups in _GRAPHICS):
        return "curves and overlays", "X"
    keyword = keyword_for_tag(tag)
    if not keyword:
        return "undefined", "X"
    kind, code = dictionary_VR(tag), _CODES.get(keyword)
    if kind == "SQ" and code is not None:
        return keyword, "K" if "U" in code else "Z" if "Z" in code else "X"
    if kind == "UI" and (code or "D")[-1] == "D":  # a UID's only dummy is another UID
        return keyword, "U"
    if code is not None:
        return keyword, code[-1]
    return keyword, "K" if is_kept(keyword, kind) else "X"


def _transfer_syntax(dataset: Dataset) -> UID:
    """The encoding of the file, which stays; by what pydicom found where the file is silent."""
    from pydicom.uid import (
        UID,
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
    )

    stated = dataset.file_meta.get("TransferSyntaxUID")
    if stated:
        return UID(stated)
    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _method() -> str:
    return f"medinv {version('medinv')}, PS3.15 {EDITION} Basic Profile"
