"""Training on stacks: what they hold, what is told of them, and no one of a test split."""

import json
import os
import sys

import nibabel
import numpy as np
import pytest
import torch
import yaml

from medinv.data import load_manifest
from medinv.data.sets.manifests import SubjectSplit
from medinv.data.sets.subjects import subject_files
from medinv.priors import DepthPrior, NetworkPrior, SlabPrior, UNet, save_prior
from medinv.recipe.load import load_train_recipe, recipe_names
from medinv.training import TrainConfig, train
from medinv.training.augment import affine, random_bias, random_contrast, random_phase
from medinv.training.images import generator
from medinv.training.loop import build_prior, build_sampler
from medinv.training.sources import source_volumes
from medinv.training.stacks import StackSampler

SPLITS = ("train", "validation", "test")


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    """Persons whose folder says their split; voxels rise along z, 2 x 2 x 3 mm."""
    monkeypatch.setenv("MEDINV_SHARED_DATA", str(tmp_path))
    for split in SPLITS:
        for n in range(2):
            folder = tmp_path / "people" / split / f"ct_{split}{n}"
            folder.mkdir(parents=True)
            hu = np.broadcast_to(np.arange(12.0, dtype=np.float32) * 50 - 500, (40, 36, 12))
            nibabel.save(nibabel.Nifti1Image(hu, np.diag([-2.0, -2, 3, 1])),
                         folder / "image.nii.gz")
    path = tmp_path / "people.yaml"
    path.write_text(yaml.safe_dump({
        "name": "people", "title": "people", "modality": "CT", "licence": "CC0-1.0",
        "source": "https://example.org", "access": {"kind": "manual", "steps": ["none"]},
        "collections": {"image": {"pattern": "people/*/ct_*/image.nii.gz"}},
        "subject": r"ct_(?P<subject>\w+)/", "geometry": {"shape": [None] * 3, "unit": "HU"},
        "splits": {split: {"files": [f"people/{split}/ct_*/image.nii.gz"]} for split in SPLITS},
    }))
    return path


def config(manifest, **changes):
    return TrainConfig.model_validate({
        "images": {"kind": "ct", "crop": 16, "stack": {"slices": 4},
                   "sources": [{"manifest": str(manifest), "planes": ["axial"]}]},
        "network": {"widths": [16, 16], "blocks": [1, 1], "embedding": 16, "taps": True},
        "updates": 4, "batch": 2, "warmup": 0, "decay": 1, "validate_every": 4, **changes,
    })


def sampler(manifest, *, validation=False, **stack):
    images = config(manifest).images
    return StackSampler(images, images.stack.model_copy(update=stack), validation=validation)


def test_a_stack_is_of_neighbours_in_their_order(manifest):
    stacks = sampler(manifest, coarsen=0.0, drop=0.0).examples(8, generator(0, 0)).images
    assert stacks.shape == (8, 4, 16, 16)
    steps = stacks.mean((2, 3)).diff(dim=1)  # 50 HU, upwards or downwards
    torch.testing.assert_close(steps.abs(), torch.full((8, 3), 0.05), atol=1e-4, rtol=0)
    assert len(steps.sign().unique()) == 2


def test_what_is_told_is_the_spacing_of_what_is_seen(manifest):
    plain = sampler(manifest, validation=True).examples(2, generator(0, 0))
    log_mm = torch.tensor([1, torch.tensor(2.0).log(), 1, torch.tensor(3.0).log()])
    torch.testing.assert_close(plain.known["context"], log_mm.expand(2, 4))
    thick = sampler(manifest, coarsen=1.0, coarsest_mm=(2.0, 9.0), drop=0.0)
    for i in range(8):
        examples = thick.examples(1, generator(0, i))
        mm = examples.known["context"][0, 3].exp()
        step = examples.images.mean((0, 2, 3)).diff().abs().mean()
        torch.testing.assert_close(step, 0.05 * mm / 3, atol=1e-4, rtol=0)
    dropped = sampler(manifest, drop=1.0).examples(4, generator(0, 0)).known["context"]
    assert not dropped.any()


def test_zoom_is_told():
    """A disc of 20 mm covers as many pixels as the zoomed pixel size says."""
    axis = torch.arange(64.0) - 31.5
    disc = ((axis[:, None] ** 2 + axis**2) < 20**2).float().expand(1, 2, 64, 64)
    moved = affine(disc, torch.tensor([0.5]), torch.tensor([1.25]), (56, 56))
    assert moved.shape == (1, 2, 56, 56)
    radius = (moved[0, 0].clamp(0, 1).sum() / torch.pi).sqrt()
    assert abs(float(radius) - 20 / 1.25) < 0.1


def test_slices_without_neighbours_make_stacks_of_one(manifest):
    config_ = config(manifest)
    images = config_.images.model_copy(
        update={"stack": config_.images.stack.model_copy(update={"slices": 16})})
    examples = build_sampler(config_.model_copy(update={"images": images})).examples(
        1, generator(0, 0))
    assert examples.images.shape == (16, 1, 16, 16)
    assert examples.known["context"].shape == (16, 4)


