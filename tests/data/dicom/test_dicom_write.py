"""DICOM out: every voxel at its place, the source's patient and study, and nobody is misled."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medinv.data import Metadata, Volume, list_series, read_dicom, write_dicom
from medinv.data.dicom.deidentify import deidentify
from medinv.errors import DataError, OutputError
from tests.data.dicom.dicom_phantom import Grid, rotated, save, slices

SHAPE = (4, 5, 6)
VOXELS = (np.arange(np.prod(SHAPE)) % 97).astype(np.int16).reshape(SHAPE)
REAL = [f"dicom_fragments/{name}/anatomical/001" for name in (
    "ge", "generic", "hyperfine", "philips", "philips_enhanced", "siemens", "siemens_multiframe",
)] + ["ct_dicom_series_jpeg2000"]
CORNERS = [(x, y, z) for x in (0, 5) for y in (0, 4) for z in (0, 3)]


def volume_of(values: torch.Tensor, affine: torch.Tensor | None = None,
              modality: str | None = "MR") -> Volume:
    affine = torch.diag(torch.tensor([-1.0, -1, 2, 1]).double()) if affine is None else affine
    unit = "HU" if modality == "CT" else "arbitrary"
    return Volume(values, affine, {"unit": unit}, Metadata(modality=modality))


def source(folder: Path, modality: str = "MR") -> Path:
    kinds = {"MR": "1.2.840.10008.5.1.4.1.1.4", "CT": "1.2.840.10008.5.1.4.1.1.2",
             "PT": "1.2.840.10008.5.1.4.1.1.128"}
    return save(folder, slices(
        VOXELS, Grid(*rotated(0.1, 0.2, -0.1)), Modality=modality, SOPClassUID=kinds[modality],
        FrameOfReferenceUID="1.2.3.4", StudyDate="20200102", SeriesNumber="3",
        StudyDescription="STUDY", KVP="120"))


def headers(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def assert_same_places(first: Volume, second: Volume, error: float) -> None:
    """Each voxel of the first lies in the second, with its value."""
    change = np.linalg.inv(second.affine.numpy()) @ first.affine.numpy()
    index = np.stack(np.meshgrid(*(range(n) for n in reversed(first.data.shape)), indexing="ij"))
    index = index.reshape(3, -1)
    there = change[:3, :3] @ index + change[:3, 3:]
    assert np.abs(there - there.round()).max() < 1e-6  # voxels: digits of a decimal string
    there, index = there.round().astype(int)[::-1], index[::-1]
    difference = second.data[tuple(there)] - first.data[tuple(index)]
    assert float(difference.abs().max()) <= error


angles = st.floats(-3.1, 3.1)
sizes = st.floats(0.2, 8.0)


@settings(max_examples=25, deadline=None)
@given(turn=st.tuples(angles, angles, angles), spacing=st.tuples(sizes, sizes, sizes),
       flips=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3), order=st.permutations(range(3)),
       place=st.tuples(*[st.floats(-500, 500)] * 3),
       scale=st.sampled_from([1.0, 0.01, 3.7e-7, 1e9]))
def test_round_trip_of_any_grid(tmp_path_factory, turn, spacing, flips, order, place, scale):
    """Oblique, flipped, anisotropic: every voxel keeps its value (to half a step) and place."""
    row, col = rotated(*turn)
    axes = np.stack([row, col, np.cross(row, col)], axis=1)[:, order] * flips
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.from_numpy(axes * spacing)
    affine[:3, 3] = torch.tensor(place)
    volume = volume_of(scale * torch.from_numpy(VOXELS).float(), affine)
    folder = tmp_path_factory.mktemp("out") / "series"
    write_dicom(volume, folder)
    largest = float(volume.data.max())
    error = 0.0 if scale == 1 else largest / 32767 / 2 + 1e-6 * largest  # step; float32
    assert_same_places(volume, read_dicom(folder), error)


def test_integers_are_exact_and_ct_is_rounded_to_1_hu(tmp_path):
    hu = torch.tensor([-1024.0, 0.4, 3071.0, -32768.0]).reshape(1, 2, 2)
    write_dicom(volume_of(hu, modality="CT"), tmp_path / "rounded")
    back = read_dicom(tmp_path / "rounded")
    assert back.data.flatten().tolist() == [-1024, 0, 3071, -32768]
    text = headers(tmp_path / "rounded")[0].DerivationDescription
    assert "rounded to 1 HU, off by at most 0.5 HU" in text
    write_dicom(volume_of(hu.round(), modality="CT"), tmp_path / "exact")
    assert "stored exactly" in headers(tmp_path / "exact")[0].DerivationDescription


def test_metal_beyond_16_bits_is_scaled_and_stated(tmp_path):
    hu = torch.tensor([-1000.0, 65534.0]).reshape(1, 1, 2)
    write_dicom(volume_of(hu, modality="CT"), tmp_path / "metal")
    assert read_dicom(tmp_path / "metal").data.flatten().tolist() == [-1000, 65534]
    assert "steps of 2, off by at most 1" in headers(tmp_path / "metal")[0].DerivationDescription


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_derived_series_belongs_to_its_source(tmp_path, modality):
    folder = source(tmp_path / "source", modality)
    volume = read_dicom(folder)
    files = write_dicom(volume, tmp_path / "new", folder, description="DDS",
                        derivation="Sampled with DDS.")
    assert torch.equal(read_dicom(tmp_path / "new").data, volume.data)
    before, after = headers(folder), [pydicom.dcmread(path) for path in files]
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID",
                    "StudyDate", "FrameOfReferenceUID", "Modality", "SOPClassUID"):
        assert {image[keyword].value for image in after} == {before[0][keyword].value}
    old = {image.SOPInstanceUID for image in before} | {before[0].SeriesInstanceUID}
    new = {image.SOPInstanceUID for image in after}
    assert len(new) == len(after)
    assert not old & (new | {after[0].SeriesInstanceUID})
    assert all(uid.startswith("2.25.") for uid in new)
    places = {image.SOPInstanceUID: image.ImagePositionPatient for image in before}
    for image in after:
        assert list(image.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        assert image.SeriesDescription == "DDS - NOT FOR DIAGNOSTIC USE"
        assert "NOT FOR DIAGNOSTIC USE" in image.ImageComments
        assert "Sampled with DDS." in image.DerivationDescription
        assert image.SeriesNumber == 1003
        same = places[image.SourceImageSequence[0].ReferencedSOPInstanceUID]
        np.testing.assert_allclose(same, image.ImagePositionPatient, atol=1e-6)


def test_without_a_source_the_patient_is_anonymous(tmp_path):
    write_dicom(volume_of(torch.ones(SHAPE)), tmp_path / "new")
    image = headers(tmp_path / "new")[0]
    assert image.PatientName == image.PatientID == "ANONYMOUS"
    assert image.FrameOfReferenceUID.startswith("2.25.")
    assert image.StudyInstanceUID.startswith("2.25.")


def test_provenance_in_the_headers_and_beside_the_folder(tmp_path):
    write_dicom(volume_of(torch.ones(SHAPE)), tmp_path / "new", provenance={"seed": 7})
    item = headers(tmp_path / "new")[0].ContributingEquipmentSequence[0]
    assert item.Manufacturer == "medinv"
    facts = json.loads((tmp_path / "new.json").read_text())
    assert json.loads(item.ContributionDescription) == facts
    assert facts["seed"] == 7


def test_seeded_uids_are_the_same_and_others_are_not(tmp_path):
    uids = []
    for k, seed in enumerate((1, 1, 2, None)):
        write_dicom(volume_of(torch.ones(SHAPE)), tmp_path / str(k), uid_seed=seed)
        uids.append([image.SOPInstanceUID for image in headers(tmp_path / str(k))])
    assert uids[0] == uids[1]
    assert len({uid for series in uids[1:] for uid in series}) == 3 * SHAPE[0]


def sheared(row: float, column: int) -> torch.Tensor:
    affine = torch.eye(4, dtype=torch.float64)
    affine[0, column] = row
    return affine


@pytest.mark.parametrize(("volume", "message"), [
    (volume_of(torch.ones(SHAPE) + 1j), "expected real voxels"),
    (volume_of(torch.full(SHAPE, math.nan)), "NaN"),
    (volume_of(torch.ones(SHAPE), sheared(0.1, 1)), "right angles"),
    (volume_of(torch.ones(SHAPE), sheared(0.5, 2)), "1.5 pixels beside"),
    (Volume(torch.ones(SHAPE), torch.eye(4).double(), {"unit": "1/mm"}, Metadata("CT")), "in HU"),
])
def test_what_cannot_be_written_says_why(tmp_path, volume, message):
    with pytest.raises(DataError, match=message):
        write_dicom(volume, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="not empty"):
        write_dicom(volume_of(torch.ones(SHAPE)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_a_series_that_fails(tmp_path, monkeypatch):
    save_as = pydicom.Dataset.save_as

    def full(self, path, **options):
        if path.name == "image-0003.dcm":
            raise OSError(28, "No space left on device")
        save_as(self, path, **options)

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    with pytest.raises(OutputError, match="No space left"):
        write_dicom(volume_of(torch.ones(SHAPE)), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def errors_of(path: Path) -> list[str]:
    """What dciodvfy calls an error."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (apt install dicom3tools)")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize(("modality", "written"), [("PT", "PT"), ("US", "US"), (None, "OT"),
                                                   ("pet?", "OT")])
