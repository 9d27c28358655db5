"""Hostile manifests and archives are refused; a copy that is not whole is told so; subjects."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import scipy.io
import yaml
from pydicom.data import get_testdata_file

from medinv.data import expansion, load_manifest, manifest_names
from medinv.data.sets.archives import extract_members, unpack
from medinv.data.sets.check import check
from medinv.data.sets.checksums import digest, file_hash
from medinv.data.sets.headers import array_shapes
from medinv.data.sets.manifests import Manifest
from medinv.data.sets.subjects import place, subject_files
from medinv.errors import DataError, DownloadError
from tests.data import fuzzing

SPLITS = {"train": {"files": ["train/*.h5"]}, "test": {"files": ["test/*.h5"]}}


def content(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "name": "many", "title": "A test", "modality": "MR", "licence": "MIT",
        "source": "https://example.org", "access": {"kind": "manual", "steps": ["Ask"]},
        "collections": {"train": {
            "pattern": "train/*.h5", "count": 2,
            "arrays": {"kspace": {"axes": ["slice", "coil", "ky", "kx"],
                                  "shape": [None, 4, None, None]}},
        }},
        "geometry": {"shape": [None, 4, None, None], "axes": ["slice", "coil", "ky", "kx"],
                     "unit": "arbitrary"},
        "subject": r"(?P<subject>\d+)_", "splits": SPLITS,
    }
    return base | changes


def write_kspace(path: Path, shape: tuple[int, ...] = (2, 4, 6, 6), key: str = "kspace") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[key] = np.zeros(shape, np.complex64)


@pytest.fixture
def root(tmp_path) -> Path:
    for name in ("train/01_a.h5", "train/02_a.h5", "test/03_a.h5"):
        write_kspace(tmp_path / name)
    return tmp_path


def test_a_whole_copy_has_no_findings(root):
    assert check(Manifest.model_validate(content()), root) == []


@pytest.mark.parametrize(("break_it", "problem", "detail"), [
    (lambda root: (root / "train/02_a.h5").unlink(), "missing", "expected 2 files, found 1"),
    (lambda root: (root / "train/02_a.h5").write_bytes(b""), "truncated", "empty"),
    (lambda root: (root / "train/02_a.h5").write_bytes(
        (root / "train/02_a.h5").read_bytes()[:1500]), "unreadable", "cannot be read"),
    (lambda root: write_kspace(root / "train/02_a.h5", (2, 6, 6)), "wrong shape", r"\(2, 6, 6\)"),
    (lambda root: write_kspace(root / "train/02_a.h5", (2, 5, 6, 6)), "wrong shape", "coil 4"),
    (lambda root: write_kspace(root / "train/02_a.h5", key="data"), "wrong shape", "found data"),
    (lambda root: write_kspace(root / "test/01_b.h5"), "shared subject", "1 also in splits.train"),
    (lambda root: write_kspace(root / "test/x.h5"), "unknown subject", "cannot be told"),
])
def test_findings(root, break_it, problem, detail):
    break_it(root)
    findings = check(Manifest.model_validate(content()), root)
    assert [finding.problem for finding in findings] == [problem]
    pytest.raises(DataError, _raise, findings[0].detail).match(detail)


def _raise(message: str) -> None:
    raise DataError(message)


def test_checksums_are_compared_only_in_full(root):
    file = root / "train/01_a.h5"
    known = {"path": "01_a.h5", "size": file.stat().st_size,
             "sha256": file_hash(file), "arrays": {"kspace": {"axes": ["a", "b", "c", "d"]}}}
    paths = sorted(root.glob("train/*.h5"))
    collection = {"pattern": "train/*.h5", "count": 2, "digest": digest(paths)}
    manifest = Manifest.model_validate(content(
        files={"one": known}, collections={"all": collection}, splits={}))
    assert check(manifest, root / "train") != []  # the collection is not there
    manifest = manifest.model_copy(update={"files": {
        "one": manifest.files["one"].model_copy(update={"path": "train/01_a.h5"})}})
    assert check(manifest, root, full=True) == []
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    assert check(manifest, root) == []
    assert {finding.problem for finding in check(manifest, root, full=True)} == {"damaged"}
    file.write_bytes(damaged[:-1])
    assert check(manifest, root)[0].problem == "truncated"
    with pytest.raises(DataError, match="found no folder"):
        check(manifest, root / "none")


def test_headers(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    np.savez(tmp_path / "a.npz", x=np.zeros(4), y=np.zeros((1, 2)))
    scipy.io.savemat(tmp_path / "a.mat", {"m": np.zeros((3, 2))})
    write_kspace(tmp_path / "new.mat", (5,), "k")
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4)),
                 tmp_path / "a.nii.gz")
    dicom = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    dicom.save_as(tmp_path / "a.dcm")
    assert array_shapes(tmp_path / "a.npy") == {"": (2, 3)}
    assert array_shapes(tmp_path / "a.npz") == {"x": (4,), "y": (1, 2)}
    assert array_shapes(tmp_path / "a.mat") == {"m": (3, 2)}
    assert array_shapes(tmp_path / "new.mat") == {"k": (5,)}
    assert array_shapes(tmp_path / "a.nii.gz") == {"": (2, 3, 4)}
    assert array_shapes(tmp_path / "a.dcm") == {"": (1, 128, 128)}
    assert array_shapes(tmp_path / "a.txt") is None
    for suffix in (".h5", ".npy", ".npz", ".mat", ".nii.gz", ".dcm"):
        broken = tmp_path / f"broken{suffix}"
        broken.write_bytes(b"not what it says" * 20)
        with pytest.raises(DataError, match="cannot be read"):
            array_shapes(broken)


@pytest.mark.parametrize("suffix", [".h5", ".npy", ".npz", ".mat", ".nii", ".nii.gz", ".dcm"])
def test_headers_of_damaged_files(tmp_path, suffix):
    path = tmp_path / f"seed{suffix}"
    if suffix == ".h5":
        write_kspace(path)
    elif suffix == ".npy":
        np.save(path, np.zeros((2, 3)))
    elif suffix == ".npz":
        np.savez(path, x=np.zeros(4))
    elif suffix == ".mat":
        scipy.io.savemat(path, {"m": np.zeros((3, 2))})
    elif suffix == ".dcm":
        pydicom.dcmread(get_testdata_file("CT_small.dcm")).save_as(path)
    else:
        nibabel.save(nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4)), path)
    fuzzing.assert_survives(array_shapes, suffix, [path.read_bytes()], 100, answer=dict)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "~/x", "c:/x", r"a\b", ""])
def test_paths_stay_inside(path):
    for changes in (
        {"files": {"a": {"path": path}}},
        {"files": {"a": {"path": "x", "member": path}}},
        {"files": {"a": {"path": "x", "unpack": path}}},
        {"collections": {"a": {"pattern": path}}},
        {"splits": {"train": {"files": [path]}}},
    ):
        with pytest.raises(ValueError, match="inside the data set's folder"):
            Manifest.model_validate(content(**changes))


@pytest.mark.parametrize("url", ["http://a.org/x", "file:///x", "https://u:p@a.org/x", "https:///"])
def test_addresses_are_https(url):
    with pytest.raises(ValueError, match="https address"):
        Manifest.model_validate(content(files={"a": {"path": "x", "url": url}}))


@pytest.mark.parametrize(("changes", "message"), [
    ({"access": {"kind": "pypi", "package": "--index-url=x", "version": "1",
                 "download_bytes": 1}}, "package"),
    ({"access": {"kind": "https"}, "files": {"a": {"path": "x"}}}, "needs its `url`"),
    ({"collections": {}}, "at least one file or collection"),
    ({"subject": None}, "splits by subject need it"),
    ({"subject": r"\d+"}, r"group \(\?P<subject>"),
    ({"splits": {"a": {"files": ["x"], "share": [0, 0.6]},
                 "b": {"files": ["x"], "share": [0.5, 1]}}}, "share voxels or subjects"),
    ({"splits": {"a": {"files": ["x"], "share": [0.6, 0.5]}}}, "low < high"),
    ({"name": "../many"}, "name"),
])
def test_wrong_manifests(changes, message):
    with pytest.raises(ValueError, match=message):
        Manifest.model_validate(content(**changes))


@pytest.mark.parametrize("text", [
    "!!python/object/apply:os.system ['echo no']", "name: !!python/name:os.system ''"])
def test_yaml_tags_are_refused(tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(DataError, match="not valid YAML"):
        load_manifest(tmp_path / "bad.yaml")


@pytest.mark.parametrize("member", ["../evil", "/evil", "a/../../evil", r"..\evil"])
def test_archives_stay_inside(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good", "x")
        archive.writestr(member, "x")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo(member.replace("\\", "/"))
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "out").mkdir()
    with pytest.raises(DownloadError, match="refused"):
        extract_members(tmp_path / "a.zip", ["good"], tmp_path / "out")
    with pytest.raises(DownloadError, match="refused"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    if not member.startswith("/"):  # tarfile makes an absolute name relative
        with pytest.raises(DownloadError, match="refused"):
            unpack(tmp_path / "a.tar", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_links_and_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(expansion, "FREE_BYTES", 2**20)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(DownloadError, match="refused"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("zeros")
        info.size = 10_000_000
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    for name, message in (("l.zip", "leave the folder"), ("b.zip", "at most 250 times"),
                          ("b.tar.gz", "at most 250 times")):
        with pytest.raises(DownloadError, match=message):
            unpack(tmp_path / name, tmp_path / "out")
    (tmp_path / "no.zip").write_text("no archive")
    with pytest.raises(DownloadError, match="whole zip or tar"):
        unpack(tmp_path / "no.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unpack(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("sub/file", "x")
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out/sub/file").read_text() == "x"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]


def test_subjects_never_share_a_split_and_never_move(tmp_path):
    for n in range(60):
        for part in ("a", "b"):
            (tmp_path / f"{n:03}_{part}.h5").touch()
    shares = {"train": (0.0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1.0)}
    manifest = Manifest.model_validate(content(splits={
        name: {"files": ["*.h5"], "share": share} for name, share in shares.items()}))
    parts = {name: subject_files(manifest, name, tmp_path) for name in shares}
    assert sum(len(files) for part in parts.values() for files in part.values()) == 120
    assert len(set().union(*parts.values())) == 60
    assert all(len(files) == 2 for part in parts.values() for files in part.values())
    assert len(parts["train"]) > 30
    (tmp_path / "999_a.h5").touch()
    after = subject_files(manifest, "train", tmp_path)
    assert {k: v for k, v in after.items() if k != "999"} == parts["train"]
    assert place("000") == pytest.approx(0.16713944)  # sha256 never changes
    with pytest.raises(DataError, match="no split 'half' by subject; it has train"):
        subject_files(manifest, "half", tmp_path)


@pytest.mark.parametrize("name", manifest_names())
def test_packaged_manifests_say_what_to_cite_and_carry_no_invented_facts(name):
    manifest = load_manifest(name)
    assert manifest.citation
    assert manifest.pitfalls
    assert manifest.source.startswith("https://")
    for file in manifest.files.values():
        assert manifest.access.kind == "https" or file.sha256


@pytest.mark.parametrize("name", [
    "dicom-fragments", "htc2022-cil-sparse", "sigpy-brain-8coil", "tooth",
    "totalsegmentator-abdomen", "totalsegmentator-series", "voxelmorph-brain"])
def test_shared_sets_are_what_their_manifests_say(shared_data, name):
    assert check(load_manifest(name), shared_data, full=True) == []


def test_manifest_is_plain_yaml(tmp_path):
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(content()))
    assert load_manifest(tmp_path / "many.yaml").subject == r"(?P<subject>\d+)_"