@pytest.mark.parametrize("vary", [
    lambda x, rng: random_contrast(x, rng), lambda x, rng: random_bias(x, 0.3, rng),
    lambda x, rng: random_phase(x, rng)])
def test_slices_of_a_stack_are_varied_alike(vary):
    x = torch.rand(3, 1, 16, 16).expand(3, 5, 16, 16)
    varied = vary(x, generator(0, 0))
    assert (varied - varied[:, :1]).abs().max() < 0.5 * (varied[:1] - varied[1:2]).abs().max()
    alone = vary(x[:, 0], generator(0, 0))
    assert alone.shape == (3, 16, 16)


def test_the_2d_prior_is_where_training_starts(manifest, tmp_path):
    torch.manual_seed(3)
    flat = UNet(1, (16, 16), (1, 1), 16)
    for parameter in flat.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_prior(tmp_path / "flat.safetensors", NetworkPrior(flat, 0.7), "flat")
    starting = config(manifest, start=str(tmp_path / "flat.safetensors"), start_rate=1e-9,
                      learning_rate=0.01)
    x, sigma = torch.rand(2, 1, 4, 16, 16), torch.tensor([0.1, 1.0])
    first = build_prior(starting, build_sampler(starting))
    flat_x = x.movedim(2, 1).flatten(0, 1)
    expected = NetworkPrior(flat.half().float(), 0.7).denoise(flat_x, sigma.repeat_interleave(4))
    expected = expected.unflatten(0, (2, 4)).movedim(1, 2)
    torch.testing.assert_close(first.denoise(x, sigma), expected, atol=0.02, rtol=0.02)  # bfloat16
    trained = train(starting, tmp_path / "run")
    assert isinstance(trained, DepthPrior)
    now, then = trained.network.state_dict(), first.network.state_dict()
    changed = {key for key in now if not torch.allclose(now[key], then[key], atol=1e-6)}
    assert changed
    assert all(".along." in key for key in changed)
    rows = [json.loads(row) for row in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 4]


def test_slabs_are_trained_by_the_same_loop_from_a_repeated_network(manifest, tmp_path):
    flat = UNet(1, (16, 16), (1, 1), 16)
    torch.nn.init.normal_(flat.head.weight, std=0.1)
    save_prior(tmp_path / "flat.safetensors", NetworkPrior(flat, 0.7), "flat")
    network = {"widths": [16, 16], "blocks": [1, 1], "embedding": 16, "slab": 4}
    slabs = config(manifest, start=str(tmp_path / "flat.safetensors"), network=network)
    first = build_prior(slabs, build_sampler(slabs))
    x = torch.rand(1, 1, 1, 16, 16).expand(1, 1, 4, 16, 16)  # alike: the 2D prior's answer
    expected = NetworkPrior(flat.half().float(), 0.7).denoise(x[:, :, 0], torch.tensor([0.3]))
    torch.testing.assert_close(first.denoise(x, torch.tensor([0.3]))[:, :, 2], expected,
                               atol=0.02, rtol=0.02)
    trained = train(slabs, tmp_path / "run")
    assert isinstance(trained, SlabPrior)
    assert trained(torch.rand(7, 16, 16), 0.3).shape == (7, 16, 16)


@pytest.mark.parametrize(("changes", "message"), [
    ({"network": {"slab": 3}}, "a multiple of the slab of 3 slices, got 4"),
    ({"patch": {}}, "leave out images.stack"),
    ({"images": {"kind": "ct", "sources": [{"folder": "x"}]}}, "add images.stack"),
    ({"images": {"kind": "ct", "stack": {}, "sources": [{"phantom": "ellipses"}]}},
     "phantoms are single images"),
])
def test_wrong_settings(manifest, changes, message):
    with pytest.raises(ValueError, match=message):
        config(manifest, **changes)


def test_training_opens_no_file_of_a_test_split(manifest, tmp_path):
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    train(config(manifest), tmp_path / "run")
    volumes = {path for path in opened if path.endswith("image.nii.gz")}
    assert any(f"{os.sep}train{os.sep}" in path for path in volumes)
    assert any(f"{os.sep}validation{os.sep}" in path for path in volumes)
    assert not [path for path in volumes if f"{os.sep}test{os.sep}" in path]


@pytest.mark.parametrize("name", [n for n in recipe_names() if n.startswith("prior-")])
def test_no_packaged_recipe_trains_on_a_test_person(name, monkeypatch, shared_data):
    """Of every source, the files of training and validation are none of a test split."""
    monkeypatch.setenv("MEDINV_SHARED_DATA", str(shared_data))
    images = load_train_recipe(name).training.images
    for source in images.sources:
        manifest = None if source.manifest is None else load_manifest(source.manifest)
        if manifest is None or not isinstance(manifest.splits.get("test"), SubjectSplit):
            continue
        root = manifest.fetch(source.folder, only=[source.file])[source.file]
        tested = {path for files in subject_files(manifest, "test", root).values()
                  for path in files}
        used = {placed.stack.source for part in ("train", "validation")
                for volume in source_volumes(source, images, part) for placed in volume}
        assert tested
        assert used
        assert not tested & used
