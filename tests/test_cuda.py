"""Recipes on a CUDA device: what the CPU gives, with every method, and an honest plan."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medinv.errors import InputError
from medinv.priors import NetworkPrior, UNet, load_prior, save_prior
from medinv.recipe.load import validate_recipe
from medinv.recipe.plan import plan
from medinv.recipe.run import _problem, run_recipe
from medinv.resources import choose_device, device_bytes
from tests import tiny

DDS = {"name": "DDS", "steps": 3, "noise_aware": True}
STEPS = {"steps": 3, "sigma_min": 0.1}
CT = [
    {"name": "FBP"}, {"name": "CGLS", "max_iter": 5}, {"name": "SIRT", "max_iter": 5},
    {"name": "SART", "max_iter": 2},
    {"name": "TV", "weight": 0.001, "max_iter": 3}, DDS,
    {**DDS, "label": "DDS-3D", "z_weight": 0.01, "rho": 0.1},
    {"name": "DiffusionMBIR", **STEPS, "z_weight": 0.01, "rho": 0.1},
    {"name": "PaDIS", **STEPS}, {"name": "SCD", **STEPS}, {"name": "TPDM", **STEPS},
    {"name": "DDIP", "solver": DDS, "adaptation": {"inner_steps": 1, "slices": 2}},
]
MRI = [{"name": "ZeroFilled"}, {"name": "CGSENSE", "max_iter": 5},
       {"name": "L1Wavelet", "weight": 0.001, "max_iter": 3}, DDS]


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="device: cuda is asked for, but torch finds no CUDA"):
        choose_device("cuda")
    assert device_bytes(torch.device("cpu")) is None


def content(folder, settings, kind):
    base = (tiny.ct_recipe if kind == "ct" else tiny.mri_recipe)(folder)
    prior = base["prior"]
    weights = load_prior(prior)
    torch.manual_seed(0)
    for parameter in weights.parameters():  # the last layer starts at zero
        torch.nn.init.normal_(parameter, std=0.05)
    save_prior(Path(prior), weights, "random, for tests")
    if settings["name"] == "TPDM":
        prior = {"primary": prior, "auxiliary": prior}
    return base | {"baselines": [], "solver": settings, "prior": prior}


@pytest.mark.cuda
@pytest.mark.parametrize(("kind", "settings"),
                         [("ct", row) for row in CT] + [("mri", row) for row in MRI],
                         ids=[row.get("label", row["name"]) for row in CT + MRI])
def test_the_same_image_as_on_the_cpu(kind, settings, tmp_path):
    """The same noise on every device; rounding, bfloat16 and ASTRA's adjoint make the rest."""
    base = content(tmp_path, settings, kind)
    images = {}
    for device in ("cpu", "cuda"):
        run = run_recipe(validate_recipe(base | {"device": device}, "tiny"))
        images[device] = run.methods[run.title].image
        assert run.metrics()[run.title]["residual"] >= 0
    assert images["cuda"].device.type == "cpu"
    error = (images["cuda"] - images["cpu"]).norm() / images["cpu"].norm()
    assert error < 0.05


@pytest.mark.cuda
def test_automatic_weights(tmp_path):
    base = content(tmp_path, DDS, "ct") | {"auto": True, "device": "cuda"}
    assert run_recipe(validate_recipe(base, "tiny")).measured.facts["auto"]


@pytest.mark.cuda
def test_the_plan_knows_the_memory_of_the_device(tmp_path):
    base = content(tmp_path, DDS, "ct")
    tiny.ct_volume((64, 192, 192)).to_nifti(tmp_path / "ct.nii.gz")
    recipe = validate_recipe(base | {"device": "cuda"}, "tiny")
    measured, prior = _problem(recipe, None)
    cost = plan(recipe, measured, prior)
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    run = run_recipe(recipe)
    peak = run.methods[run.title].peak_bytes + held
    assert cost.device_bytes == pytest.approx(peak, rel=0.25)
    assert "on the GPU" in str(cost)


@pytest.mark.cuda
def test_the_network_goes_on_with_fewer_images_where_the_device_is_full():
    prior = NetworkPrior(UNet(1, (64, 64), (1, 1), 16), sigma_data=0.5, chunk=256).cuda().eval()
    x = torch.randn(256, 128, 128, device="cuda")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * 2**30 / total)
    try:
        with torch.no_grad():
            assert prior(x, 1.0).isfinite().all()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert prior.chunk < 256
