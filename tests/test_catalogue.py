"""Blocks of other packages by entry points; the truth table."""

import importlib
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from medinv import catalogue
from medinv.cli import app
from medinv.errors import InputError
from medinv.recipe.exactness import METHODS, rows
from medinv.recipe.load import validate_recipe
from medinv.recipe.run import run_recipe
from medinv.recipe.settings import SolverSettings, fields_model
from medinv.solvers import Diffusion
from tests import tiny

PACKAGE = '''
from dataclasses import dataclass

from medinv.solvers import Diffusion


@dataclass(frozen=True)
class Mean(Diffusion):
    """The prior's mean, whatever was measured."""

    sigma: float = 100.0

    def solve(self, problem, prior, run):
        return prior(self.sigma * run.noise(problem.empty_image()), self.sigma)


no_solver = 3
'''
CALL = """
from medinv.recipe.settings import SolverSettings
import medinv, torch
solver = SolverSettings(name="Mean", sigma=1e6).build()
A = medinv.Identity((3,))
prior = medinv.GaussianPrior(torch.full((3,), 7.0), torch.eye(3))
print(solver(medinv.Problem(torch.zeros(3), A), prior).round().tolist())
"""


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """As pip leaves a package: a module, and its metadata with entry points."""
    (tmp_path / "theirs.py").write_text(PACKAGE)
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[medinv.solver]\nMean = theirs:Mean\nBroken = nowhere:Broken\nThree = theirs:no_solver\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return tmp_path


def test_a_solver_of_another_package_runs_from_a_recipe(other_package):
    assert "Mean" in catalogue.names("solver")
    code = f"import sys; sys.path.insert(0, {str(other_package)!r})\n{CALL}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[7.0, 7.0, 7.0]"


def test_what_does_not_fit_is_told(other_package):
    with pytest.raises(InputError, match="'nowhere:Broken' of another package cannot be imported"):
        catalogue.find("solver", "Broken")
    with pytest.raises(InputError, match="expected a frozen dataclass called with a Problem"):
        catalogue.find("solver", "Three")
    with pytest.raises(ValueError, match="no solver is called 'Meen'; did you mean 'Mean'"):
        SolverSettings(name="Meen")


def test_every_solver_and_rule_has_a_form():
    for kind in ("solver", "guidance"):
        for name in catalogue.names(kind):
            assert fields_model(name, kind).model_json_schema()["title"] == name


def test_a_rule_is_a_block_inside_a_solver():
    settings = SolverSettings(name="DDIM", guidance={"name": "PiGDM", "data_variance": 0.5})
    assert settings.build().guidance.data_variance == 0.5
    assert SolverSettings(name="DDIM").build().guidance.cg_iter == 3
    with pytest.raises(ValueError, match="no guidance is called 'PIGDM'; did you mean 'PiGDM'"):
        SolverSettings(name="DDIM", guidance={"name": "PIGDM"})
    with pytest.raises(ValueError, match="the noise belongs to the measurement"):
        SolverSettings(name="DDS", noise_std="measurement")


SHORT = {"steps": 2, "inner_steps": 1, "iterations": 2}


def methods() -> list[dict[str, object]]:
    """Every method with a prior of any kind, in few steps."""
    found = []
    for name in catalogue.names("solver"):
        solver = catalogue.find("solver", name)
        if issubclass(solver, Diffusion) and name not in ("DDIP", "SCD", "TPDM"):
            fields = fields_model(name).model_fields
            found.append({"name": name, **{k: n for k, n in SHORT.items() if k in fields}})
    return found


@pytest.mark.parametrize("settings", methods(), ids=lambda settings: settings["name"])
def test_every_method_runs_from_a_recipe(settings, tmp_path):
    content = {**tiny.ct_recipe(tmp_path), "baselines": [], "solver": settings}
    run = run_recipe(validate_recipe(content, "test"))
    assert run.volume().data.shape == (4, 24, 32)
    assert bool(run.volume().data.isfinite().all())


# --- the truth table -------------------------------------------------------------------------


def test_samplers_are_samplers_and_others_are_not():
    table = dict(rows(["Heun, MMPS", "DDNM", "DDIM, Peng II"]))
    exact = table["Heun, MMPS"]
    assert exact.returns == "sample"
    assert (exact.mean, exact.measured, exact.null) == pytest.approx((0.8, 1, 1), abs=0.02)
    assert exact.correlated < 0.02
    assert exact.calls == 99
    assert table["DDNM"].mean == pytest.approx(1, abs=1e-6)
    assert table["DDNM"].measured == pytest.approx(0, abs=1e-6)
    assert table["DDIM, Peng II"].correlated > 0.3


def test_every_method_that_says_that_it_samples_does():
    samplers = [name for name, solver in METHODS.items()
                if solver.returns == "sample" and "1 step" not in name]
    for name, row in rows(samplers):
        assert (name, row.mean) == (name, pytest.approx(0.8, abs=0.03))
        assert (name, row.measured) == (name, pytest.approx(1, abs=0.15))
        assert (name, row.null) == (name, pytest.approx(1, abs=0.15))


def test_the_table_on_the_command_line():
    result = CliRunner().invoke(app, ["exactness", "--method", "DDRM", "--json"])
    assert json.loads(result.output)["DDRM"]["calls"] == 20
    wrong = CliRunner().invoke(app, ["exactness", "--method", "DDRN"])
    assert wrong.exit_code == 2
