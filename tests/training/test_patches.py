"""Patches for training: where they lie, their sides, and whole runs that end in a patch prior."""

from __future__ import annotations

import pytest
import torch

from medinv.errors import CheckpointError
from medinv.priors import NetworkPrior, PatchPrior, UNet, load_prior, save_prior
from medinv.training import TrainConfig, train
from medinv.training.config import Patch
from medinv.training.images import generator
from medinv.training.loop import build_prior, build_sampler
from medinv.training.patches import PatchSampler
from tests import tiny

SIDES = {8: 0.25, 16: 0.75}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDINV_SHARED_DATA", str(tmp_path))
    return TrainConfig.model_validate({
        "images": {"kind": "ct", "turns": False,
                   "sources": [{"manifest": str(tiny.write_boxes(tmp_path))}]},
        "patch": {"sides": SIDES, "border": 8, "side": 56, "each": 2},
        "network": {"widths": [16, 32], "blocks": [1, 1], "embedding": 16},
        "updates": 6, "batch": 2, "warmup": 2, "decay": 2, "validate_every": 3, "ema": 0.5,
    })


def test_a_patch_is_what_lies_at_its_positions(config):
    """In an image whose pixels tell where they are, the patches agree with their positions."""
    rows, columns = torch.arange(40.0)[:, None], torch.arange(36.0)
    image = 1 + 100 * rows + columns
    sampler = PatchSampler(config.images, config.patch)
    sampler.slices.whole = lambda rng: image
    corners = set()
    for step in range(60):
        examples = sampler.examples(1, generator(0, step))
        column = (examples.known["where"][:, 0] * 28 + 17.5).round()
        row = (examples.known["where"][:, 1] * 28 + 19.5).round()
        inside = (row >= 0) & (row < 40) & (column >= 0) & (column < 36)
        expected = torch.where(inside, 1 + 100 * row + column, 0)  # the border is 0
        assert torch.equal(examples.images, expected)
        if examples.images.shape[-1] == 16:
            corners |= {(int(row[i, 0, 0]), int(column[i, 0, 0])) for i in range(len(row))}
    assert min(corners)[0] >= -8
    assert max(corners)[0] <= 40 + 8 - 16
    assert min(row for row, _ in corners) < 0 < 24 < max(row for row, _ in corners)


def test_a_slice_smaller_than_the_patch_is_padded(config):
    sampler = PatchSampler(config.images, config.patch, validation=True)
    sampler.slices.whole = lambda rng: torch.ones(5, 40)
    examples = sampler.examples(3, generator(0, 0))
    assert examples.images.shape == (6, 16, 16)
    assert (examples.images.sum((1, 2)) == 5 * 16).all()


def test_sides_are_drawn_by_their_shares_and_cover_equal_areas(config):
    sampler = PatchSampler(config.images, config.patch)
    shapes = [tuple(sampler.examples(1, generator(0, step)).images.shape) for step in range(200)]
    assert set(shapes) == {(2, 16, 16), (8, 8, 8)}
    assert shapes.count((8, 8, 8)) / 200 == pytest.approx(0.25, abs=0.1)  # 3 deviations
    validation = PatchSampler(config.images, config.patch, validation=True)
    for step in range(8):
        examples = validation.examples(2, generator(0, step))
        assert examples.images.shape == (4, 16, 16)
        assert examples.known["where"].abs().max() <= 39 / 56  # inside the slice


def test_a_killed_run_resumes_and_workers_change_nothing(config, tmp_path):
    whole = train(config, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 3:
            raise Killed

    eager = config.model_copy(update={"save_minutes": 1e-9, "workers": 2})
    with pytest.raises(Killed):
        train(eager, tmp_path / "parts", on_update=kill)
    parts = train(config, tmp_path / "parts", resume=True)
    assert isinstance(whole, PatchPrior)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_trained_patch_prior_is_saved_and_denoises_whole_images(config, tmp_path):
    longer = {"updates": 60, "learning_rate": 2e-3, "ema": 0.9}
    prior = train(config.model_copy(update=longer), tmp_path / "run")
    save_prior(tmp_path / "boxes.safetensors", prior, "boxes")
    again = load_prior(tmp_path / "boxes.safetensors")
    assert isinstance(again, PatchPrior)
    assert (again.patch, again.side, again.scale) == (16, 56, prior.scale)
    assert again.error_variance(0.3) == prior.error_variance(0.3)
    clean = torch.stack([PatchSampler(config.images, config.patch, validation=True)
                         .slices.whole(generator(5, step)) for step in range(4)])
    noise = torch.randn(clean.shape, generator=generator(6, 0))
    denoised = again(clean + 0.3 * noise, 0.3)
    # weights are kept in half precision
    torch.testing.assert_close(denoised, prior(clean + 0.3 * noise, 0.3), atol=2e-2, rtol=2e-2)
    power = clean.square().mean()
    gaussian = power * 0.09 / (power + 0.09)  # error of the denoiser that only knows the power
    assert (denoised - clean).square().mean() < 0.8 * gaussian


def test_patches_may_start_from_a_prior_of_images(config, tmp_path):
    """Positions count for nothing at first: patches are denoised as the image prior does."""
    network = UNet(1, (16, 32), (1, 1), 16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    start = tmp_path / "images.safetensors"
    save_prior(start, NetworkPrior(network, 0.4), "of images")
    config = config.model_copy(update={"start": str(start)})
    prior = build_prior(config, build_sampler(config))
    x, where = torch.randn(2, 1, 16, 16), torch.rand(2, 2, 16, 16)
    sigma = torch.tensor([0.2, 1.0])
    images = load_prior(start)
    # bfloat16 convolutions sum more channels in another order
    torch.testing.assert_close(prior.denoise(x, sigma, where=where), images.denoise(x, sigma),
                               atol=2e-2, rtol=2e-2)
    other = config.model_copy(update={"network": config.network.model_copy(
        update={"widths": (32, 32)})})
    with pytest.raises(CheckpointError, match="another network than the recipe"):
        build_prior(other, build_sampler(other))


@pytest.mark.parametrize("sides", [{}, {4: 1.0}, {16: 0.0}])
def test_wrong_sides(sides):
    with pytest.raises(ValueError, match="sides"):
        Patch(sides=sides)
