"""CT recipes: measured projections from files, and simulated fan and cone beams."""

from __future__ import annotations

from dataclasses import replace

import h5py
import numpy as np
import pydicom
import pytest
import torch

from medinv.data import Volume
from medinv.errors import DataError, RecipeError
from medinv.operators.cone import ConeBeam
from medinv.operators.ct import FanBeam, ParallelBeam
from medinv.recipe import load_recipe, run_recipe
from medinv.recipe.load import validate_recipe
from medinv.recipe.run import measure_recipe
from medinv.recipe.schema import ReconstructRecipe
from medinv.recipe.series import write_series
from medinv.recipe.unexplained import unexplained
from tests import tiny
from tests.data.ct.projection_files import Scanner, write_dxchange

DEGREES = np.arange(0.0, 180.0, 6.0)
FAN = {"kind": "fan", "source_mm": 150, "detector_mm": 100, "columns": 60, "col_mm": 3.0}
CONE = {**FAN, "kind": "cone", "rows": 6, "row_mm": 5.0}


def recipe(content: dict[str, object], **measurement: object) -> ReconstructRecipe:
    block = {**content["measurement"], **measurement}  # type: ignore[dict-item]
    made = validate_recipe({**content, "measurement": block}, "test")
    assert isinstance(made, ReconstructRecipe)
    return made


@pytest.fixture
def file_content(tmp_path):
    """A recipe for a disc whose axis is seen at column 18.5 of 40, with a prior."""
    angles = torch.deg2rad(torch.from_numpy(DEGREES))
    A = ParallelBeam((40, 40), angles, 1.0, 40, col_offset_mm=1.0)
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    disc = 0.02 * ((x - 25) ** 2 + (y - 15) ** 2 < 36).float()
    rng = torch.Generator().manual_seed(0)
    clean = A(disc.expand(2, 40, 40)).transpose(0, 1)
    noisy = clean + 0.002 * torch.randn(clean.shape, generator=rng)
    path = write_dxchange(tmp_path / "scan.h5", noisy, DEGREES)
    prior = tiny.write_prior(tmp_path / "ct.safetensors", complex_images=False)
    return {
        "name": "tiny-file", "task": "reconstruct", "prior": str(prior),
        "measurement": {"kind": "ct-file", "projections": {"path": str(path)},
                        "rotation_centre": "find"},
        "solver": {"name": "DDS", "steps": 2, "noise_aware": True},
        "baselines": [{"name": "FBP"}],
    }


def test_dicom_of_attenuation_asks_for_hounsfield_units(file_content):
    with pytest.raises(RecipeError, match="output.format: DICOM holds CT in HU; give measurement"):
        recipe({**file_content, "output": {"format": "dicom"}})
    content = {**file_content, "output": {"format": "dicom"}}
    volume = measure_recipe(recipe(content, mu_water=0.02)).to_volume(torch.full((2, 40, 40), .02))
    assert (volume.metadata["unit"], float(volume.data.max())) == ("HU", 0.0)
    assert (volume.acquisition.modality, volume.data.shape) == ("CT", (2, 40, 40))


def test_an_image_that_explains_nothing_is_pointed_out(file_content):
    """Radians read as degrees and a centre given by hand: TV finds nothing, and says so."""
    content = {**file_content, "solver": {"name": "TV", "weight": 1e-4, "max_iter": 5},
               "baselines": []}
    path = content["measurement"]["projections"]["path"]
    good = run_recipe(recipe(content, rotation_centre=18.5))
    assert not [note for note in good.measured.notes if "WARNING" in note]
    with h5py.File(path, "a") as file:
        theta = np.deg2rad(file["exchange/theta"][:])
        del file["exchange/theta"]
        file["exchange/theta"] = theta
    blind = recipe(content, rotation_centre=18.5, angle_unit="degrees")
    assert measure_recipe(recipe(content, rotation_centre=18.5)).A.angles[1] == theta[1]
    run = run_recipe(blind)
    assert "of the data unexplained" in run.measured.notes[-1]
    assert "angles and their unit" in run.measured.notes[-1]


@pytest.mark.parametrize(("noise_std", "told"), [(0.0, True), (0.6, False)])
def test_data_of_noise_need_no_explanation(file_content, noise_std, told):
    """Zeros leave all of the data; where most of them is noise, nothing is wrong with that."""
    measured = measure_recipe(recipe(file_content))
    level = float(measured.y.square().mean().sqrt())
    noisy = replace(measured, noise_std=noise_std * level)
    assert bool(unexplained(noisy, {"zeros": torch.zeros(2, 40, 40)})) == told


def test_a_centre_at_the_side_widens_the_grid(file_content):
    measured = measure_recipe(recipe(file_content, rotation_centre=2.0))
    assert measured.facts["shape"] == [2, 75, 75]  # 37.5 columns from the axis to the far end


def test_a_result_of_unknown_modality_is_no_mr(file_content, tmp_path):
    """As of a PET, or any image, that a k-space was simulated from."""
    made = recipe(file_content)
    measured = replace(measure_recipe(made), unit="scanner units")
    volume = Volume(torch.ones(2, 3, 4), torch.eye(4).double())
    folder = write_series(volume, tmp_path / "out", "DDS", made, measured, None)
    assert pydicom.dcmread(folder / "image-0001.dcm").Modality == "OT"


