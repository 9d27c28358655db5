"""Where DICOM files come from, what must never be printed, and damaged files."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from medinv.data import Volume, list_series, read_dicom
from medinv.errors import DataError, MedinvError, MedinvWarning
from tests.data.dicom.dicom_phantom import (
    MARKERS,
    UID_ROOT,
    Grid,
    enhanced,
    image,
    mosaic,
    save,
    slices,
)
from tests.data.fuzzing import assert_survives

VOXELS = np.arange(4 * 16 * 18, dtype=np.int16).reshape(4, 16, 18)


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path / "series", slices(VOXELS, SeriesNumber=5))


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*.dcm"):
            archive.write(file, f"export/{file.name}")
    return path


def test_folder_list_and_zip_agree(folder, tmp_path):
    expected = read_dicom(folder).data.numpy()
    np.testing.assert_array_equal(expected, VOXELS)
    for source in (list(folder.iterdir()), zipped(tmp_path / "export.zip", folder), str(folder)):
        np.testing.assert_array_equal(read_dicom(source).data.numpy(), expected)


def write_directory(disk: Path, files: list[list[str]]) -> Path:
    """A DICOMDIR that lists these files (a FileSet of pydicom leaves temporary files behind)."""
    directory = image(VOXELS[0], SOPClassUID="1.2.840.10008.1.3.10")
    directory.DirectoryRecordSequence = [pydicom.Dataset() for _ in files]
    for record, parts in zip(directory.DirectoryRecordSequence, files, strict=True):
        record.ReferencedFileID = parts
    directory.save_as(disk / "DICOMDIR", enforce_file_format=True)
    return disk / "DICOMDIR"


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS:UserWarning")  # by pydicom, on writing
def test_dicomdir(folder):
    files = [[folder.name, path.name.upper()] for path in folder.iterdir()]
    for path in folder.iterdir():
        path.rename(path.with_name(path.name.upper()))
    directory = write_directory(folder.parent, files)
    np.testing.assert_array_equal(read_dicom(directory).data.numpy(), VOXELS)
    (folder / files[0][1]).unlink()
    with pytest.raises(DataError, match="of 4 is missing"):
        read_dicom(directory)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS:UserWarning")  # by pydicom, on writing
def test_dicomdir_that_leaves_its_folder(folder, tmp_path):
    (tmp_path / "disk").mkdir()
    directory = write_directory(tmp_path / "disk", [["..", folder.name, "image0000.dcm"]])
    with pytest.raises(DataError, match="outside its folder; refused"):
        list_series(directory)


def test_a_file_without_preamble(folder, tmp_path):
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.file_meta
        dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    np.testing.assert_array_equal(read_dicom(folder).data.numpy(), VOXELS)


@pytest.mark.parametrize("member", ["../outside.dcm", "/etc/outside.dcm", "a\\..\\..\\b.dcm"])
def test_zip_paths_that_leave_the_zip(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr(member, b"")
    with pytest.raises(DataError, match="leaves the zip"):
        read_dicom(tmp_path / "export.zip")


def test_zip_bomb(tmp_path):
    with zipfile.ZipFile(tmp_path / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}.dcm", bytes(2**26))
    with pytest.raises(DataError, match="unpack to at most 250 times"):
        read_dicom(tmp_path / "export.zip")


def test_damaged_zip(folder, tmp_path):
    path = zipped(tmp_path / "export.zip", folder)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(DataError, match="member of the zip cannot be read"):
        read_dicom(path)


def test_a_deflated_file_is_refused(tmp_path):
    file = slices(VOXELS)[0]
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(DataError, match="deflated"):
        read_dicom(save(tmp_path, [file]))


@pytest.mark.parametrize(("path", "message"), [
    ("none", "found nothing"), ("empty", "found none in 0 files"),
    ("text", "found none in 1 files"),
])
def test_nothing_to_read(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DataError, match=message):
        list_series(tmp_path / path)


def test_opening_a_series_reads_no_pixels(folder):
    for path in folder.iterdir():
        content = path.read_bytes()
        path.write_bytes(content[: len(content) - VOXELS[0].nbytes])
    assert list_series(folder)[0].n_images == 4
    with pytest.raises(DataError, match="found 0; the file is cut off"):
        read_dicom(folder)


def messages(path, **options) -> str:
    """Everything that a caller gets to see."""
    seen = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            seen += [str(list_series(path)), *map(str, list_series(path))]
            volume = read_dicom(path, **options)
            seen += [str(volume.metadata), str(volume.acquisition)]
        except MedinvError as error:
            seen += [str(error), repr(error.__cause__)]
    return " ".join([*seen, *(str(warning.message) for warning in caught)])


def assert_anonymous(text: str) -> None:
    for marker in (*MARKERS.values(), "MARKER", "10.999", UID_ROOT):
        assert marker not in text


def test_no_identifier_is_shown(tmp_path):
    """In lists, choices, warnings, notes and errors, whatever is wrong with the files."""
    name = f"MR.{UID_ROOT}7"
    one = slices(VOXELS)
    broken = {"PixelSpacing": ["0", "1"]}, {"SOPInstanceUID": "10.999.bad.uid"}, {"Rows": 99}
    cases = [one, [*one, *one], [*one, *slices(VOXELS, SeriesInstanceUID=UID_ROOT + "5")],
             [*one, *slices(VOXELS, EchoTime=5)], [*one[:2], one[3]], [image(VOXELS[0])],
             *([slices(VOXELS, **tags)[0]] for tags in broken[:1] + broken[2:]),
             slices(VOXELS, SeriesNumber=MARKERS["PatientBirthDate"][:4])]
    for number, files in enumerate(cases):
        assert_anonymous(messages(save(tmp_path / name / str(number), files)))
    for path in (tmp_path / name / "0").iterdir():
        path.write_bytes(path.read_bytes()[:-900])
        break
    assert_anonymous(messages(tmp_path / name / "0"))


def test_invalid_uids_are_not_quoted(tmp_path, caplog, capfd):
    """pydicom warns about an invalid UID, quotes and logs it; medinv does not pass that on."""
    path = save(tmp_path, slices(VOXELS)) / "image0000.dcm"
    path.write_bytes(path.read_bytes().replace(b"10.999.2", b"10.0999."))
    seen = messages(tmp_path)
    assert "10.0999" not in " ".join([seen, caplog.text, *capfd.readouterr()])


def compressed(syntax) -> bytes:
    file = slices(np.tile(VOXELS[:1], (1, 4, 4)))[0]
    file.compress(syntax, generate_instance_uid=False)
    return content(file)


def content(dataset) -> bytes:
    from io import BytesIO

    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_damaged_files_are_refused_or_read():
    small = VOXELS[:, :6, :5]
    seeds = [content(slices(small[:1])[0]), content(enhanced(small, Grid())),
             content(mosaic(small, Grid())), compressed(RLELossless), compressed(JPEG2000Lossless)]
    assert_survives(read_dicom, ".dcm", seeds, 200, answer=Volume)


def test_damaged_zips_are_refused_or_read(folder, tmp_path):
    seeds = [zipped(tmp_path / "export.zip", folder).read_bytes()]
    assert_survives(read_dicom, ".zip", seeds, 100, answer=Volume)


def test_a_repair_is_a_medinv_warning(folder):
    files = [*folder.iterdir(), *folder.iterdir()]
    with pytest.warns(MedinvWarning, match="^8 files: 4 files are copies"):
        read_dicom(files)
