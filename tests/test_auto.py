"""Automatic weights: what is held out is not seen, the truth is not looked at, the best wins."""

from __future__ import annotations

import json
import math

import pytest
import torch
from typer.testing import CliRunner

from medinv.cli import app
from medinv.errors import InputError
from medinv.operators import CartesianMRI, ParallelBeam
from medinv.priors import IntensityScale, Prior
from medinv.recipe.auto import JUMP, choose
from medinv.recipe.measurement import Measured
from medinv.recipe.settings import SolverSettings
from tests import tiny


class Unsure(Prior):
    """Knows almost nothing, and says so (or boasts of knowing all)."""

    def __init__(self, variance, dtype=torch.float32):
        super().__init__()
        self.dtype, self.ndim, self.scale, self.variance = dtype, 2, IntensityScale(), variance

    def forward(self, x, sigma):
        return x * (self.variance / (self.variance + float(sigma) ** 2))

    def error_variance(self, sigma):
        return 1e-4 * sigma**2 / (1 + sigma**2)  # far too sure of itself


def measured(A, x, noise, reference=None):
    y = A(x)
    shape = (*y.shape, 2) if y.is_complex() else y.shape
    error = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    y = y + noise * (torch.view_as_complex(error) if y.is_complex() else error)
    if isinstance(A, CartesianMRI):
        y = y * A.mask
    return Measured(y=y, A=A, noise_std=noise, to_volume=lambda _: pytest.fail("no volume"),
                    unit="", reference=reference, origin="", notes=(), facts={})


def ct(noise=0.05, slices=6):
    A = ParallelBeam((12, 12), torch.arange(24) * math.pi / 24, 1.0)
    x = torch.zeros(slices, 12, 12)
    x[:, 3:9, 4:9] = 1
    return measured(A, x, noise, reference=torch.full_like(x, torch.nan))


def mri():
    maps = torch.full((2, 16, 32), 0.5**0.5, dtype=torch.complex64)
    mask = torch.arange(32) % 2 == 0
    x = torch.zeros(3, 16, 32, dtype=torch.complex64)
    x[:, 4:12, 8:20] = 1 + 1j
    return measured(CartesianMRI(maps, mask), x, 0.02, reference=torch.full_like(x, torch.nan))


def test_views_and_columns_are_parted():
    problem = ct()
    seen, unseen = problem.problem.hold_out()
    assert (seen.y.shape[1], unseen.y.shape[1]) == (20, 4)
    angles = torch.cat([seen.A.angles, unseen.A.angles]).sort().values
    torch.testing.assert_close(angles, problem.A.angles)
    problem = mri()
    seen, unseen = problem.problem.hold_out()
    assert not (seen.A.mask & unseen.A.mask).any()
    assert torch.equal(seen.A.mask | unseen.A.mask, problem.A.mask)
    torch.testing.assert_close(seen.y + unseen.y, problem.y)
    assert not unseen.A.mask[..., 14:19].any()  # the centre stays


@pytest.mark.parametrize("make", [ct, mri])
def test_the_truth_scores_one_noise(make):
    problem = make()
    x = torch.zeros_like(problem.A.adjoint(problem.y))
    if x.is_complex():
        x[:, 4:12, 8:20] = 1 + 1j
    else:
        x[:, 3:9, 4:9] = 1
    _, unseen = problem.problem.hold_out()
    assert unseen.misfit(x) == pytest.approx(1, rel=0.1)  # 400 samples or more: 4 %


def test_the_search_corrects_a_prior_that_is_too_sure():
    """Its claimed error is 10,000 times too small, so the data need the largest weight."""
    settings = SolverSettings(name="DDS", steps=8, eta=1.0)
    choice = choose(settings, ct(), Unsure(1.0), seed=0)
    assert choice.weights["gamma"] == 100
    assert choice.scores["gamma=100"] < choice.scores["gamma=1"]
    assert choice.weights["noise_aware"] is True
    assert choice.solver.fields["steps"] == 8


def test_slices_that_are_alike_are_coupled_and_rules_hold():
    problem = ct(noise=0.5)
    choice = choose(SolverSettings(name="DDS", steps=8), problem, Unsure(1.0), seed=0)
    weight, s = choice.weights["z_weight"], 0.5 / problem.A.norm()
    assert weight is not None
    assert choice.weights["rho"] == pytest.approx(weight / JUMP)
    assert any(weight == pytest.approx(f * s**2 / JUMP, rel=0.01) for f in (0.3, 1, 3, 10))


def test_kspace_and_the_step_of_posterior_sampling():
    choice = choose(SolverSettings(name="PaDIS", steps=4, inner_steps=2), mri(),
                    Unsure(1.0, torch.complex64), seed=0)
    assert set(choice.weights) == {"zeta"}
    assert choice.scores[f"zeta={choice.weights['zeta']:.3g}"] == min(choice.scores.values())
    assert all(math.isfinite(score) for score in choice.scores.values())  # no NaN of the truth


def test_what_cannot_be_chosen_is_said():
    with pytest.raises(InputError, match="FBP has none of the weights gamma"):
        choose(SolverSettings(name="FBP"), ct(), None, seed=0)
    A = ParallelBeam((12, 12), torch.zeros(1), 1.0)
    few = measured(A, torch.ones(12, 12), 0.1)
    with pytest.raises(InputError, match="nothing can be held out of ParallelBeam"):
        few.problem.hold_out()


def test_a_run_records_and_prints_its_weights(tmp_path):
    content = tiny.ct_recipe(tmp_path) | {"baselines": []}
    content["measurement"] = {**content["measurement"], "views": 12}
    recipe = tiny.write_recipe(tmp_path / "r.yaml", content)
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["reconstruct", str(recipe), "--auto", "-o", str(out)])
    assert result.exit_code == 0, result.output
    facts = json.loads((out / "metrics.json").read_text())
    auto = facts["measurement"]["auto"]
    solver = facts["recipe"]["solver"]
    assert all(solver[name] == value for name, value in auto["weights"].items())
    assert auto["held-out residual / noise"]
