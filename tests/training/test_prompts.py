"""Training with prompts: what is told is true, gaps have their share, runs resume exactly."""

import nibabel
import numpy as np
import pytest
import torch

from medinv.data.sets.manifests import Geometry
from medinv.errors import CheckpointError
from medinv.priors import TextEncoder, save_prior
from medinv.training import TrainConfig, loop, train
from medinv.training.contrasts import simulated_contrast
from medinv.training.images import ImageSampler, generator
from medinv.training.prompts import PromptSampler
from medinv.training.sources import Place, _place


class Letters(TextEncoder):
    """Counts of a few letters of a prompt."""

    name, size = "minilm", 4

    def encode(self, prompt):
        return torch.tensor([1.0 + prompt.count(letter) for letter in "TFax"])


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Two volumes whose intensity grows from feet to head."""
    monkeypatch.setattr(loop, "load_encoder", lambda name: Letters())
    folder = tmp_path / "volumes"
    folder.mkdir()
    for name in "ab":
        ramp = np.linspace(0.3, 1, 20, dtype=np.float32)
        nibabel.save(nibabel.Nifti1Image(np.tile(ramp, (16, 16, 1)), np.eye(4)),
                     folder / f"{name}.nii.gz")
    return TrainConfig.model_validate({
        "images": {"kind": "complex-mr", "crop": 16, "prompts": {"contrasts": ["T1w", "FLAIR"]},
                   "sources": [{"folder": str(folder), "planes": ["axial"],
                                "validation_share": 0.5}]},
        "network": {"widths": [16, 16], "blocks": [1, 1], "embedding": 16},
        "updates": 4, "batch": 4, "warmup": 0, "decay": 1, "validate_every": 4,
    })


def sampler(config, **prompts):
    told = config.images.prompts.model_copy(update=prompts)
    images = config.images.model_copy(update={
        "prompts": told, "sources": tuple(source.model_copy(update={"validation_share": 0.0})
                                          for source in config.images.sources)})
    return PromptSampler(ImageSampler(images), told, Letters())


def test_prompts_tell_what_the_images_show(config):
    complete = sampler(config, drop=0.0, drop_field=0.0, contrasts=("T1w",))
    x, prompts = complete.described(16, generator(0, 0))
    assert all(prompt.startswith("brain, T1w, axial, Slice ") for prompt in prompts)
    places = torch.tensor([float(prompt.split()[-3]) for prompt in prompts])
    raw, _ = complete.sampler.crops(16, generator(0, 0))
    levels = raw.mean((1, 2))
    assert torch.corrcoef(torch.stack([places, levels]))[0, 1] > 0.999
    assert x.is_complex()


def test_gaps_have_their_share(config):
    prompts = sampler(config, drop=0.25, drop_field=0.5).described(2000, generator(0, 0))[1]
    share = sum(not prompt for prompt in prompts) / 2000
    assert share == pytest.approx(0.25 + 0.75 * 0.5**4, abs=0.03)  # 2000 draws: 3 sigma
    told = [prompt for prompt in prompts if prompt]
    axial = sum("axial" in prompt for prompt in told) / len(told)
    assert axial == pytest.approx(0.5 / (1 - 0.5**4), abs=0.04)


def test_examples_depend_on_the_generator_alone(config):
    images = sampler(config)
    first = images.examples(6, generator(0, 3))
    images.examples(6, generator(0, 4))
    again = images.examples(6, generator(0, 3))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.known["context"], again.known["context"])
    assert first.known["context"].shape == (6, 4)


def test_a_killed_run_resumes_to_the_same_weights(config, tmp_path):
    whole = train(config, tmp_path / "whole")
    assert whole.text_encoder == "minilm"

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 2:
            raise Killed

    with pytest.raises(Killed):
        train(config.model_copy(update={"save_minutes": 1e-9}), tmp_path / "parts",
              on_update=kill)
    parts = train(config, tmp_path / "parts", resume=True)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_with_prompts_starts_from_a_prior_without(config, tmp_path):
    path = tmp_path / "plain.safetensors"
    images = config.images.model_copy(update={"prompts": None})
    plain = config.model_copy(update={"images": images})
    prior = loop.build_prior(plain, loop.build_sampler(plain))
    torch.nn.init.normal_(prior.network.head.weight)
    save_prior(path, prior.half().float(), "plain")
    started = config.model_copy(update={"start": str(path)})
    told = loop.build_prior(started, loop.build_sampler(started))
    x = torch.randn(2, 16, 16, dtype=torch.complex64)
    torch.testing.assert_close(told(x, 0.3), prior(x, 0.3))
    torch.testing.assert_close(told(x, 0.3, torch.ones(4)), prior(x, 0.3))  # learned from here on
    assert told.sigma_data == prior.sigma_data
    wider = started.network.model_copy(update={"widths": (16, 32)})
    with pytest.raises(CheckpointError, match="another network than the recipe"):
        loop.build_prior(started.model_copy(update={"network": wider}),
                         loop.build_sampler(started))


@pytest.mark.parametrize(("axis", "split", "expected"), [
    (1, None, ("axial", (1.0, 0.0))),
    (1, (1, 48, 192), ("axial", (0.75, 0.0))),
    (0, (1, 48, 192), ("sagittal", (1.0, 0.0))),
    (2, None, ("coronal", (0.0, 1.0))),
])
def test_array_axes_are_placed_by_the_orientation(axis, split, expected):
    geometry = Geometry(shape=(160, 192, 224), orientation="LIA", unit="none")
    assert _place(axis, split, geometry) == expected
    assert _place(axis, split, None) == (None, (0.0, 1.0))
    assert Place().position is None


@pytest.mark.parametrize(("name", "order"), [
    ("T1w", "csf grey white"), ("T2w", "white grey csf"), ("PDw", "white csf grey"),
    ("FLAIR", "csf white grey"),
])
def test_simulated_contrasts_order_the_tissues(name, order):
    tissues = {"csf": 0.16, "grey": 0.55, "white": 0.92}
    shown = simulated_contrast(torch.tensor([[0.0, *tissues.values(), 5.0]]), name)[0]
    assert shown[0] == 0
    assert shown.isfinite().all()
    values = dict(zip(tissues, shown[1:4].tolist(), strict=True))
    assert sorted(tissues, key=lambda tissue: values[tissue]) == order.split()


def test_prompts_need_mr_of_real_volumes(config):
    content = config.model_dump()
    with pytest.raises(ValueError, match="complex-mr images of real volumes"):
        TrainConfig.model_validate(content | {"images": content["images"] | {"kind": "ct"}})
