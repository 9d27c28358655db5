from __future__ import annotations

import math

import pytest
import torch

from medinv.errors import InputError
from medinv.operators import sampling
from medinv.operators.sampling import (
    equispaced,
    poisson_disc,
    random1d,
    uniform1d,
    uniform1d_with_replacement,
)

LINES = [random1d, equispaced, uniform1d, uniform1d_with_replacement]
SHAPE = (24, 321)


def taken(mask, axis=-1):
    """Which lines along ``axis`` are taken; the other axis must be fully sampled."""
    lines = mask.mask.movedim(axis, 0)
    assert torch.equal(lines.any(1), lines.all(1))
    return lines[:, 0]


@pytest.mark.parametrize("make", LINES)
@pytest.mark.parametrize("axis", [-1, -2, 0, 1])
def test_lines_run_along_the_other_axis_and_the_centre_is_taken(make, axis):
    shape = SHAPE if axis in (-1, 1) else SHAPE[::-1]
    mask = make(shape, 4.0, center_fraction=0.1, axis=axis)
    lines = taken(mask, axis)
    assert mask.mask.shape == shape
    assert mask.mask.dtype == torch.bool
    assert lines[321 // 2 - 16: 321 // 2 + 16].all()
    assert mask.acceleration == pytest.approx(321 / int(lines.sum()))


@pytest.mark.parametrize("make", [*LINES, poisson_disc])
def test_a_seed_and_a_generator_give_the_same_mask_again(make):
    shape = (64, 64)
    options = {"calibration_width": 8} if make is poisson_disc else {}
    first = make(shape, 4.0, rng=3, **options).mask
    assert torch.equal(first, make(shape, 4.0, rng=3, **options).mask)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(first, make(shape, 4.0, rng=generator, **options).mask)
    several = torch.stack([make(shape, 4.0, rng=generator, **options).mask for _ in range(8)])
    assert (several != several[0]).any()


def test_uniform1d_takes_exactly_its_budget():
    for seed in range(20):
        assert int(taken(uniform1d(SHAPE, 4.0, rng=seed)).sum()) == round(321 / 4)


def test_random1d_takes_its_budget_on_average():
    counts = torch.tensor([int(taken(random1d(SHAPE, 4.0, rng=s)).sum()) for s in range(200)])
    # A mask's count has a standard deviation of about 7, so the mean of 200 has 0.5.
    assert float(counts.float().mean()) == pytest.approx(321 / 4, abs=2)
    assert counts.unique().numel() > 5


def test_with_replacement_takes_fewer_lines_as_expected():
    n, centre = 320, round(320 * 0.08)
    draws = round(n / 4) - centre
    expected = centre + (n - centre) * (1 - (1 - 1 / n) ** draws)
    counts = [int(taken(uniform1d_with_replacement((8, n), 4.0, rng=s)).sum()) for s in range(200)]
    # The standard deviation of one count is about 2.5.
    assert sum(counts) / 200 == pytest.approx(expected, abs=0.8)
    assert max(counts) <= n / 4


def test_equispaced_lines_are_equally_far_apart():
    lines = taken(equispaced(SHAPE, 4.0, center_fraction=0.0, rng=1)).nonzero().flatten()
    assert (lines.diff() == 4).all()


def test_poisson_disc_meets_acceleration_and_centre():
    mask = poisson_disc((60, 50), 5.0, calibration_width=10)
    assert mask.acceleration == pytest.approx(5, abs=0.1)
    assert mask.mask[25:35, 20:30].all()


@pytest.mark.parametrize("make", [*LINES, poisson_disc])
@pytest.mark.parametrize("acceleration", [1.0, 0.5, math.nan])
def test_acceleration_must_be_over_one(make, acceleration):
    with pytest.raises(InputError, match=f"{make.__name__}: acceleration is .*over 1"):
        make((32, 32), acceleration)


@pytest.mark.parametrize("make", LINES)
@pytest.mark.parametrize("fraction", [0.5, -0.1, 1.5])
def test_the_centre_must_fit_the_budget(make, fraction):
    with pytest.raises(InputError, match="center_fraction .* lower one of them"):
        make(SHAPE, 4.0, center_fraction=fraction)


def test_equispaced_needs_a_whole_number():
    with pytest.raises(InputError, match=r"acceleration is 2\.5; the distance between lines"):
        equispaced(SHAPE, 2.5)


def test_an_impossible_poisson_disc():
    with pytest.raises(InputError, match=r"no mask of \(32, 32\) has acceleration 8\.0"):
        poisson_disc((32, 32), 8.0, calibration_width=24)


def test_an_empty_mask_has_a_finite_acceleration():
    assert sampling.Mask(torch.zeros(4, 4, dtype=torch.bool)).acceleration == 16
