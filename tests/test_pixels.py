"""A prior is asked whether it knows pixels of this size, and people are told where it does not."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from typer.testing import CliRunner

import medinv
from medinv.cli import app
from medinv.errors import MedinvWarning
from medinv.priors import load_prior, prior_names, read_card, save_prior
from medinv.recipe import load_recipe, recipe_names
from medinv.recipe.load import validate_recipe
from medinv.recipe.pixels import pixel_notes
from medinv.recipe.run import measure_recipe
from medinv.recipe.schema import PriorProduct, ReconstructRecipe
from medinv.training.config import Images
from medinv.training.spacing import pixel_range
from tests import tiny


@pytest.fixture
def content(tmp_path):
    """A volume of 2 x 2 x 3 mm, and a prior of 1.4 to 3 mm as it is shipped."""
    content = tiny.ct_recipe(tmp_path) | {"baselines": []}
    prior = load_prior(tmp_path / "ct.safetensors")
    save_prior(tmp_path / "ct.safetensors", prior, "for tests", pixel_mm=(1.4, 3.0))
    return content


def scaled(tmp_path, factor: float) -> dict[str, object]:
    """The volume with larger voxels."""
    volume = tiny.ct_volume()
    affine = volume.affine @ torch.diag(torch.tensor([factor, factor, 1, 1]).double())
    medinv.Volume(volume.data, affine).to_nifti(tmp_path / "ct.nii.gz")
    return {}


@pytest.mark.parametrize(("factor", "fits"), [
    (1, True), (1.5, True), (1.7, True), (1.95, False), (0.7, True), (0.5, False)])
def test_pixels_far_from_the_training_are_told_with_the_range(content, tmp_path, factor, fits):
    """3.9 mm pixels (2 x 1.95) with this prior came out worse than total variation."""
    scaled(tmp_path, factor)
    recipe = validate_recipe(content, "test")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        medinv.reconstruct(recipe=recipe, output=tmp_path / "out")
    told = [str(w.message) for w in caught if issubclass(w.category, MedinvWarning)]
    report = (tmp_path / "out" / "report.html").read_text()
    notes = json.loads((tmp_path / "out" / "metrics.json").read_text())["notes"]
    if fits:
        assert told == []
        assert "was trained on" not in report + str(notes)
    else:
        (message,) = told
        mm = f"{2 * factor:.3g}"
        assert f"pixels are {mm} x {mm} mm, but the prior ct was trained on 1.4 to 3 mm" in message
        assert "was trained on 1.4 to 3 mm" in report
        assert any("was trained on 1.4 to 3 mm" in note for note in notes)


def test_the_command_line_warns_before_it_computes(content, tmp_path):
    scaled(tmp_path, 3)
    recipe = tiny.write_recipe(tmp_path / "r.yaml", content)
    done = CliRunner().invoke(app, ["reconstruct", str(recipe), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    lines = done.stderr.splitlines()
    warned = next(i for i, line in enumerate(lines) if line.startswith("Warning: pixels are 6 x"))
    assert warned < next(i for i, line in enumerate(lines) if line.startswith("DDS"))


def test_each_prior_of_a_product_is_asked_for_its_own_plane(content, tmp_path):
    measured = measure_recipe(validate_recipe(content, "test"))
    path = str(tmp_path / "ct.safetensors")
    save_prior(tmp_path / "thin.safetensors", load_prior(path), "thin", pixel_mm=(0.5, 1.0))
    setting = PriorProduct(primary=path, auxiliary=str(tmp_path / "thin.safetensors"),
                           auxiliary_axis="y")
    (note,) = pixel_notes(setting, measured)
    assert "pixels are 3 x 2 mm, but the prior thin was trained on 0.5 to 1 mm" in note


def test_a_prior_that_sees_neighbours_is_asked_for_their_distance(content, tmp_path):
    """Slices are 3 mm apart."""
    measured = measure_recipe(validate_recipe(content, "test"))
    prior = load_prior(str(tmp_path / "ct.safetensors"))
    for known, expected in (((1.0, 2.0), "slices are 3 mm apart"), ((2.0, 5.0), None)):
        save_prior(tmp_path / "deep.safetensors", prior, "deep", slice_mm=known)
        notes = pixel_notes(str(tmp_path / "deep.safetensors"), measured)
        assert [expected in note for note in notes] == ([True] if expected else [])


def test_voxels_of_unknown_size_are_not_judged(tmp_path):
    content = tiny.mri_recipe(tmp_path)
    prior = load_prior(tmp_path / "mr.safetensors")
    save_prior(tmp_path / "mr.safetensors", prior, "for tests", pixel_mm=(0.1, 0.2))
    measured = measure_recipe(validate_recipe(content, "test"))
    assert pixel_notes(content["prior"], measured) == ()


def test_shipped_priors_tell_what_they_saw():
    known = {name: read_card(name).pixel_mm for name in prior_names()}
    assert known["ellipses-2d"] is None  # of no size
    assert {name for name, mm in known.items() if mm is None} == {"ellipses-2d"}
    assert known["ct-3d"] == (0.9766, 3.0)
    assert known["brain-mr-3d"] == (0.7187, 2.0)
    assert read_card("ct-3d").slice_mm == (2.5, 5.0)
    assert known["chest-ct-2d"] == known["chest-ct-patch-2d"] == (1.4062, 3.0)
    assert known["brain-mr-2d"] == known["brain-mr-context-2d"] == (1.0, 1.0)


def test_the_range_follows_spacing_pooling_and_plane(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDINV_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "volumes"
    folder.mkdir()
    tiny.ct_volume((16, 24, 32)).to_nifti(folder / "a.nii.gz")

    def images(**source):
        return Images(kind="ct", crop=16, sources=({
            "folder": str(folder), "validation_share": 0.0, **source},))

    assert pixel_range(images(planes=("axial",))) == (2, 2)
    assert pixel_range(images(planes=("coronal",))) == (2, 3)
    assert pixel_range(images(planes=(2,), pool=(2, 2, 1))) == (4, 4)
    assert pixel_range(images(planes=(0,), pool=(1, 1, 2))) == (2, 6)
    assert pixel_range(images(planes=("sagittal",), pool=(2, 1, 1))) == (2, 6)
    ellipses = Images(kind="ct", crop=16, sources=({"phantom": "ellipses"},))
    assert pixel_range(ellipses) is None


def test_shipped_ct_recipes_suit_their_priors():
    """By the spacing of their data set's manifest, after pooling."""
    n = 0
    for recipe in map(load_recipe, recipe_names()):
        if not isinstance(recipe, ReconstructRecipe) or not isinstance(recipe.prior, str):
            continue
        block, known = recipe.measurement, read_card(recipe.prior).pixel_mm
        if known is None or block.kind != "ct-simulated":
            continue
        spacing = medinv.load_manifest(block.volume.manifest).geometry.spacing_mm
        assert known[0] / 1.2 <= spacing[0] * block.pool[2] <= known[1] * 1.2, recipe.name
        n += 1
    assert n >= 4
