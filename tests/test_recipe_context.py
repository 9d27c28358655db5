"""Recipes that tell the prior what the images show."""

from __future__ import annotations

import pytest
import torch

from medinv.data import Metadata, Volume
from medinv.errors import CheckpointError, RecipeError
from medinv.priors import NetworkPrior, TextEncoder, UNet, load_prior, save_prior
from medinv.recipe import prior as recipe_prior
from medinv.recipe.context import Context
from medinv.recipe.load import validate_recipe
from medinv.recipe.prior import told
from medinv.recipe.run import run_recipe
from tests import tiny


class Length(TextEncoder):
    """Vectors of the lengths of prompts."""

    name, size = "minilm", 2

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def encode(self, prompt):
        self.seen.append(prompt)
        return torch.tensor([1.0, len(prompt) / 20])


@pytest.fixture
def content(tmp_path):
    """A tiny recipe on a prior whose every layer listens."""
    content = tiny.mri_recipe(tmp_path)
    torch.manual_seed(0)
    network = UNet(2, (16, 16), (1, 1), 16, context=2)
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    plain = load_prior(content["prior"])
    path = tmp_path / "told.safetensors"
    save_prior(path, NetworkPrior(network, 0.3, complex_images=True, scale=plain.scale,
                                  text_encoder="minilm"), "told")
    return content | {"prior": str(path), "samples": 1, "baselines": []}


def image(content):
    run = run_recipe(validate_recipe(content, "tiny"))
    return run.methods[run.title].image


def test_what_is_told_changes_the_image(content, monkeypatch):
    encoder = Length()
    monkeypatch.setattr(recipe_prior, "load_encoder", lambda name: encoder)
    silent = image(content)
    context = {"metadata": {"anatomy": "brain", "contrast": "FLAIR"}, "span": [0.4, 0.6]}
    given = image(content | {"context": context})
    assert encoder.seen == ["brain, FLAIR, axial, Slice 50 of 100"]
    assert not torch.allclose(given, silent)
    unweighted = image(content | {"context": context | {"weight": 0}})
    rounding = 1e-3 * float(silent.abs().max())
    torch.testing.assert_close(unweighted, silent, rtol=0, atol=rounding)
    other = image(content | {"context": {"prompt": "knee"}})
    assert not torch.allclose(given, other)


def test_every_slice_is_told_its_place_in_plans_and_adaptation(content, tmp_path, monkeypatch):
    """Twelve slices, while probes and adaptation look at a few of them."""
    monkeypatch.setattr(recipe_prior, "load_encoder", lambda name: Length())
    tiny.write_kspace(tmp_path / "scan.npy", torch.stack([tiny.disc_kspace()] * 12))
    context = {"metadata": {"contrast": "FLAIR"}, "span": [0, 1]}
    adapted = {"name": "DDIP", "solver": {"name": "DDS", "steps": 2},
               "adaptation": {"inner_steps": 1, "slices": 2}}
    alone = image(content | {"context": context})
    assert alone.shape[0] == 12
    assert not torch.allclose(alone[0], alone[1])  # "Slice 4 of 100" and "Slice 12 of 100"
    fitted = image(content | {"context": context, "solver": adapted})
    assert fitted.shape == alone.shape
    assert not torch.allclose(fitted, alone)


def test_the_header_is_told_and_the_recipe_corrects_it():
    affine = torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0], dtype=torch.float64))
    acquired = Metadata(anatomy="knee", contrast="PDw", plane="sagittal")
    volume = Volume(torch.zeros(2, 4, 4), affine, acquisition=acquired)
    assert told(Context(), volume) == "knee, PDw, axial"  # the plane of its slices
    corrected = Context(metadata={"contrast": "PDwFS"}, span=(0.0, 1.0))
    assert told(corrected, volume) == [  # its slices run downwards
        "knee, PDwFS, axial, Slice 75 of 100", "knee, PDwFS, axial, Slice 25 of 100"]
    assert told(Context(prompt="knee, Slice 3"), volume) == "knee, Slice 3"


@pytest.mark.parametrize(("context", "message"), [
    ({"prompt": "knee", "span": [0, 1]}, "a prompt or metadata and span, got both"),
    ({"span": [0.6, 0.4]}, "0 <= start < stop <= 1"),
    ({"metadata": {"weighting": "T1w"}}, "no field weighting"),
    ({"metadata": {"plane": "oblique"}}, "plane as one of sagittal, coronal, axial"),
    ({"weight": -1}, "greater than or equal to 0"),
])
def test_wrong_contexts(content, context, message):
    with pytest.raises(RecipeError, match=message):
        validate_recipe(content | {"context": context}, "tiny")


def test_a_prior_that_takes_no_prompts(content, tmp_path):
    plain = content | {"prior": str(tmp_path / "mr.safetensors"), "context": {}}
    with pytest.raises(CheckpointError, match="the recipe's prior takes no prompts"):
        run_recipe(validate_recipe(plain, "tiny"))
