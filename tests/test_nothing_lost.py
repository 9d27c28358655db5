"""No command removes or replaces what the user has, whatever it is called."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import medinv as package
from medinv.cli import app
from medinv.data import read_nifti
from medinv.data.ownership import LIST, MARK, claim, clear_own, is_own, listed, open_own
from medinv.errors import OutputError, RecipeError
from medinv.recipe.load import validate_recipe
from tests import tiny

NAMES = ["reconstruction.nii.gz", "reconstruction/image-0001.dcm", "reconstruction.json",
         "one-sample.nii.gz", "metrics.json", "figure.png", "report.html", "report.json",
         "fbp.nii.gz", "tv.nii.gz", "unfinished/thesis.pt", "unfinished/loop.snapshot",
         "unfinished/method/loop.pt", "out.nii.gz", "out.json", "out.nii.gz.unfinished/notes.pt",
         "state.pt", "history.jsonl", "tiny-ct.safetensors", "tiny-ct.json", "recipe.yaml",
         "series-001/image-0001.dcm", "face.nii.gz", "prior.safetensors", "prior.json",
         ".cache/data.npy", "boxes.nii.gz.partial", "notes.txt", "medinv-files.json.bak"]


def medinv(*arguments: object):
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, names: list[str]) -> dict[str, str]:
    """A user's files of these names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"mine: {name}")
    return contents(folder)


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """Recipes and inputs; the user's folder is another one."""
    monkeypatch.setenv("MEDINV_SHARED_DATA", str(tmp_path))
    monkeypatch.setenv("MEDINV_CACHE", str(tmp_path / "cache"))
    tiny.write_recipe(tmp_path / "ct.yaml", tiny.ct_recipe(tmp_path))
    manifest = tiny.write_boxes(tmp_path)
    tiny.write_recipe(tmp_path / "train.yaml", {
        "name": "tiny-ct", "task": "train",
        "training": {
            "images": {"kind": "ct", "crop": 16, "sources": [{"manifest": str(manifest)}]},
            "network": {"widths": [16, 16], "blocks": [1, 1], "embedding": 16},
            "updates": 1, "batch": 1, "warmup": 0, "decay": 1,
        },
    })
    return tmp_path


DEMO = ("measurement.volume={phantom: shepp-logan, phantom_shape: [4, 32, 32]}",
        "solver.steps=2", "baselines=[]")


def commands(work: Path, out: Path) -> dict[str, list[object]]:
    """Every command, with what it writes going into the user's folder."""
    demo = [part for value in (*DEMO, f"prior={work}/ct.safetensors") for part in ("--set", value)]
    return {
        "reconstruct": ["reconstruct", work / "ct.yaml", "-o", out],
        "reconstruct --overwrite": ["reconstruct", work / "ct.yaml", "-o", out, "--overwrite"],
        "reconstruct --resume": ["reconstruct", work / "ct.yaml", "-o", out, "--resume"],
        "reconstruct all": ["reconstruct", work / "ct.yaml", "-o", out, "--set", "samples=2",
                            "--set", "output.baselines=true"],
        "reconstruct to DICOM": ["reconstruct", work / "ct.yaml", "-o", out, "--set",
                                 "output.format=dicom"],
        "reconstruct to a file": ["reconstruct", work / "ct.yaml", "-o", out / "out.nii.gz"],
        "demo": ["demo", "-o", out, *demo],
        "demo --overwrite": ["demo", "-o", out, *demo, "--overwrite"],
        "train": ["train", work / "train.yaml", "-o", out],
        "train --resume": ["train", work / "train.yaml", "-o", out, "--resume"],
        "deidentify": ["deidentify", work / "series", out],
        "deface": ["deface", work / "ct.nii.gz", out / "face.nii.gz"],
        "import-prior": ["import-prior", work / "ct.safetensors", "--config", "dds-ct", "-o",
                         out / "prior.safetensors"],
        "import-prior --overwrite": ["import-prior", work / "ct.safetensors", "--config", "dds-ct",
                                     "-o", out / "prior.safetensors", "--overwrite"],
        "recipes show": ["recipes", "show", "demo-chest-ct", "-o", out / "recipe.yaml"],
        "data fetch": ["data", "fetch", work / "boxes.yaml", "--root", out],
        "data check": ["data", "check", work / "boxes.yaml", "--root", out],
        "data describe": ["data", "describe", out],
        "plan": ["plan", work / "ct.yaml"],
        "evaluate": ["evaluate", work / "ct.nii.gz", work / "ct.nii.gz", "--hu"],
        "check-operator": ["check-operator", work / "ct.yaml", "--set", "measurement.views=4"],
        "exactness": ["exactness", "--method", "DDS"],
        "solvers": ["solvers"], "priors": ["priors"], "recipes": ["recipes"], "data": ["data"],
        "recipes schema": ["recipes", "schema"], "data show": ["data", "show", "colin27"],
    }