def test_other_modalities_keep_their_name(tmp_path, modality, written):
    """Nothing becomes MR that does not say so; places and values are those of any series."""
    volume = volume_of(0.37 * torch.from_numpy(VOXELS), modality=modality)
    image = pydicom.dcmread(write_dicom(volume, tmp_path / "new")[0])
    assert (image.Modality, image.SOPClassUID.name) == (written, "Secondary Capture Image Storage")
    assert "KVP" not in image
    assert "ScanningSequence" not in image
    back = read_dicom(tmp_path / "new")
    assert_same_places(volume, back, float(volume.data.max()) / 32767 / 2 + 1e-6)
    deidentify(tmp_path / "new", tmp_path / "shared")  # its pixels hold no text, and it says so


def test_a_pet_series_keeps_its_patient_and_modality(tmp_path):
    kind = "1.2.840.10008.5.1.4.1.1.128"
    folder = save(tmp_path / "source", slices(VOXELS, Modality="PT", SOPClassUID=kind,
                                              FrameOfReferenceUID="1.2.3.4", Units="BQML"))
    image = pydicom.dcmread(write_dicom(read_dicom(folder), tmp_path / "new", folder)[0])
    assert (image.Modality, image.PatientID) == ("PT", headers(folder)[0].PatientID)
    assert image.SourceImageSequence[0].ReferencedSOPClassUID == kind


