"""No output of medinv names a patient: not on the screen, in reports, or in file names."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from medinv.cli import app
from medinv.data import read_dicom
from tests import tiny
from tests.data.dicom.dicom_phantom import MARKERS, UID_ROOT, Grid, save, slices

SECRETS = [*MARKERS.values(), *MARKERS["PatientName"].split("^"), UID_ROOT, "10.999", "ACCESSION9",
           "DRMARKER"]


def medinv(*arguments: object):
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def series(tmp_path) -> Path:
    """A marked CT series: a cylinder of water in air."""
    hu = tiny.ct_volume((4, 24, 24)).data.numpy().astype(np.int16)
    return save(tmp_path / "scan", slices(
        hu, Grid(spacing=(2.0, 2.0, 3.0)), Modality="CT", SeriesNumber="2",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2", FrameOfReferenceUID=UID_ROOT + "3",
        AccessionNumber="ACCESSION9",
        ReferringPhysicianName="DRMARKER^JOHN", KVP="120"),
        prefix=f"MARKERNAME_{UID_ROOT}7_")


@pytest.fixture
def recipe(tmp_path) -> Path:
    return tiny.write_recipe(tmp_path / "ct.yaml", tiny.ct_recipe(tmp_path))


def assert_silent(*texts: str) -> None:
    for text in texts:
        assert [secret for secret in SECRETS if secret in text] == []


def assert_names_nobody(folder: Path) -> None:
    """Neither names nor contents, also of pictures inside HTML."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        pictures = re.findall(rb"base64,([A-Za-z0-9+/=]+)", content)
        inside = b"".join([content, *map(base64.b64decode, pictures)]).decode("latin1")
        assert_silent(str(path.relative_to(folder)), inside)


def test_describe(series):
    done = medinv("data", "describe", series)
    assert done.exit_code == 0
    assert_silent(done.output, medinv("data", "describe", series, "--json").output)
    assert MARKERS["PatientID"] in medinv("data", "describe", series, "--show-identifiers").output


