"""Training on a tiny volume: it learns, resumes to the same state, and never sees the test set."""

import json
import resource

import pytest
import torch
import yaml

from medinv.errors import CheckpointError, DataError, MedinvWarning, NumericalError, OutputError
from medinv.training import TrainConfig, loop, train
from medinv.training.augment import (
    random_affine,
    random_contrast,
    random_flip,
    random_phase,
)
from medinv.training.denoising import denoising_loss, draw_sigma
from medinv.training.images import ImageSampler
from medinv.training.loop import build_prior, generator, learning_rate
from tests import tiny


@pytest.fixture
def manifest(tmp_path):
    return tiny.write_boxes(tmp_path)


@pytest.fixture
def config(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDINV_SHARED_DATA", str(tmp_path))
    return TrainConfig.model_validate({
        "images": {"kind": "ct", "crop": 16, "sources": [{"manifest": str(manifest)}]},
        "network": {"widths": [16, 32], "blocks": [1, 1], "embedding": 16},
        "updates": 8, "batch": 4, "warmup": 2, "decay": 2, "validate_every": 4, "ema": 0.5,
    })


def test_a_killed_run_resumes_to_the_same_weights(config, tmp_path):
    whole = train(config, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 4:
            raise Killed

    eager = config.model_copy(update={"save_minutes": 1e-9})
    with pytest.raises(Killed):
        train(eager, tmp_path / "parts", on_update=kill)
    parts = train(config, tmp_path / "parts", resume=True)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)
    rows = [json.loads(row) for row in (tmp_path / "parts/history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8]
    assert set(parts.error_by_sigma) == {0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0}


def test_training_beats_the_untrained_network(config, tmp_path):
    """The untrained network is the white Gaussian denoiser; 60 updates must do better.

    Averaged over 1,000 updates without a warm-up, the weights would still be those of the start.
    """
    config = config.model_copy(update={"updates": 60, "learning_rate": 2e-3, "ema": 0.999})
    trained = train(config, tmp_path / "run")
    untrained = build_prior(config, ImageSampler(config.images))
    x = ImageSampler(config.images, validation=True).batch(64, generator(5, 0))
    sigma = torch.full((64,), 0.3)
    with torch.no_grad():
        before, after = (denoising_loss(prior.denoise, 0.5, x, sigma, generator(5, 1)).mean()
                         for prior in (untrained, trained))
    assert after < 0.8 * before


def test_the_average_of_the_weights_is_what_is_returned(config, tmp_path):
    """a <- d a + (1 - d) w with d = min(ema, (1 + n) / (10 + n)), from the first weights on."""
    run = loop._Run(config.model_copy(update={"ema": 0.3}), tmp_path)
    expected = None
    for n in range(6):
        rng = generator(0, n)
        run.update(run.sampler.examples(4, rng), rng)
        weights = [weight.detach().clone() for weight in run.prior.parameters()]
        d = min(0.3, (1 + n) / (10 + n))
        expected = weights if expected is None else [
            d * a + (1 - d) * w for a, w in zip(expected, weights, strict=True)]
    for got, wanted in zip(run.average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(got, wanted)
    prior = train(config, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    for name, weight in prior.state_dict().items():
        assert torch.equal(weight, state["average"][f"module.{name}"])
    assert not torch.equal(prior.state_dict()["network.stem.weight"],
                           state["network"]["network.stem.weight"])


def test_an_average_that_lags_is_told():
    levels = dict.fromkeys(("0.1", "1"), 0.1)
    loop._warn_of_lag(levels, {"0.1": 0.1, "1": 0.09})
    with pytest.warns(MedinvWarning, match=r"0\.9 against 0\.1; train longer, or lower ema"):
        loop._warn_of_lag({"0.1": 1.0, "1": 0.8}, levels)


def test_a_killed_run_repeats_no_row_and_leaves_no_scraps(config, tmp_path):
    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 6:
            raise Killed

    folder = tmp_path / "run"
    with pytest.raises(Killed):
        train(config, folder, on_update=kill)
    with (folder / "history.jsonl").open("a") as file:
        file.write('{"step": 6, "seco')  # cut off in the middle
    (folder / ".0123456789ab.partial.state.pt").write_text("half")
    (folder / ".mine.partial.state.pt").write_text("the user's")
    train(config, folder, resume=True)
    rows = [json.loads(row) for row in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8]
    assert sorted(path.name for path in folder.iterdir()) == [
        ".mine.partial.state.pt", "history.jsonl", "state.pt"]


def test_a_full_disk_leaves_the_last_state(config, tmp_path):
    run = loop._Run(config, tmp_path)
    run.save()
    before = run.state_file.read_bytes()
    run.step = 5
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OutputError, match=r"state\.pt: the file could not be written.*space"):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.state_file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_loss_that_is_not_finite_ends_the_run(config, tmp_path, monkeypatch):
    eager = config.model_copy(update={"save_minutes": 1e-9})
    finite = loop.denoising_loss

    def blows_up(denoise, sigma_data, x0, sigma, rng):
        loss = finite(denoise, sigma_data, x0, sigma, rng)
        trains = torch.is_grad_enabled()
        return loss * float("nan") if trains and steps[-1:] == [2] else loss

    steps = []
    monkeypatch.setattr(loop, "denoising_loss", blows_up)
    with pytest.raises(NumericalError, match="loss of update 3 is nan"):
        train(eager, tmp_path, on_update=lambda progress: steps.append(progress.step))
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2
    run = loop._Run(config, tmp_path / "other")
    next(run.prior.parameters()).data[0] = float("inf")
    with pytest.raises(NumericalError, match="not finite after update 0"):
        run.save()


def test_a_damaged_state_is_told(config, tmp_path):
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(CheckpointError, match="expected the state of a training run"):
        train(config, tmp_path, resume=True)


def test_a_folder_with_a_run_is_not_overwritten(config, tmp_path):
    train(config.model_copy(update={"updates": 1}), tmp_path / "run")
    with pytest.raises(CheckpointError, match="--resume"):
        train(config, tmp_path / "run")
    other = config.model_copy(update={"network": config.network.model_copy(
        update={"widths": (16, 48)})})
    with pytest.raises(CheckpointError, match="another network"):
        train(other, tmp_path / "run", resume=True)


def test_a_volume_without_a_training_split_is_not_trained_on(config, manifest):
    content = yaml.safe_load(manifest.read_text())
    for split in ("train", "validation"):
        del content["splits"][split]
    manifest.write_text(yaml.safe_dump(content))
    for validation in (False, True):
        with pytest.raises(DataError, match="has a (train|validation) part"):
            ImageSampler(config.images, validation=validation)


def test_batches_depend_on_the_generator_alone(config):
    sampler = ImageSampler(config.images)
    first = sampler.batch(4, generator(0, 3))
    sampler.batch(4, generator(0, 4))
    assert torch.equal(first, sampler.batch(4, generator(0, 3)))
    assert first.shape == (4, 16, 16)
    assert first.min() >= 0
    assert first.max() < 2  # the test slices' 2.2 waters never appear


def test_learning_rate_rises_stays_and_falls(config):
    config = config.model_copy(update={"updates": 100, "warmup": 10, "decay": 20})
    rates = [learning_rate(step, config) / config.learning_rate for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:80] == [1.0] * 70
    assert rates[90] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.06


def test_noise_levels_are_log_normal():
    sigma = draw_sigma(50_000, 0.5, -1.2, 1.2, generator(0, 0)).log()
    assert sigma.mean().item() == pytest.approx(-1.2, abs=0.02)
    assert sigma.std().item() == pytest.approx(1.2, abs=0.02)


def test_augmentations_keep_what_they_promise():
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(16, 12, 12, generator=rng)
    flipped = random_flip(x, rng)
    torch.testing.assert_close(flipped.flatten(1).sort().values, x.flatten(1).sort().values)
    assert not torch.equal(flipped, x)
    torch.testing.assert_close(random_phase(x, rng).abs(), x)
    contrast = random_contrast(x * (x > 0.5), rng)
    assert (contrast[x <= 0.5] == 0).all()
    assert contrast.max() <= 1.2
    constant = random_affine(torch.ones(8, 12, 12), rng, share=1.0)
    torch.testing.assert_close(constant, torch.ones(8, 12, 12), atol=1e-4, rtol=0)
