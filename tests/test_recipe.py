"""Recipes: what is refused and how, what is measured, and where the voxels end up."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

import medinv
from medinv.data import read_nifti
from medinv.errors import DataError, DownloadError, InputError, NumericalError, RecipeError
from medinv.priors import NetworkPrior, load_prior
from medinv.recipe import ct, load_recipe, recipe_hash, recipe_names, recipe_schema, run_recipe
from medinv.recipe import measurement as measurement_module
from medinv.recipe.load import validate_recipe
from medinv.recipe.mri_noise import estimate_noise
from medinv.recipe.prior import build_prior
from medinv.recipe.run import Progress, measure_recipe
from medinv.recipe.schema import ReconstructRecipe
from medinv.recipe.settings import solver_names
from tests import tiny
from tests.conftest import ROOT


@pytest.fixture
def ct_content(tmp_path):
    return tiny.ct_recipe(tmp_path)


@pytest.fixture
def mri_content(tmp_path):
    return tiny.mri_recipe(tmp_path)


def reconstruct_recipe(content: dict[str, object]) -> ReconstructRecipe:
    recipe = validate_recipe(content, "test")
    assert isinstance(recipe, ReconstructRecipe)
    return recipe


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes_are_valid_and_called_by_their_file(name):
    assert load_recipe(name).name == name


WRONG = [
    ("solver.stepz=3", r"solver: DDS has no setting 'stepz'; did you mean 'steps'\?"),
    ("solver.steps=many", "solver: DDS.steps: .* got 'many'"),
    ("solver.eta=3", "solver: DDS: eta: expected 0 <= eta <= 1"),
    ("baselines.0.name=FPB", r"baselines.0: no solver is called 'FPB'; did you mean 'FBP'\?"),
    ("baselines.1={name: TV}", "baselines.1: TV needs the setting 'weight'"),
    ("measurement.viewz=3", r"measurement.viewz: unknown field; did you mean 'views'\?"),
    ("measurement.views=0", "measurement.views: .*greater than 0, got 0"),
    ("measurement.kind=ct", "measurement.kind: expected one of 'ct-simulated'.* got 'ct'"),
    ("measurement.slices=[3, 1]", r"start < stop, got \[3, 1\]"),
    ("measurement.volume={}", "exactly one of manifest, path and phantom"),
    ("task=fly", "task: expected one of 'reconstruct', 'train', got 'fly'"),
    ("prior=null", "DDS needs a prior; add `prior:`"),
    ("baselines=[{name: DDS}]", "two solvers are called DDS; give one a `label`"),
    ("solver={name: FBP, label: main}", "FBP draws no samples; set samples to 1"),
    ("colour=red", "colour: unknown field"),
    ("name=../../x/evil", "name"),
    ("name=/etc/evil", "name"),
    ("name=..", "name"),
    ("name=.hidden", "name"),
    ("name=''", "name"),
    ("name='a\\b'", "name"),
    ("solver={name: DDIP, solver: {name: DDS, stepz: 3}}", "DDIP.solver: DDS has no setting"),
    ("solver={name: DDIP, solver: {name: SIRT}}", "SIRT uses no prior; choose a solver that does"),
    ("solver={name: DDIP, adaptation: {rank: 0}}", "DDIP.adaptation: rank: expected at least 1"),
    ("solver={name: DDIP, adaptation: {rang: 4}}", "DDIP.adaptation.rang: Unexpected keyword"),
    ("prior={primary: chest-ct-2d}", "prior.*auxiliary"),
    ("prior={primary: chest-ct-2d, primary_axis: y, auxiliary: chest-ct-2d}", "are both y"),
]


@pytest.mark.parametrize(("override", "message"), WRONG)
def test_a_wrong_field_is_named_with_its_value_and_the_fix(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("demo-chest-ct", ["samples=2", override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("views", "expected key=value"),
        ("measurement.views=[", "not valid YAML"),
        ("measurement.views.red=1", "'views' is no block but 30"),
        ("measurement.colour.red=1", "measurement.colour: unknown field"),
        ("baselines.7.weight=1", "expected an index below 2, got '7'"),
    ],
)
def test_a_wrong_override_is_explained(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("demo-chest-ct", [override])


def test_a_training_recipe_writes_inside_its_folder():
    with pytest.raises(RecipeError, match="name: .*letters|name: .*pattern"):
        load_recipe("prior-ellipses-2d", ["name=../../x/evil"])


def test_a_missing_recipe_is_explained(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'demo-chest-ct'"):
        load_recipe("demo-chest")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(RecipeError, match="expected fields"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "empty.yaml").write_text("name: x")
    with pytest.raises(RecipeError, match="task: expected one of .*; add it"):
        load_recipe(tmp_path / "empty.yaml")


def test_yaml_numbers_without_a_point_are_numbers():
    """YAML 1.1 reads 1e-3 as text; a recipe must not."""
    recipe = load_recipe("demo-chest-ct", ["baselines.1.weight=1e-3"])
    assert recipe.baselines[1].fields["weight"] == 1e-3


def test_equal_settings_have_equal_hashes():
    plain = recipe_hash(load_recipe("demo-chest-ct"))
    assert recipe_hash(load_recipe("demo-chest-ct", {"solver.cg_iter": 5})) == plain
    assert recipe_hash(load_recipe("demo-chest-ct", {"solver.cg_iter": 6})) != plain


def test_schema_knows_every_solver_and_its_settings():
    text = json.dumps(recipe_schema())
    assert all(f'"const": "{name}"' in text for name in solver_names())
    assert '"cg_iter"' in text


def test_ct_is_measured_in_physical_units_at_the_right_place(ct_content):
    recipe = reconstruct_recipe(ct_content | {"measurement": {
        **ct_content["measurement"], "slices": [1, 3], "pool": [1, 2, 2], "noise": 0,
    }})
    measured = measure_recipe(recipe)
    hu = tiny.ct_volume().data[1:3].reshape(2, 12, 2, 16, 2).mean((2, 4))
    torch.testing.assert_close(measured.reference, 0.02 * (1 + hu / 1000))
    # A view sums the whole slice: pixel area times the sum, over the column width.
    expected = measured.reference.sum((1, 2)) * 4.0
    torch.testing.assert_close(measured.y[:, 0].sum(-1), expected, rtol=1e-4, atol=0)
    volume = measured.to_volume(measured.reference)
    torch.testing.assert_close(volume.data, hu, rtol=0, atol=1e-3)  # float32 of HU up to 500
    # Voxel (0, 0, 0) averages voxels 0 and 1 in plane, and slice 0 was cut off.
    assert volume.world_mm((0, 0, 0)) == (30 - 1, -20 + 1, 7 + 3)
    assert volume.spacing_mm == (4, 4, 3)


def test_noise_is_a_fraction_of_the_line_integrals(ct_content):
    content = ct_content | {"measurement": {**ct_content["measurement"], "noise": 0.1}}
    measured = measure_recipe(reconstruct_recipe(content))
    clean = measured.A(measured.reference)
    assert measured.noise_std == pytest.approx(0.1 * float(clean.max()))
    std = float((measured.y - clean).std())
    n = measured.y.numel()
    assert std == pytest.approx(measured.noise_std, rel=4 / (2 * n) ** 0.5)  # 4 standard errors


def test_a_volume_that_is_not_axial_is_reordered(ct_content, tmp_path):
    axial = tiny.ct_volume()
    turned = medinv.Volume(
        axial.data.permute(1, 0, 2).contiguous(), axial.affine[:, [0, 2, 1, 3]].contiguous()
    )
    turned.to_nifti(tmp_path / "coronal.nii.gz")
    measured = measure_recipe(reconstruct_recipe(ct_content), tmp_path / "coronal.nii.gz")
    assert measured.reference.shape == axial.data.shape
    assert measured.to_volume(measured.reference).orientation == "RAS"


def test_without_a_network_a_phantom_stands_in_and_says_so(monkeypatch):
    def offline(*_args: object, **_options: object) -> None:
        raise DownloadError("no network")

    monkeypatch.setattr(measurement_module, "load_volume", offline)
    small = {"measurement.volume.phantom_shape": [2, 32, 32], "measurement.pool": [1, 1, 1]}
    recipe = load_recipe("demo-chest-ct", small)
    measured = ct.measure(recipe.measurement, None, 0)
    assert "phantom" in measured.origin
    assert "could not be fetched" in measured.notes[0]
    assert float(measured.reference.max()) == pytest.approx(0.02)  # the skull is as water
    strict = load_recipe("ct-sparse-view-dds")
    with pytest.raises(DownloadError):
        ct.measure(strict.measurement, None, 0)


def test_ct_refuses_what_it_cannot_project(ct_content, tmp_path):
    volume = tiny.ct_volume()
    oblong = medinv.Volume(volume.data, volume.affine * torch.tensor([1, 2, 1, 1]))
    oblong.to_nifti(tmp_path / "oblong.nii.gz")
    recipe = reconstruct_recipe(ct_content)
    with pytest.raises(DataError, match="expected square pixels, found 2 x 4 mm"):
        measure_recipe(recipe, tmp_path / "oblong.nii.gz")
    volume.with_data(torch.full_like(volume.data, -1000)).to_nifti(tmp_path / "air.nii.gz")
    with pytest.raises(DataError, match="nothing denser than air"):
        measure_recipe(recipe, tmp_path / "air.nii.gz")
    with pytest.raises(DataError, match=r"within the 4 slices, got \[2, 9\]"):
        measure_recipe(validate_recipe(
            ct_content | {"measurement": {**ct_content["measurement"], "slices": [2, 9]}}, "test"
        ))


@pytest.mark.parametrize(
    "sampling",
    [
        {"kind": "random1d", "acceleration": 3, "center_fraction": 0.2},
        {"kind": "equispaced", "acceleration": 3},
        {"kind": "uniform1d", "acceleration": 3},
        {"kind": "uniform1d-with-replacement", "acceleration": 3},
        {"kind": "poisson-disc", "acceleration": 2, "calibration_width": 8},
    ],
    ids=lambda sampling: sampling["kind"],
)
def test_simulated_mri_explains_its_reference(mri_content, tmp_path, sampling):
    magnitude = tiny.ct_volume((3, 32, 32))
    magnitude.with_data(magnitude.data + 1000).to_nifti(tmp_path / "t1.nii.gz")
    block = {"kind": "mri-simulated", "volume": {"path": str(tmp_path / "t1.nii.gz")},
             "coils": 4, "sampling": sampling, "noise": 0.01}
    measured = measure_recipe(reconstruct_recipe(mri_content | {"measurement": block}))
    assert "simulated" in measured.origin
    assert measured.reference.is_complex()
    clean = measured.A(measured.reference)
    residual = (measured.y - clean)[clean != 0]
    assert float(residual.real.std()) == pytest.approx(0.01 * 1500, rel=0.1)
    assert measured.facts["acceleration"] > 1.3


def test_noise_of_measured_kspace_is_found(rng):
    noise = torch.randn(2, 4, 48, 48, 2, generator=rng)
    kspace = 3 * torch.view_as_complex(noise)
    kspace[:, :, 20:28, 20:28] += 1000
    mask = torch.ones(48, 48) > 0
    assert estimate_noise(kspace, mask) == pytest.approx(3, rel=0.1)  # about 500 samples


def test_reconstruct_returns_hu_on_the_input_grid(ct_content, tmp_path):
    recipe = tiny.write_recipe(tmp_path / "r.yaml", ct_content)
    steps: list[Progress] = []
    volume = medinv.reconstruct(tmp_path / "ct.nii.gz", recipe=recipe, on_progress=steps.append)
    assert volume.data.shape == tiny.ct_volume().data.shape
    torch.testing.assert_close(volume.affine, tiny.ct_volume().affine)
    assert [(p.step, p.steps) for p in steps if p.stage == "DDS"] == [(i, 3) for i in range(4)]
    again = medinv.reconstruct(recipe=recipe)
    assert torch.equal(volume.data, again.data)


def test_an_image_that_is_not_finite_is_refused_where_it_begins(ct_content, tmp_path,
                                                                monkeypatch):
    recipe = tiny.write_recipe(tmp_path / "r.yaml", ct_content)
    denoise = NetworkPrior.forward

    def broken(self, x, sigma, context=None):
        return denoise(self, x, sigma, context) * (math.nan if 0.05 < float(sigma) < 5 else 1)

    monkeypatch.setattr(NetworkPrior, "forward", broken)
    with pytest.raises(NumericalError, match="step 2 of 3: the image is no longer finite"):
        medinv.reconstruct(recipe=recipe, output=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_an_image_of_a_classical_method_is_finite_or_refused(ct_content, tmp_path, monkeypatch):
    recipe = tiny.write_recipe(tmp_path / "r.yaml", ct_content)
    monkeypatch.setattr(medinv.FBP, "__call__", lambda self, problem, **_: problem.A.adjoint(
        problem.y) * math.nan)
    with pytest.raises(NumericalError, match=r"FBP: \d+ of \d+ values of the image are NaN"):
        medinv.reconstruct(recipe=recipe, output=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_samples_are_averaged_and_both_are_kept(ct_content, tmp_path):
    run = run_recipe(reconstruct_recipe(ct_content | {"samples": 2}))
    other = run_recipe(reconstruct_recipe(ct_content | {"seed": 1, "baselines": []}))
    assert list(run.methods) == ["FBP", "TV", "DDS, one sample", "DDS, mean of 2"]
    assert run.title == "DDS, mean of 2"
    assert set(run.metrics()["FBP"]) >= {"PSNR (dB)", "SSIM", "NRMSE", "residual", "seconds"}
    first, mean = run.methods["DDS, one sample"].image, run.methods[run.title].image
    assert not torch.equal(first, mean)
    assert other.methods["DDS"].image.shape == mean.shape


def test_mri_is_written_by_magnitude_unless_complex_is_asked_for(mri_content, tmp_path):
    recipe = tiny.write_recipe(tmp_path / "r.yaml", mri_content)
    medinv.reconstruct(recipe=recipe, output=tmp_path / "real.nii.gz")
    assert not read_nifti(tmp_path / "real.nii.gz").data.is_complex()
    beside = json.loads((tmp_path / "real.json").read_text())
    assert beside["recipe_sha256"]
    assert len(beside["measurement"]["input_sha256"]) == 64
    medinv.reconstruct(recipe=recipe, output=tmp_path / "complex.nii",
                       overrides={"output.complex_values": True})
    assert read_nifti(tmp_path / "complex.nii").data.is_complex()


def test_maps_can_be_given(mri_content, tmp_path):
    maps = tiny.birdcage(4, (32, 32))
    np.save(tmp_path / "maps.npy", maps.numpy())
    block = {**mri_content["measurement"], "maps": str(tmp_path / "maps.npy")}
    measured = measure_recipe(reconstruct_recipe(mri_content | {"measurement": block}))
    assert torch.equal(measured.A.maps[0], maps)
    assert measured.facts["acceleration"] == 32 / 20  # tiny.disc_kspace: 20 of 32 columns


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_thick_slices_are_means_of_thin_ones(ct_content, tmp_path, modality):
    content = {**ct_content, "baselines": [], "prior": None, "solver": {"name": "ZeroFilled"},
               "measurement": {"kind": "thick-slices", "modality": modality, "factor": 2,
                               "noise": 0.0, "volume": {"path": str(tmp_path / "ct.nii.gz")}}}
    measured = measure_recipe(reconstruct_recipe(content))
    x = measured.reference
    assert x.is_complex() == (modality == "mr")
    torch.testing.assert_close(measured.y, (x[0::2] + x[1::2]) / 2)
    back = measured.to_volume(x)
    original = read_nifti(tmp_path / "ct.nii.gz")
    expected = original.data if modality == "ct" else original.data.abs()
    torch.testing.assert_close(back.data.real.float(), expected.float(), rtol=1e-4, atol=0.1)
    torch.testing.assert_close(back.affine, original.affine)
    content["measurement"]["factor"] = 5
    with pytest.raises(DataError, match="4 slices make no thick slice of 5"):
        measure_recipe(reconstruct_recipe(content))


def test_a_solver_that_wraps_another(ct_content):
    inner = {"name": "DDS", "steps": 2, "noise_aware": True}
    content = {**ct_content, "baselines": [], "solver": {
        "name": "DDIP", "solver": inner, "adaptation": {"inner_steps": 1, "slices": 2}}}
    steps = []
    recipe = reconstruct_recipe(content)
    run_recipe(recipe, on_progress=lambda p: steps.append((p.stage, p.step, p.steps)))
    assert ("DDIP", 2, 2) in steps
    assert recipe.solver.build().solver.noise_aware


def test_a_product_of_two_priors(ct_content):
    path = ct_content["prior"]
    product = {"primary": path, "auxiliary": path, "weights": [0.75, 0.25]}
    recipe = reconstruct_recipe(
        {**ct_content, "baselines": [], "prior": product, "solver": {"name": "TPDM", "steps": 2}})
    prior = build_prior(recipe.prior)
    assert [factor.axis for factor in prior.factors()] == [-3, -2]
    assert prior.weights == (0.75, 0.25)
    turned = recipe.prior.model_copy(update={"primary_axis": "x"})
    assert [factor.axis for factor in build_prior(turned).factors()] == [-1, -2]
    assert run_recipe(recipe).volume().data.isfinite().all()


def test_a_validated_recipe_takes_no_overrides(ct_content):
    with pytest.raises(InputError, match="model_copy"):
        medinv.reconstruct(recipe=reconstruct_recipe(ct_content), overrides=["seed=1"])


def test_noise_that_is_zero_is_no_noise(ct_content):
    content = ct_content | {"measurement": {**ct_content["measurement"], "noise": 0}}
    run = run_recipe(reconstruct_recipe(content))
    assert bool(run.methods["DDS"].image.isfinite().all())


def test_the_example_of_the_readme_runs(tmp_path, monkeypatch):
    """As it stands, but on a tiny volume and with an untrained prior in the place of the real."""
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    tiny.ct_volume().to_nifti(tmp_path / "ct.nii.gz")
    weights = tiny.write_prior(tmp_path / "ct.safetensors", complex_images=False)
    prior = load_prior(weights)
    monkeypatch.setattr(medinv, "load_prior", lambda _: prior, raising=False)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    written = read_nifti("reconstruction.nii.gz")
    assert torch.equal(written.affine, tiny.ct_volume().affine)


def test_the_readme_names_recipes_and_commands_that_exist():
    readme = (ROOT / "README.md").read_text()
    used = re.findall(r"medinv (?:reconstruct|train|recipes show) ([a-z0-9-]+)(?= )", readme)
    assert set(used) <= set(recipe_names())
    assert len(used) >= 4