def test_reconstruct_to_nifti(series, recipe, tmp_path):
    done = medinv("reconstruct", recipe, "--input", series, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert_silent(done.output.replace(str(tmp_path), ""))
    assert_names_nobody(tmp_path / "out")


def test_reconstruct_to_dicom_names_the_patient_in_the_images_alone(series, recipe, tmp_path):
    done = medinv("reconstruct", recipe, "--input", series, "--output", tmp_path / "out",
                  "--set", "output.format=dicom")
    assert done.exit_code == 0, done.output
    assert_silent(done.output.replace(str(tmp_path), ""))
    images = sorted((tmp_path / "out" / "reconstruction").iterdir())
    header = pydicom.dcmread(images[0])
    assert header.PatientID == MARKERS["PatientID"]
    assert header.FrameOfReferenceUID == UID_ROOT + "3"
    source = read_dicom(series)
    np.testing.assert_allclose(read_dicom(images[0].parent).affine, source.affine, atol=1e-6)
    facts = json.loads((tmp_path / "out" / "reconstruction.json").read_text())
    assert json.loads(header.ContributingEquipmentSequence[0].ContributionDescription) == facts
    assert {"medinv", "recipe_sha256", "seed", "input_sha256"} <= set(facts)
    for image in images:
        image.unlink()
    assert_names_nobody(tmp_path / "out")


def test_dicom_output_is_refused_before_the_computing(series, recipe, tmp_path):
    as_dicom = ("--set", "output.format=dicom")
    done = medinv("reconstruct", recipe, "--output", tmp_path / "out.nii.gz", *as_dicom)
    assert done.exit_code == 2
    assert "expected a folder" in done.output
    (tmp_path / "out" / "reconstruction").mkdir(parents=True)
    (tmp_path / "out" / "reconstruction" / "mine.dcm").touch()
    done = medinv("reconstruct", recipe, "--output", tmp_path / "out", *as_dicom)
    assert done.exit_code == 1
    assert "no run of medinv wrote" in done.output.replace("\n", " ")


def test_a_nifti_input_gives_a_series_of_nobody(recipe, tmp_path):
    done = medinv("reconstruct", recipe, "--output", tmp_path / "out", "--set",
                  "output.format=dicom")
    assert done.exit_code == 0, done.output
    image = sorted((tmp_path / "out" / "reconstruction").iterdir())[0]
    header = pydicom.dcmread(image)
    assert (header.PatientName, header.Modality) == ("ANONYMOUS", "CT")


def test_deidentify(series, tmp_path):
    done = medinv("deidentify", series, tmp_path / "out", "--salt", "secret")
    assert done.exit_code == 0, done.output
    assert "series-001: CT, 4 files" in done.output
    assert_silent(done.output.replace(str(tmp_path), ""))
    assert_names_nobody(tmp_path / "out")


def damage(series: Path, **tags: object) -> None:
    """Change a tag of every file."""
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.save_as(path)


@pytest.mark.parametrize("tags", [
    {"BurnedInAnnotation": "YES"}, {"ImagePositionPatient": ["0", "0", "0"]}, {"Rows": 60000},
    {"PixelSpacing": ["0", "0"]}, {"SamplesPerPixel": 3},
])
def test_failing_commands(series, recipe, tmp_path, tags):
    damage(series, **tags)
    out = tmp_path / "out"
    for arguments in (("data", "describe", series), ("deidentify", series, out / "a"),
                      ("reconstruct", recipe, "--input", series, "--output", out / "b")):
        done = medinv(*arguments)
        assert done.exit_code in (0, 1, 2)
        assert_silent(done.output.replace(str(tmp_path), ""))
        if not isinstance(done.exception, SystemExit | None):
            assert_silent(repr(done.exception))


def test_cut_files(series, recipe, tmp_path):
    for path in series.iterdir():
        path.write_bytes(path.read_bytes()[:900])
    for arguments in (("data", "describe", series), ("deidentify", series, tmp_path / "a"),
                      ("reconstruct", recipe, "--input", series, "--output", tmp_path / "b")):
        done = medinv(*arguments, *(("--debug",) if arguments[0] != "data" else ()))
        assert_silent(done.output.replace(str(tmp_path), ""))


@pytest.fixture
def private(tmp_path) -> Path:
    """A folder that names a user and a patient, with a space, as they do."""
    folder = tmp_path / "home" / "drjones" / "Smith Jane 1950"
    folder.mkdir(parents=True)
    return folder


NAMES = ("drjones", "Smith", "Jane", "1950")


def assert_names_neither(text: str) -> None:
    assert [name for name in NAMES if name in text] == []


@pytest.mark.parametrize("make", [tiny.ct_recipe, tiny.mri_recipe])
@pytest.mark.parametrize("output", ["out", "out.nii.gz"])
def test_what_a_run_leaves_tells_no_folder(private, tmp_path, monkeypatch, make, output):
    content = make(private)
    (private / "Smith_Jane.npy").write_bytes(b"")
    recipe = tiny.write_recipe(tmp_path / "r.yaml", content)
    monkeypatch.chdir(tmp_path)
    done = medinv("reconstruct", recipe, "-o", output, "--set", "output.baselines=true")
    assert done.exit_code == 0, done.output
    assert_names_neither(done.output)
    files = [path for path in tmp_path.iterdir() if path.is_file() and path != recipe]
    for path in [*files, *(tmp_path / "out").rglob("*")]:
        assert_names_neither(path.read_bytes().decode("latin1") if path.is_file() else path.name)
    facts = json.loads((tmp_path / ("out.json" if "." in output else "out/metrics.json")
                        ).read_text())
    source = facts["recipe"]["measurement"]["volume" if make is tiny.ct_recipe else "kspace"]
    assert source["path"] == "sha256:" + facts["measurement"]["input_sha256"]
    assert facts["recipe"]["prior"] in ("ct.safetensors", "mr.safetensors")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", facts["date"])


def test_paths_are_told_on_request(private, tmp_path):
    recipe = tiny.write_recipe(tmp_path / "r.yaml", tiny.ct_recipe(private))
    done = medinv("reconstruct", recipe, "-o", tmp_path / "out", "--set", "output.paths=true")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert facts["recipe"]["measurement"]["volume"]["path"] == str(private / "ct.nii.gz")
    assert_names_neither((tmp_path / "out" / "report.html").read_text())


@pytest.mark.parametrize("name", ["none.nii.gz", "broken.nii.gz", "none.npy", "broken.mat"])
def test_errors_tell_the_files_name_alone(private, name, tmp_path):
    path = private / name
    if name.startswith("broken"):
        path.write_bytes(b"no image")
    recipe = tiny.write_recipe(tmp_path / "r.yaml", tiny.ct_recipe(tmp_path))
    inside = tiny.write_recipe(tmp_path / "s.yaml", tiny.mri_recipe(tmp_path) | {
        "measurement": {"kind": "mri-file", "kspace": {"path": str(path)}}})
    for arguments in (("data", "describe", path), ("evaluate", path, path),
                      ("reconstruct", recipe, "-i", path, "-o", tmp_path / "o"),
                      ("reconstruct", inside, "-o", tmp_path / "o")):
        done = medinv(*arguments)
        assert done.exit_code in (1, 2), done.output
        assert_names_neither(done.output)
        assert name in done.output
    assert str(private) in medinv("evaluate", path, path, "--debug").output.replace("\n", "")


def test_describe_tells_no_folder(private):
    damage = private / "scan.mat"
    import scipy.io

    scipy.io.savemat(damage, {"CtDataFull": np.zeros(3)})
    for arguments in (("data", "describe", damage), ("data", "describe", damage, "--json")):
        done = medinv(*arguments)
        assert done.exit_code == 0, done.output
        assert "scan.mat" in done.output
        assert_names_neither(done.output)