COMMANDS = sorted(commands(Path(), Path()))


def test_every_command_is_in_the_table():
    groups = {"recipes": ["list", "show", "schema"],
              "data": ["list", "show", "fetch", "check", "describe"]}
    known = {" ".join(map(str, arguments[:2])) for arguments in
             commands(Path("a"), Path("b")).values()}
    for group in app.registered_commands:
        name = group.name or group.callback.__name__.replace("_", "-")
        assert any(one.split()[0] == name for one in known), name
    for group, names in groups.items():
        assert all(f"{group} {name}" in known or name == "list" for name in names)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_users_files_are_all_there_afterwards(name, work, tmp_path, monkeypatch):
    out = tmp_path / "mine"
    before = fill(out, NAMES)
    monkeypatch.chdir(out)
    arguments = commands(work, out)[name]
    done = medinv(*arguments)
    after = contents(out)
    assert {path: after.get(path) for path in before} == before
    assert "unexpected" not in done.output
    if out in [Path(str(argument)) for argument in arguments] and not name.startswith("data "):
        assert done.exit_code in (1, 2)
        assert set(after) == set(before)


WRITERS = ["reconstruct", "reconstruct all", "reconstruct to DICOM", "demo", "train"]
OTHERS = ["notes.txt", "thesis.pt", "data/scan.nii.gz", "report.docx", "old/metrics.json"]


@pytest.mark.parametrize("name", WRITERS)
def test_other_files_do_not_stop_a_run_and_survive_it_and_the_next(name, work, tmp_path):
    out = tmp_path / "mine"
    before = fill(out, OTHERS)
    arguments = commands(work, out)[name]
    assert medinv(*arguments).exit_code == 0
    first = contents(out)
    again = medinv(*arguments)
    assert again.exit_code in (1, 2)
    assert contents(out) == first
    if name != "train":
        assert "--overwrite" in again.output
        done = medinv(*arguments, "--overwrite")
        assert done.exit_code == 0, done.output
    after = contents(out)
    assert {path: after.get(path) for path in before} == before


def test_a_folder_called_unfinished_stays(work, tmp_path):
    before = fill(tmp_path / "proj", ["unfinished/model.pt", "unfinished/loop.snapshot"])
    done = medinv("reconstruct", work / "ct.yaml", "-o", tmp_path / "proj")
    assert done.exit_code == 1
    assert "not medinv's" in done.output.replace("\n", " ")
    assert contents(tmp_path / "proj") == before


def test_stale_results_do_not_stay_beside_new_ones(work, tmp_path):
    """The sample of a run of two slices lay beside the result of one of four."""
    out = tmp_path / "out"
    first = ("reconstruct", work / "ct.yaml", "-o", out, "--set", "samples=2", "--set",
             "measurement.slices=[0, 2]", "--set", "output.baselines=true")
    assert medinv(*first).exit_code == 0
    assert {"one-sample.nii.gz", "fbp.nii.gz"} <= {path.name for path in out.iterdir()}
    done = medinv("reconstruct", work / "ct.yaml", "-o", out, "--overwrite")
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == {
        "reconstruction.nii.gz", "metrics.json", "figure.png", "report.html", LIST}
    assert read_nifti(out / "reconstruction.nii.gz").data.shape == (4, 24, 32)
    assert set(listed(out)) == {path.name for path in out.iterdir()} - {LIST}


def test_old_results_stay_until_the_new_ones_are_there(work, tmp_path):
    out = tmp_path / "out"
    assert medinv("reconstruct", work / "ct.yaml", "-o", out).exit_code == 0
    before = contents(out)
    done = medinv("reconstruct", work / "ct.yaml", "-o", out, "--overwrite", "--set",
                  "measurement.slices=[0, 100]")
    assert done.exit_code == 2
    assert contents(out) == before


def test_dicom_results_are_replaced_as_a_whole(work, tmp_path):
    out = tmp_path / "out"
    run = ("reconstruct", work / "ct.yaml", "-o", out, "--set", "output.format=dicom")
    assert medinv(*run).exit_code == 0
    done = medinv(*run, "--overwrite", "--set", "measurement.slices=[0, 2]")
    assert done.exit_code == 0, done.output
    assert len(list((out / "reconstruction").iterdir())) == 2
    (out / "reconstruction" / "mine.txt").write_text("mine")
    assert medinv(*run, "--overwrite").exit_code == 1
    assert (out / "reconstruction" / "mine.txt").read_text() == "mine"


