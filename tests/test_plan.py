"""What a run will cost: the right memory, a batch that fits, and a refusal with advice."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from medinv.cli import app
from medinv.errors import InputError
from medinv.operators import CartesianMRI
from medinv.problem import Problem
from medinv.recipe import plan as plan_module
from medinv.recipe.load import validate_recipe
from medinv.recipe.plan import Plan
from medinv.recipe.run import plan_recipe, run_recipe
from medinv.recipe.slab import slab
from medinv.resources import available_bytes
from tests import tiny

GIB = 2**30


@pytest.fixture
def content(tmp_path):
    content = tiny.ct_recipe(tmp_path)
    tiny.ct_volume((40, 24, 32)).to_nifti(tmp_path / "ct.nii.gz")
    return content


def test_a_plan_names_time_and_memory_of_every_method(content):
    cost = plan_recipe(validate_recipe(content | {"samples": 2}, "test"))
    assert list(cost.seconds) == ["FBP", "TV", "DDS"]
    assert all(seconds > 0 for seconds in cost.seconds.values())
    assert cost.host_bytes > 0
    assert cost.device_bytes == 0
    assert cost.batch == 8
    assert "slices at a time" in str(cost)


def test_a_plan_counts_every_sample(content):
    """Twenty samples take twenty times one; two trials' times differ by less than fivefold."""
    one, twenty = (plan_recipe(validate_recipe(content | {"samples": n}, "test")).seconds["DDS"]
                   for n in (1, 20))
    assert twenty > 4 * one


def test_a_run_says_its_plan_before_it_starts(content):
    stages = []
    run_recipe(validate_recipe(content, "test"), on_progress=lambda p: stages.append(p.stage))
    planned = next(i for i, stage in enumerate(stages) if stage.startswith("about "))
    assert planned < stages.index("FBP")


def test_the_memory_of_volumes_is_extrapolated(content):
    """Counted on 16 and 32 slices, and on all 40: the same but for blocks of the operator."""
    from medinv.recipe.run import _problem

    recipe = validate_recipe(content, "test")
    measured, prior = _problem(recipe, None)
    guess = plan_module._memory(recipe.solver, measured.problem, prior, 0, 0)
    between, during = plan_module._count(recipe.solver, measured.problem, prior)
    assert guess.between == pytest.approx(between, rel=0.05)
    assert guess.during == pytest.approx(during, rel=0.05)


def test_the_batch_shrinks_until_it_fits_and_then_the_run_is_refused(content, monkeypatch):
    recipe = validate_recipe(content, "test")
    free = plan_recipe(recipe)
    monkeypatch.setattr(plan_module, "held_bytes", lambda: 0)
    monkeypatch.setattr(plan_module, "_network", lambda *_: (0.0, 8 * GIB))
    monkeypatch.setattr(plan_module, "available_bytes", lambda: 3 * GIB)
    tight = plan_recipe(recipe)
    assert tight.batch == 2 < free.batch
    assert tight.host_bytes < 3 * GIB
    monkeypatch.setattr(plan_module, "available_bytes", lambda: GIB // 2)
    with pytest.raises(InputError, match=r"needs about 1.0 GiB, 0.5 GiB are there; take fewer sl"):
        plan_recipe(recipe)


def test_the_memory_of_adaptation_is_counted(content, monkeypatch):
    """What the trial took at its peak, beside the solver's own tensors."""
    solver = {"name": "DDIP", "solver": {"name": "DDS", "steps": 2},
              "adaptation": {"inner_steps": 1}}
    recipe = validate_recipe(content | {"baselines": [], "solver": solver}, "t")
    monkeypatch.setattr(plan_module, "_try", lambda *_: (1.0, 2 * GIB))
    assert plan_recipe(recipe).host_bytes > 1.9 * GIB


@pytest.mark.parametrize(
    ("solver", "prior"),
    [({"name": "DDIP", "solver": {"name": "DDS", "steps": 3},
       "adaptation": {"inner_steps": 1}}, None),
     ({"name": "SCD", "steps": 3, "adaptation": {"inner_steps": 1}}, None),
     ({"name": "TPDM", "steps": 3}, "product")],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_every_kind_of_solver_has_a_plan(content, solver, prior):
    path = content["prior"]
    chosen = {"primary": path, "auxiliary": path} if prior else path
    recipe = validate_recipe({**content, "baselines": [], "solver": solver, "prior": chosen}, "t")
    assert plan_recipe(recipe).seconds[solver["name"]] > 0


@pytest.mark.parametrize("mask_shape", [(8, 8), (6, 8, 8)])
def test_slabs_of_slices_with_maps_of_their_own(mask_shape, rng):
    maps = torch.randn(6, 2, 8, 8, dtype=torch.complex64, generator=rng) / 3
    A = CartesianMRI(maps, torch.rand(mask_shape, generator=rng) > 0.5)
    x = torch.randn(6, 8, 8, dtype=torch.complex64, generator=rng)
    problem = Problem(A(x), A, noise_std=0.1)
    few = slab(problem, 2)
    assert (problem.n_slices, few.n_slices) == (6, 2)
    torch.testing.assert_close(few.A(x[2:4]), few.y)


def test_available_memory_is_that_of_the_control_group(tmp_path):
    assert available_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert available_bytes(tmp_path) == 4000 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.stat").write_text("anon 5\ninactive_file 500\n")
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1500\n")
    assert available_bytes(tmp_path) == 4000 * 1024  # no limit
    (group / "memory.max").write_text("3000\n")
    assert available_bytes(tmp_path) == 2000
    (group / "memory").mkdir()
    (group / "memory/memory.stat").write_text("total_inactive_file 0\n")
    (group / "memory/memory.limit_in_bytes").write_text("2500\n")
    (group / "memory/memory.usage_in_bytes").write_text("1500\n")
    assert available_bytes(tmp_path) == 1000


def test_the_command(content, tmp_path):
    recipe = tiny.write_recipe(tmp_path / "r.yaml", content)
    result = CliRunner().invoke(app, ["plan", str(recipe), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert set(facts) >= {"minutes", "seconds", "host_bytes", "device_bytes", "batch"}
    result = CliRunner().invoke(app, ["plan", str(recipe)])
    assert "GiB" in result.output
    assert str(Plan({"DDS": 30.0}, GIB, 0, None, 4)).startswith("about 30 seconds and 1.0 GiB, 4")
