"""`medinv data describe`: every kind of file, and no identifier unless it is asked for."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import scipy.io
from typer.testing import CliRunner

from medinv.cli import app
from medinv.data import Volume
from tests import tiny
from tests.data.dicom.dicom_phantom import MARKERS, UID_ROOT, Grid, save, slices

VOXELS = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def described(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["data", "describe", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def facts(path) -> dict[str, object]:
    return json.loads(described(path, "--json"))


def test_dicom(tmp_path):
    found = facts(save(tmp_path, slices(VOXELS, Modality="CT", RescaleIntercept="-1000",
                                        RescaleSlope="1", SeriesDescription="Chest")))
    assert found["format"] == "DICOM"
    assert found["series"] == ["series without a number, 'Chest', CT, 4 images of 5 x 6"]
    assert found["shape (z, y, x)"] == [4, 5, 6]
    assert found["spacing (x, y, z), mm"] == pytest.approx([0.7, 0.9, 2.5])
    assert (found["unit"], found["orientation (x, y, z)"]) == ("HU", "LPS")
    assert (found["smallest value"], found["largest value"]) == (-1000, -881)
    assert (found["modality"], found["plane"], found["findings"]) == ("CT", "axial", [])


def test_identifiers_are_shown_on_request_only(tmp_path):
    folder = save(tmp_path, slices(VOXELS))
    markers = [*MARKERS.values(), UID_ROOT]
    assert not any(marker in described(folder) for marker in markers)
    shown = described(folder, "--show-identifiers")
    assert all(marker in shown for marker in markers)


def test_what_cannot_be_read_is_a_finding(tmp_path):
    files = slices(VOXELS)
    del files[1]
    assert "found 5 mm between slices 1 and 2 of 3" in described(save(tmp_path, files))


def test_several_series(tmp_path):
    save(tmp_path, slices(VOXELS), "a")
    save(tmp_path, slices(VOXELS, SeriesInstanceUID=UID_ROOT + "9"), "b")
    assert len(facts(tmp_path)["series"]) == 2


def test_nifti(tmp_path):
    tiny.ct_volume().to_nifti(tmp_path / "ct.nii.gz")
    found = facts(tmp_path / "ct.nii.gz")
    assert (found["format"], found["orientation (x, y, z)"]) == ("NIfTI", "LAS")
    assert found["largest value"] == 500


def test_hdf5_numpy_and_matlab(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["kspace"] = np.zeros((2, 3, 4, 5), np.complex64)
    assert facts(tmp_path / "scan.h5") == {
        "format": "HDF5", "layout": "fastMRI", "modality": "MR",
        "arrays": {"kspace": "(2, 3, 4, 5) complex64"}, "slices": 2, "coils": 3,
        "k-space (ky, kx)": [4, 5], "beside k-space": [], "findings": [],
    }
    np.save(tmp_path / "scan.npy", np.zeros((2, 3, 4), np.complex64))
    assert "2 coils, matrix 3 x 4" in facts(tmp_path / "scan.npy")["as k-space (coil, ky, kx)"]
    np.savez(tmp_path / "scan.npz", a=np.zeros(3), b=np.zeros((2, 2), np.int8))
    assert facts(tmp_path / "scan.npz")["arrays"] == {"a": "(3,) float64", "b": "(2, 2) int8"}
    scipy.io.savemat(tmp_path / "scan.mat", {"sinogram": np.zeros((3, 4))})
    assert facts(tmp_path / "scan.mat")["arrays"] == {"sinogram": "(3, 4) double"}


@pytest.mark.parametrize("name", ["none", "text.txt", "bad.h5", "bad.npz", "bad.mat", "bad.nii"])
def test_what_is_none_of_these(tmp_path, name):
    if name != "none":
        (tmp_path / name).write_text("hello")
    result = CliRunner().invoke(app, ["data", "describe", str(tmp_path / name)])
    assert (result.exit_code, result.output[:7]) == (2, "Error: ")


def test_a_recipe_takes_a_dicom_folder(tmp_path):
    import medinv

    hu = tiny.ct_volume()
    stored = (hu.data.numpy() + 1024).astype(np.int16)
    files = slices(stored, Grid(spacing=(2.0, 2.0, 3.0)), Modality="CT", RescaleSlope="1",
                   RescaleIntercept="-1024")
    folder = save(tmp_path / "series", files)
    recipe = tiny.write_recipe(tmp_path / "ct.yaml", tiny.ct_recipe(tmp_path))
    volume = medinv.reconstruct(folder, recipe=recipe)
    assert isinstance(volume, Volume)
    assert volume.orientation == "LPS"


@pytest.mark.parametrize("name", [
    "ct_dicom_series_jpeg2000", "ct_abdomen_3mm/example_ct.nii.gz",
    "ct_tooth_synchrotron/tooth.h5", "ct_fanbeam_htc2022/cil_ta_sparse.mat",
    "mri_brain_8coil_poisson8x/cartesian_ksp.npy", "mri_t1_voxelmorph/test_scan.npz",
])
def test_every_real_file(shared_data, name):
    assert "format" in facts(shared_data / name)