def test_measured_projections_with_a_prior(file_content):
    run = run_recipe(recipe(file_content))
    measured = run.measured
    assert measured.facts["rotation_centre"] == pytest.approx(18.5, abs=0.1)
    assert 0.0018 < measured.noise_std < 0.003  # edges make it too high, never too low
    assert measured.unit == "1/mm"
    assert any("are assumed" in note for note in measured.notes)
    volume = run.volume("FBP")
    assert volume.data.shape == (2, 40, 40)
    assert float(volume.data[0, 13:18, 23:28].mean()) == pytest.approx(0.02, rel=0.05)
    assert run.volume().data.shape == (2, 40, 40)
    assert run.metrics()["FBP"]["residual"] < 0.1


def test_input_and_hounsfield_units_replace_the_recipes(file_content, tmp_path):
    path = tmp_path / "scan.h5"
    made = recipe(file_content, projections={"path": "nowhere.h5"}, mu_water=0.02,
                  rows=[0, 1], pixel_mm=1.0)
    run = run_recipe(made, path)
    assert run.measured.unit == "HU"
    assert abs(float(run.volume("FBP").data[0, 13:18, 23:28].mean())) < 50
    assert run.measured.y.shape == (1, 30, 40)
    assert "input_sha256" in run.measured.facts


def test_fewer_views_columns_and_voxels(file_content):
    made = recipe(file_content, every=2, bin_columns=2, bin_rows=2, voxel_mm=[2, 1, 1])
    measured = measure_recipe(made)
    assert measured.y.shape == (1, 15, 20)
    assert measured.A.domain.shape == (40, 40)
    made = recipe(file_content, rotation_centre=19.5, shape=[2, 32, 32])
    assert measure_recipe(made).A.domain.shape == (32, 32)


def test_a_helical_scan(file_content, tmp_path):
    folder = Scanner().write(tmp_path / "helix")
    content = {**file_content, "prior": None, "baselines": [],
               "solver": {"name": "CGLS", "max_iter": 6}}
    block = {"rotation_centre": None, "projections": {"path": str(folder)},
             "voxel_mm": [3, 3, 3], "shape": [12, 22, 22]}
    run = run_recipe(recipe(content, **block))
    assert isinstance(run.measured.A, ConeBeam)
    assert "photon counts" in run.measured.origin
    assert not any("are assumed" in note for note in run.measured.notes)
    brightest = np.unravel_index(int(run.volume().data.argmax()), (12, 22, 22))
    x, y, z = run.volume().world_mm([int(n) for n in brightest[::-1]])
    # The ball is at x = 14 (left), y = 9 (front), z = 506 - 509.75 of a patient lying head first.
    assert (x, y, z) == pytest.approx((-14, 9, -3.75), abs=4)
    with pytest.raises(DataError, match="rotation_centre: expected parallel-beam slices"):
        measure_recipe(recipe(content, **{**block, "rotation_centre": 3}))


@pytest.mark.parametrize(("block", "message"), [
    ({"rows": [0, 3]}, r"rows \[start, stop\] within the 2"),
    ({"bin_columns": 50}, "do not fit a detector"),
    ({"every": 4, "rotation_centre": "find"}, None),
    ({"projections": {"manifest": "tooth", "file": "scan"}}, "no file 'scan'; it has projections"),
    ({"projections": {"path": "nothing.h5"}}, "expected an HDF5 file, found no file"),
])
def test_wrong_measurements(file_content, block, message):
    if message is None:
        measure_recipe(recipe(file_content, **block))
        return
    with pytest.raises(DataError, match=message):
        measure_recipe(recipe(file_content, **block))


def test_wrong_fields():
    for override, message in [
        ("measurement.rotation_centre=seek", "rotation_centre"),
        ("measurement.projections={}", "exactly one of manifest and path"),
        ("measurement.bin=2", "measurement.bin: unknown field"),
    ]:
        with pytest.raises(RecipeError, match=message):
            load_recipe("ct-tooth-fbp", [override])


@pytest.mark.parametrize(("scan", "kind", "shape"), [
    (FAN, FanBeam, (4, 12, 60)), (CONE, ConeBeam, (12, 6, 60)),
    ({**FAN, "curved": True}, FanBeam, (4, 12, 60)),
])
def test_simulated_scans(tmp_path, scan, kind, shape):
    content = tiny.ct_recipe(tmp_path)
    measured = measure_recipe(recipe(content, scan=scan, views=12, arc_degrees=360))
    assert type(measured.A) is kind
    assert tuple(measured.y.shape) == shape
    residual = measured.A(measured.reference) - measured.y
    assert float(residual.std()) == pytest.approx(measured.noise_std, rel=0.1)
    assert f"{scan['kind']}-beam" in measured.origin


@pytest.mark.parametrize("scan", [{"kind": "parallel"}, FAN, CONE])
def test_oversampling_differs_from_the_inverse_crime_by_little(tmp_path, scan):
    content = tiny.ct_recipe(tmp_path)
    block = {"scan": scan, "pool": [1 if scan is CONE else 2, 2, 2], "noise": 0.0, "views": 8}
    crime = measure_recipe(recipe(content, **block))
    honest = measure_recipe(recipe(content, **block, oversampled=True))
    assert honest.y.shape == crime.y.shape
    difference = float((honest.y - crime.y).norm() / crime.y.norm())
    assert 0.001 < difference < 0.1
    assert float(honest.y.sum() / crime.y.sum()) == pytest.approx(1, abs=0.01)
    with pytest.raises(RecipeError, match="pool y and x alike"):
        recipe(content, oversampled=True)
