"""`medinv.reconstruct` takes files, medinv's own data, and arrays, to the same result."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import medinv
from medinv.data import read_kspace
from medinv.errors import DataError, InputError
from medinv.operators.ct_geometry import parallel
from medinv.recipe.load import validate_recipe
from tests import tiny

# The same computation twice on one machine gives the same bits.


@pytest.fixture
def mri(tmp_path):
    content = tiny.mri_recipe(tmp_path) | {"solver": {"name": "CGSENSE", "max_iter": 3},
                                           "baselines": [], "prior": None}
    return validate_recipe(content, "test")


@pytest.fixture
def ct(tmp_path):
    return validate_recipe(tiny.ct_recipe(tmp_path) | {
        "baselines": [], "prior": None, "solver": {"name": "FBP"}}, "test")


@pytest.fixture
def scan(tmp_path):
    content = {"name": "scan", "task": "reconstruct", "solver": {"name": "FBP"},
               "measurement": {"kind": "ct-file", "mu_water": 0.02,
                               "projections": {"path": str(tmp_path / "none.h5")}}}
    return validate_recipe(content, "test")


def test_kspace_tensors_and_arrays_are_as_their_file(mri, tmp_path):
    expected = medinv.reconstruct(recipe=mri)
    data = tiny.disc_kspace()
    for given in (read_kspace(tmp_path / "scan.npy"), data, data.numpy(), data[None],
                  data.numpy().astype(np.complex128), str(tmp_path / "scan.npy")):
        torch.testing.assert_close(medinv.reconstruct(given, recipe=mri).data, expected.data)


def test_arrays_of_kspace_follow_the_recipes_axes(mri):
    expected = medinv.reconstruct(recipe=mri)
    block = mri.measurement.model_copy(update={
        "kspace": mri.measurement.kspace.model_copy(update={"axes": "kx ky coil"})})
    recipe = mri.model_copy(update={"measurement": block})
    data = tiny.disc_kspace().permute(2, 1, 0)
    torch.testing.assert_close(medinv.reconstruct(data, recipe=recipe).data, expected.data)


def test_slices_are_chosen_of_kspace_in_memory(mri, tmp_path):
    data = torch.stack([tiny.disc_kspace(), 2 * tiny.disc_kspace()])
    recipe = mri.model_copy(update={
        "measurement": mri.measurement.model_copy(update={"slices": (1, 2)})})
    volume = medinv.reconstruct(data, recipe=recipe)
    expected = medinv.reconstruct(data[1], recipe=mri)
    torch.testing.assert_close(volume.data, expected.data)
    beyond = recipe.measurement.model_copy(update={"slices": (1, 3)})
    with pytest.raises(DataError, match="within the 2 slices"):
        medinv.reconstruct(data, recipe=recipe.model_copy(update={"measurement": beyond}))


def test_a_volume_is_simulated_from_as_its_file(ct):
    expected = medinv.reconstruct(recipe=ct)
    volume = medinv.reconstruct(tiny.ct_volume(), recipe=ct)
    torch.testing.assert_close(volume.data, expected.data)
    torch.testing.assert_close(volume.affine, expected.affine)


def test_an_array_is_a_volume_of_unknown_place_and_says_so(ct, tmp_path):
    volume = medinv.reconstruct(tiny.ct_volume().data.numpy(), recipe=ct, output=tmp_path / "out")
    assert volume.spacing_mm == (1, 1, 1)
    facts = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert any("1 mm, axial, is assumed" in note for note in facts["notes"])
    assert len(facts["measurement"]["input_sha256"]) == 64


def test_a_sinogram_is_reconstructed(scan):
    geometry = parallel((2, 16, 16), torch.arange(24) * torch.pi / 24, 1.0, n_cols=24)
    operator = medinv.Sinogram(torch.zeros(24, 2, 24), geometry).operator()
    disc = (torch.stack(torch.meshgrid(*[torch.arange(16.0) - 7.5] * 2, indexing="ij")).square()
            .sum(0) < 25) * 0.02
    y = operator(disc.expand(2, 16, 16))
    volume = medinv.reconstruct(medinv.Sinogram(y.transpose(0, 1).contiguous(), geometry),
                                recipe=scan)
    assert volume.data.shape == (2, 16, 16)
    assert float(volume.data[0, 8, 8]) == pytest.approx(0, abs=100)  # HU of water; coarse pixels


def test_a_dicom_source_of_the_recipe_is_not_that_of_other_data(ct, tmp_path):
    """Data in memory belong to no patient, whatever file the recipe names."""
    out = ct.output.model_copy(update={"format": "dicom"})
    medinv.reconstruct(tiny.ct_volume(), recipe=ct.model_copy(update={"output": out}),
                       output=tmp_path / "out")
    import pydicom

    image = sorted((tmp_path / "out" / "reconstruction").iterdir())[0]
    assert pydicom.dcmread(image).PatientName == "ANONYMOUS"


def wrong(name: str) -> object:
    kspace = tiny.disc_kspace()
    return {
        "a volume for k-space": tiny.ct_volume(), "real numbers": kspace.real,
        "one coil without an axis": kspace[0], "zeros": torch.zeros_like(kspace),
        "NaN": kspace * float("nan"), "text": np.array(["a"]), "a list": [1, 2],
    }[name]


@pytest.mark.parametrize(("name", "message"), [
    ("a volume for k-space", "expected a path, KSpace or NonCartesianKSpace, .* got Volume"),
    ("real numbers", "complex"), ("one coil without an axis", "declare the axes"),
    ("zeros", "only zeros"), ("NaN", "NaN or Inf"), ("text", "expected numbers"),
    ("a list", "got list"),
])
def test_wrong_inputs_are_told_what_to_do(mri, name, message):
    from medinv.recipe.inputs import given

    unchecked = getattr(given, "__wrapped__", given)  # without the checks of the test run
    with pytest.raises(InputError, match=message):
        unchecked(wrong(name), mri.measurement)


def test_wrong_inputs_for_ct(ct, scan):
    with pytest.raises(InputError, match="does not say where the rays"):
        medinv.reconstruct(torch.zeros(4, 4, 4), recipe=scan)
    with pytest.raises(InputError, match=r"real array \(z, y, x\)"):
        medinv.reconstruct(torch.zeros(4, 4), recipe=ct)
    with pytest.raises(InputError, match="finite"):
        medinv.reconstruct(torch.full((4, 8, 8), float("nan")), recipe=ct)