def test_a_volume_and_what_stands_beside_it(work, tmp_path):
    out = tmp_path / "scan.nii.gz"
    run = ("reconstruct", work / "ct.yaml", "-o", out)
    sidecar = tmp_path / "scan.json"
    sidecar.write_text('{"EchoTime": 0.03}')
    assert "no run of medinv wrote" in medinv(*run, "--overwrite").output.replace("\n", " ")
    assert json.loads(sidecar.read_text()) == {"EchoTime": 0.03}
    sidecar.unlink()
    assert medinv(*run).exit_code == 0
    assert medinv(*run).exit_code == 1
    assert medinv(*run, "--overwrite").exit_code == 0
    with pytest.raises(OutputError, match="overwrite=True"):
        package.reconstruct(recipe=work / "ct.yaml", output=out)
    package.reconstruct(recipe=work / "ct.yaml", output=out, overwrite=True)


def test_importing_and_defacing_replace_only_when_asked(work, monkeypatch):
    monkeypatch.setattr("medinv.data.defacing.deface", lambda volume: volume)
    source = work / "ct.safetensors"
    done = medinv("import-prior", source, "--config", "dds-ct", "-o", source, "--overwrite")
    assert done.exit_code == 1
    assert "the prior is made from this file" in done.output.replace("\n", " ")
    face = work / "face.nii.gz"
    face.write_text("mine")
    assert medinv("deface", work / "ct.nii.gz", face).exit_code == 1
    assert face.read_text() == "mine"
    assert medinv("deface", work / "ct.nii.gz", face, "--overwrite").exit_code == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 3}', "[" * 5000, '"x"'])
def test_a_list_that_is_not_medinvs_is_refused(tmp_path, text):
    (tmp_path / LIST).write_text(text)
    with pytest.raises(OutputError, match="list of what medinv wrote"):
        claim(tmp_path, ["figure.png"], replace=True)
    assert (tmp_path / LIST).read_text() == text


def test_a_list_removes_nothing_outside_its_folder(tmp_path):
    out = tmp_path / "out"
    before = fill(tmp_path, ["secret.txt", "data/a.txt"])
    out.mkdir()
    (out / "link").symlink_to(tmp_path / "data")
    names = ["../secret.txt", str(tmp_path / "secret.txt"), "a/../../secret.txt", "link/a.txt",
             "..", "", 3, "data"]
    (out / LIST).write_text(json.dumps({"medinv": "0", "files": names}))
    claim(out, ["figure.png"], replace=True)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert (out / "link").is_symlink()


def test_only_marked_folders_are_cleared(tmp_path):
    before = fill(tmp_path / "mine", ["a.snapshot"])
    with pytest.raises(OutputError, match="not medinv's"):
        open_own(tmp_path / "mine")
    clear_own(tmp_path / "mine")
    assert contents(tmp_path / "mine") == before
    open_own(tmp_path / "own")
    assert is_own(tmp_path / "own")
    fill(tmp_path / "own", ["part/loop.snapshot", "part/mine.pt"])
    clear_own(tmp_path / "own")
    assert set(contents(tmp_path / "own")) == {"part/mine.pt"}
    open_own(tmp_path / "other")
    clear_own(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / MARK).write_text("")
    clear_own(tmp_path / "link")
    assert (tmp_path / "mine" / "a.snapshot").exists()


@pytest.mark.parametrize("label", ["..", "...", "/", "", "a" * 61, "a\nb", "Reconstruction",
                                   "one sample", "metrics", "medinv files", "Unfinished"])
def test_a_label_that_is_no_name_for_a_file_is_refused(tmp_path, label):
    content = tiny.ct_recipe(tmp_path)
    content["baselines"] = [{"name": "FBP", "label": label}]
    with pytest.raises(RecipeError, match="label"):
        validate_recipe(content, "test")


def test_labels_that_would_share_a_file_or_a_title_are_refused(tmp_path):
    content = tiny.ct_recipe(tmp_path) | {"output": {"baselines": True}}
    content["baselines"] = [{"name": "FBP", "label": "a b"}, {"name": "FBP", "label": "a-b"}]
    with pytest.raises(RecipeError, match="two solvers are called a-b"):
        validate_recipe(content, "test")
    content |= {"samples": 2, "baselines": [{"name": "FBP", "label": "DDS, mean of 2"}]}
    with pytest.raises(RecipeError, match="two solvers are called DDS, mean of 2"):
        validate_recipe(content, "test")


def test_a_baseline_has_its_role_whatever_its_title(tmp_path):
    """It was taken for a sample, and written, because its label ended so."""
    content = tiny.ct_recipe(tmp_path)
    content["baselines"] = [{"name": "FBP", "label": "TV, one sample"}]
    run = package.recipe.run_recipe(validate_recipe(content, "test"))
    assert {title: method.role for title, method in run.methods.items()} == {
        "TV, one sample": "baseline", "DDS": "result"}
    package.reconstruct(recipe=validate_recipe(content, "test"), output=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*sample*"))
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["roles"] == {"TV, one sample": "baseline", "DDS": "result"}