@pytest.mark.parametrize("modality", ["MR", "CT", "PT"])
@pytest.mark.parametrize("with_source", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_conforms_to_the_standard(tmp_path, modality, with_source, scale):
    folder = source(tmp_path / "source", modality)
    volume = read_dicom(folder)
    files = write_dicom(volume.with_data(scale * volume.data), tmp_path / "new",
                        folder if with_source else None)
    assert errors_of(files[1]) == []


@pytest.mark.parametrize("name", REAL)
def test_real_series_conform_and_lie_on_their_source(tmp_path, shared_data, name):
    volume = read_dicom(shared_data / name)
    files = write_dicom(volume, tmp_path / "new", list_series(shared_data / name)[0])
    back = read_dicom(tmp_path / "new")
    assert_same_places(volume, back, float(volume.data.abs().max()) / 32767 / 2 + 1e-4)
    assert errors_of(files[len(files) // 2]) == []


def simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """SimpleITK's voxels (z, y, x) and the LPS mm of the corners."""
    itk = pytest.importorskip("SimpleITK")
    reader = itk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    corners = [image.TransformIndexToPhysicalPoint(corner) for corner in CORNERS]
    return itk.GetArrayFromImage(image), np.array(corners)


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_simpleitk_puts_it_on_top_of_the_source(tmp_path, modality):
    folder = source(tmp_path / "source", modality)
    write_dicom(read_dicom(folder), tmp_path / "new", folder)
    before, after = simpleitk(folder), simpleitk(tmp_path / "new")
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_allclose(after[1], before[1], atol=1e-3)  # mm


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_dcm2niix_puts_it_on_top_of_the_source(tmp_path, modality):
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed (apt install dcm2niix)")
    folder = source(tmp_path / "source", modality)
    write_dicom(read_dicom(folder), tmp_path / "new", folder)
    images = []
    for name in ("source", "new"):
        subprocess.run(["dcm2niix", "-f", name, "-o", str(tmp_path), str(tmp_path / name)],
                       check=True, capture_output=True)
        images.append(nibabel.load(tmp_path / f"{name}.nii"))
    np.testing.assert_array_equal(images[1].get_fdata(), images[0].get_fdata())
    corner = np.array([*SHAPE[::-1], 1])
    np.testing.assert_allclose(images[1].affine @ corner, images[0].affine @ corner, atol=1e-3)
