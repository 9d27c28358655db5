"""Runs that are stopped at any moment end, with --resume, as if they never had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

import medinv
from medinv.cli import app
from medinv.data import read_nifti
from medinv.errors import CheckpointError, InputError
from medinv.recipe import resume
from medinv.recipe.load import validate_recipe
from medinv.recipe.run import Progress
from tests import tiny


@pytest.fixture
def content(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "MINUTES", 0.0)
    return tiny.ct_recipe(tmp_path) | {"samples": 2}


class Stopped(Exception):
    pass


def stop_at(stage, step):
    def on_progress(progress: Progress) -> None:
        if (progress.stage, progress.step) == (stage, step):
            raise Stopped

    return on_progress


@pytest.mark.parametrize(
    ("stage", "step"),
    [("TV", 2), ("DDS, sample 1 of 2", 2), ("DDS, sample 2 of 2", 0), ("DDS, sample 2 of 2", 3)],
)
def test_baselines_samples_and_steps_are_not_done_again(content, tmp_path, stage, step):
    recipe = validate_recipe(content, "test")
    whole = medinv.reconstruct(recipe=recipe)
    with pytest.raises(Stopped):
        medinv.reconstruct(recipe=recipe, output=tmp_path / "out",
                           on_progress=stop_at(stage, step))
    assert not (tmp_path / "out" / "reconstruction.nii.gz").exists()
    seen: list[Progress] = []
    volume = medinv.reconstruct(recipe=recipe, output=tmp_path / "out", resume=True,
                                on_progress=seen.append)
    assert torch.equal(volume.data, whole.data)
    done = [p for p in seen if p.step]  # work, not the announcement of a stage
    expected = {"TV": 1} if stage == "TV" else {stage: max(step, 1)}
    assert (done[0].stage, done[0].step) == next(iter(expected.items()))
    assert "FBP" not in {p.stage for p in seen}
    assert not resume.unfinished_path(tmp_path / "out").exists()


def test_without_resume_a_run_starts_anew(content, tmp_path):
    recipe = validate_recipe(content, "test")
    with pytest.raises(Stopped):
        medinv.reconstruct(recipe=recipe, output=tmp_path / "x.nii.gz",
                           on_progress=stop_at("DDS, sample 1 of 2", 2))
    assert resume.unfinished_path(tmp_path / "x.nii.gz").is_dir()
    seen: list[Progress] = []
    medinv.reconstruct(recipe=recipe, output=tmp_path / "x.nii.gz", on_progress=seen.append)
    assert "FBP" in {p.stage for p in seen}
    assert not resume.unfinished_path(tmp_path / "x.nii.gz").exists()


def test_another_recipe_input_or_prior_is_refused(content, tmp_path):
    recipe = validate_recipe(content, "test")
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        medinv.reconstruct(recipe=recipe, output=out, on_progress=stop_at("TV", 1))
    changed = validate_recipe(content | {"seed": 1}, "test")
    with pytest.raises(CheckpointError, match="recipe, input, prior or precision has changed"):
        medinv.reconstruct(recipe=changed, output=out, resume=True)
    volume = tiny.ct_volume()
    volume.with_data(volume.data + 1).to_nifti(tmp_path / "other.nii.gz")
    with pytest.raises(CheckpointError, match="another run"):
        medinv.reconstruct(tmp_path / "other.nii.gz", recipe=recipe, output=out, resume=True)
    with pytest.raises(InputError, match="pass the output of the run"):
        medinv.reconstruct(recipe=recipe, resume=True)


def test_seconds_before_the_interruption_count(content, tmp_path):
    recipe = validate_recipe(content | {"baselines": [], "samples": 1}, "test")

    def slow(progress: Progress) -> None:
        time.sleep(0.2)
        stop_at("DDS", 2)(progress)

    with pytest.raises(Stopped):
        medinv.reconstruct(recipe=recipe, output=tmp_path / "out", on_progress=slow)
    from medinv.recipe.outputs import run_into

    run, _ = run_into(tmp_path / "out", recipe, resume=True)
    assert run.methods["DDS"].seconds > 0.2


def test_ctrl_c_in_the_shell(content, tmp_path):
    """A real signal to a real process, in the middle of a solver; then --resume."""
    long = content | {"baselines": [], "samples": 1,
                      "solver": {"name": "DDS", "steps": 100, "gamma": 1.0}}
    recipe = tiny.write_recipe(tmp_path / "long.yaml", long)
    code = ("import signal, medinv.recipe.resume as r; r.MINUTES = 0.0\n"
            # a shell starts background jobs with SIGINT ignored, which children inherit
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from medinv.cli import main; main()")
    command = [sys.executable, "-c", code, "reconstruct", str(recipe), "-o",
               str(tmp_path / "out.nii.gz")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    unfinished = resume.unfinished_path(tmp_path / "out.nii.gz")
    deadline = time.monotonic() + 100
    while not list(unfinished.rglob("loop.snapshot")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert not (tmp_path / "out.nii.gz").exists()
    result = CliRunner().invoke(
        app, ["reconstruct", str(recipe), "--resume", "-o", str(tmp_path / "out.nii.gz")])
    assert result.exit_code == 0, result.output
    whole = medinv.reconstruct(recipe=recipe)
    assert torch.equal(read_nifti(tmp_path / "out.nii.gz").data, whole.data.float())


def test_another_precision_is_another_run(content, tmp_path, monkeypatch):
    recipe = validate_recipe(content, "test")
    monkeypatch.setenv("MEDINV_PRECISION", "float32")
    with pytest.raises(Stopped):
        medinv.reconstruct(recipe=recipe, output=tmp_path / "out", on_progress=stop_at("TV", 2))
    monkeypatch.setenv("MEDINV_PRECISION", "bfloat16")
    with pytest.raises(CheckpointError, match="another run: recipe, input, prior or precision"):
        medinv.reconstruct(recipe=recipe, output=tmp_path / "out", resume=True)
