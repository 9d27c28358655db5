"""De-identified files hold no planted marker in any byte, and their pixels are the same."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from medinv.data import read_dicom
from medinv.data.dicom.confidentiality import PROFILE
from medinv.data.dicom.deidentify import deidentify
from medinv.data.dicom.unlisted import _KEPT
from medinv.errors import DataError, OutputError
from tests.data.dicom.dicom_phantom import Grid, image, item, rotated, save, slices

VOXELS = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
MARKERS = (b"MARKER", b"19330303", b"1133557", b"10.999", b"774411", b"077Y")
BY_VR = {
    **dict.fromkeys(("LO", "SH", "ST", "LT", "UT", "UC", "UR", "CS", "AE"), "MARKERTEXT"),
    "PN": "MARKERNAME^JANE", "DA": "19330303", "TM": "113355.7", "DT": "19330303113355.7",
    "UI": "1.2.826.0.1.3680043.10.999.5", "AS": "077Y", "DS": "774411", "IS": "774411",
    "OB": b"MARKERBYTES!", "UN": b"MARKERBYTES!",
}
FREE = ("PN", "DA", "DT", "TM", "ST", "LT", "UT", "UC", "UR", "UI", "LO", "SH", "AE", "AS", "OB",
        "UN")
NEEDED = {"SOPClassUID", "TransferSyntaxUID", *_KEPT,
          "PixelDataProviderURL"}  # the last one replaces the pixels


def marked(dataset: Dataset, depth: int = 0) -> Dataset:
    """Plant markers in every attribute of the profile, and in text that it does not list."""
    listed = {keyword for words in PROFILE.values() for keyword in words.split()}
    listed = {word for word in listed if tag_for_keyword(word) >> 16 >= 8}  # below: no data set
    free = {entry[4] for tag, entry in DicomDictionary.items()
            if entry[0] in FREE and tag >> 16 >= 8}
    for keyword in sorted((listed | free) - NEEDED):
        kind = dictionary_VR(tag_for_keyword(keyword))
        if kind in BY_VR and not (depth == 0 and keyword == "SOPInstanceUID"):
            setattr(dataset, keyword, BY_VR[kind])
        elif kind == "SQ" and depth < 1:
            inner = Dataset()
            inner.PatientName, inner.TextValue = "MARKERNAME^JANE", "MARKERTEXT"
            kept = keyword == "ReferencedImageSequence"  # its items stay, with new UIDs
            setattr(dataset, keyword, [marked(inner, depth + 1) if kept else inner])
    block = dataset.private_block(0x0029, "MARKER CREATOR", create=True)
    block.add_new(0x10, "LO", "MARKERPRIVATE")
    block.add_new(0x11, "SQ", item(PatientName="MARKERNAME^JANE"))
    dataset.add_new(0x60003000, "OW", b"MARKEROVERLAY!")
    dataset.add_new(0x60004000, "LT", "MARKEROVERLAY")
    dataset.add_new(0x50003000, "OW", b"MARKERCURVE!")
    dataset.add_new(0x00091110, "UN", b"MARKERUNKNOWN!")
    dataset.add_new(0x00080003, "LO", "MARKERUNDEFINED")
    return dataset


def marked_series(folder: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    files = slices(VOXELS, Grid(*rotated(0.1, 0.2, -0.1)), FrameOfReferenceUID=BY_VR["UI"],
                   Manufacturer="SCANNERS INC", RepetitionTime="500")
    for dataset in files:
        marked(dataset)
        dataset.file_meta.SourceApplicationEntityTitle = "MARKERAE"
        dataset.preamble = b"MARKERPREAMBLE".ljust(128, b"\0")
        if syntax == RLELossless:
            dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            pixels = np.frombuffer(dataset.PixelData, "<i2")
            dataset.PixelData = pixels.astype(">i2").tobytes()
    return save(folder, files, prefix="MARKERNAME_1.2.826.0.1.3680043.10.999.5_")


def read_all(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian,
                                    ExplicitVRBigEndian, RLELossless])
def test_no_marker_survives_and_no_pixel_changes(tmp_path, syntax):
    source = marked_series(tmp_path / "source", syntax)
    before = {dataset.InstanceNumber: dataset.PixelData for dataset in read_all(source)}
    deidentify(source, tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        assert [word for word in MARKERS if word in content] == [], path
        assert "MARKER" not in str(path.relative_to(tmp_path))
    after = read_all(tmp_path / "out")
    assert {dataset.InstanceNumber: dataset.PixelData for dataset in after} == before
    assert {str(dataset.file_meta.TransferSyntaxUID) for dataset in after} == {str(syntax)}


@pytest.mark.parametrize(("keyword", "value"), [
    ("PatientBirthDateInAlternativeCalendar", "MARKER 12 Shawwal 1351"),
    ("PatientDeathDateInAlternativeCalendar", "MARKER 12 Shawwal 1451"),
    ("PlacerOrderNumberImagingServiceRequestRetired", "MARKER1"),
    ("FillerOrderNumberImagingServiceRequestRetired", "MARKER1"),
    ("PlacerOrderNumberProcedure", "MARKER1"), ("FillerOrderNumberProcedure", "MARKER1"),
    ("BoardingPassID", "MARKER1"), ("ItineraryID", "MARKER1"), ("SegmentLabel", "MARKER"),
    ("EncryptedContent", b"MARKER"), ("Signature", b"MARKER"), ("HPGLDocument", b"MARKER"),
    ("OwnerID", "MARKER"), ("BreedRegistrationNumber", "MARKER"), ("PatientSetupLabel", "MARKER"),
    ("WorklistLabel", "MARKER"), ("ContactDisplayName", "MARKER"), ("AssignedLocation", "MARKER"),
    ("PatientBodyMassIndex", 21.5), ("ModifiedImageID", "MARKER"),
])
def test_what_names_somebody_beyond_the_table_is_removed(tmp_path, keyword, value):
    save(tmp_path / "source", slices(VOXELS, **{keyword: value},
                                     ReferencedImageSequence=lambda z: item(**{keyword: value})))
    deidentify(tmp_path / "source", tmp_path / "out")
    for dataset in read_all(tmp_path / "out"):
        assert keyword not in dataset
        assert keyword not in dataset.ReferencedImageSequence[0]


def test_text_where_the_standard_has_a_number_is_removed(tmp_path):
    files = slices(VOXELS)
    for file in files:
        file.add_new("NumberOfAverages", "LO", "MARKER")
        file.add_new("BodyPartExamined", "LT", "MARKER")
    deidentify(save(tmp_path / "source", files), tmp_path / "out")
    assert all("NumberOfAverages" not in file for file in read_all(tmp_path / "out"))
    assert all("BodyPartExamined" not in file for file in read_all(tmp_path / "out"))


@pytest.mark.parametrize("keyword", sorted(
    entry[4] for entry in DicomDictionary.values()
    if entry[0] == "UI" and entry[4] in {"AnnotationGroupUID", "SOPInstanceUID", "TrackingUID",
                                         "AnatomicRegionUID", "ReferencedColorPaletteInstanceUID",
                                         "SelectorUIValue"}))
def test_uids_stay_uids(tmp_path, keyword):
    """Every UID, listed in any way or not, becomes another valid one: the same for the same."""
    old = BY_VR["UI"]
    inside = {"ReferencedImageSequence": lambda z: item(**{keyword: [old, old + "1"]})}
    deidentify(save(tmp_path / "source", slices(VOXELS, **inside)), tmp_path / "out")
    found = [list(file.ReferencedImageSequence[0][keyword].value)
             for file in read_all(tmp_path / "out")]
    assert all(uid.startswith("2.25.") and pydicom.uid.UID(uid).is_valid for uid in found[0])
    assert len(set(found[0])) == 2
    assert found == [found[0]] * 4


def test_images_that_shared_a_uid_get_their_own(tmp_path):
    """Of several images under one UID, archives keep one."""
    save(tmp_path / "source", slices(VOXELS, SOPInstanceUID=BY_VR["UI"]))
    for name in ("a", "b"):
        deidentify(tmp_path / "source", tmp_path / name, salt="one")
    found = [identity(tmp_path / name, "SOPInstanceUID") for name in ("a", "b")]
    assert len(set(found[0])) == 4
    assert found[0] == found[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left to repair
        np.testing.assert_array_equal(read_dicom(tmp_path / "a").data, VOXELS)


def test_technical_terms_stay(tmp_path):
    stay = {"SequenceName": "tse2d", "ConvolutionKernel": "B30f", "Manufacturer": "ACME",
            "SoftwareVersions": "1.2", "ReceiveCoilName": "HEAD", "RescaleType": "HU"}
    deidentify(save(tmp_path / "source", slices(VOXELS, **stay)), tmp_path / "out")
    for file in read_all(tmp_path / "out"):
        assert {keyword: str(file[keyword].value) for keyword in stay} == stay


def test_geometry_and_what_the_profile_keeps_stay(tmp_path):
    source = marked_series(tmp_path / "source")
    deidentify(source, tmp_path / "out")
    before, after = read_dicom(source), read_dicom(tmp_path / "out")
    np.testing.assert_array_equal(after.data, before.data)
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.acquisition.manufacturer == "SCANNERS INC"
    assert after.acquisition.tr_ms == 500


def test_headers_say_what_was_done(tmp_path):
    deidentify(marked_series(tmp_path / "source"), tmp_path / "out")
    for dataset in read_all(tmp_path / "out"):
        assert dataset.PatientIdentityRemoved == "YES"
        assert "PS3.15" in dataset.DeidentificationMethod
        assert dataset.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
        assert dataset.LongitudinalTemporalInformationModified == "REMOVED"
        assert re.fullmatch("ANON-[0-9A-F]{10}", dataset.PatientID)
        assert not dataset.StudyDate
        assert not any(tag.is_private for tag in dataset.keys())  # noqa: SIM118


def two_patients(folder: Path) -> Path:
    for patient in ("A", "B"):
        for scan in ("1", "2"):
            files = slices(VOXELS, PatientID=patient,
                           SeriesInstanceUID=f"1.2.{scan}.{ord(patient)}",
                           StudyInstanceUID=f"1.2.{ord(patient)}", FrameOfReferenceUID="1.2.9",
                           ReferencedImageSequence=lambda z: item(
                               ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.4",
                               ReferencedSOPInstanceUID="1.2.77"))
            save(folder / patient / scan, files)
    return folder


def identity(folder: Path, *keywords: str) -> list[tuple[str, ...]]:
    return [tuple(str(dataset[word].value) for word in keywords) for dataset in read_all(folder)]


def test_uids_and_patients_stay_apart_and_together(tmp_path):
    report = deidentify(two_patients(tmp_path / "source"), tmp_path / "out")
    names = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    found = identity(tmp_path / "out", *names)
    assert [len({row[k] for row in found}) for k in range(4)] == [2, 2, 4, 1]
    assert len(set(identity(tmp_path / "out", "SOPInstanceUID"))) == 16
    assert report.n_patients == 2
    assert len(list((tmp_path / "out").glob("series-*"))) == 4
    reference = read_all(tmp_path / "out")[0].ReferencedImageSequence[0]
    assert reference.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
    assert reference.ReferencedSOPInstanceUID.startswith("2.25.")
    for dataset in read_all(tmp_path / "out"):
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID


def test_the_salt_decides_the_new_names(tmp_path):
    source = two_patients(tmp_path / "source")
    found = []
    for name, salt in (("a", "one"), ("b", "one"), ("c", "two"), ("d", None)):
        deidentify(source, tmp_path / name, salt=salt)
        found.append(identity(tmp_path / name, "PatientID", "SOPInstanceUID"))
    assert found[0] == found[1]
    assert not set(found[0]) & (set(found[2]) | set(found[3]))


def test_report_counts_and_names_nobody(tmp_path):
    source = marked_series(tmp_path / "source")
    (source / "notes.txt").write_text("MARKER")
    report = deidentify(source, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    assert facts == report.facts()
    assert facts["series"] == ["series-001: MR, 4 files"]
    assert facts["files left out"] == 1
    assert facts["attributes"]["removed"]["InstitutionAddress"] >= 4


@pytest.mark.parametrize(("tags", "message"), [
    ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation YES"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "screen capture"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, "ultrasound"),
    ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, r"report \(ImageType\)"),
    ({"ConversionType": "WSD"}, "ConversionType"),
    ({"SeriesDescription": "Dose Report"}, r"report \(SeriesDescription\)"),
    ({"RecognizableVisualFeatures": "YES"}, "RecognizableVisualFeatures YES"),
    ({"RecognizableVisualFeatures": "YES", "BurnedInAnnotation": "NO"}, "Recognizable"),
    ({"Modality": "CT", "SamplesPerPixel": 3}, "a CT image in colour"),
])
def test_text_in_the_pixels_is_refused_unless_allowed(tmp_path, tags, message):
    save(tmp_path / "source", slices(VOXELS, **tags))
    with pytest.raises(DataError, match=message):
        deidentify(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    deidentify(tmp_path / "source", tmp_path / "out", allow_burned_in=True)
    assert len(read_all(tmp_path / "out")) == 4


def test_screening_and_plain_images_are_not_suspected(tmp_path):
    save(tmp_path / "source", slices(VOXELS, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
                                     SeriesDescription="LUNG SCREENING", SamplesPerPixel=1,
                                     RecognizableVisualFeatures="NO"))
    assert deidentify(tmp_path / "source", tmp_path / "out").n_patients == 1


def test_a_capture_that_denies_burned_in_text_is_copied(tmp_path):
    save(tmp_path / "source", [image(VOXELS[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.7",
                                     BurnedInAnnotation="NO")])
    deidentify(tmp_path / "source", tmp_path / "out")
    assert len(read_all(tmp_path / "out")) == 1


def test_an_overlay_in_the_pixels_is_refused(tmp_path):
    files = slices(VOXELS)
    files[0].add_new(0x60000102, "US", 12)
    with pytest.raises(DataError, match="unused bits"):
        deidentify(save(tmp_path / "source", files), tmp_path / "out")


def test_an_output_that_holds_files_is_refused_first(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="not empty"):
        deidentify(tmp_path / "nothing", tmp_path)


def test_real_files_of_every_vendor(tmp_path, shared_data):
    """Private tags gone, values and places as before."""
    for vendor in ("ge", "philips_enhanced", "siemens", "hyperfine"):
        source = shared_data / "dicom_fragments" / vendor / "anatomical" / "001"
        deidentify(source, tmp_path / vendor)
        before, after = read_dicom(source), read_dicom(tmp_path / vendor)
        np.testing.assert_array_equal(after.data, before.data)
        np.testing.assert_array_equal(after.affine, before.affine)
        for dataset in read_all(tmp_path / vendor):
            assert not [tag for tag in dataset.keys() if tag.is_private]  # noqa: SIM118
