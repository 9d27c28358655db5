from __future__ import annotations

import math

import pytest
import torch

from medinv.errors import InputError
from medinv.operators import sampling
from medinv.operators.sampling import (
    caipirinha,
    equispaced,
    equispaced_fraction,
    magic,
    partial_fourier,
    poisson_disc,
    random1d,
    uniform1d,
    uniform1d_with_replacement,
)
from medinv.operators.sampling_time import kt_lattice, over_time

LINES = [random1d, equispaced, equispaced_fraction, magic, uniform1d,
         uniform1d_with_replacement]
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


def test_poisson_disc_of_a_volume():
    mask = poisson_disc((40, 36, 3), 4.0, calibration_width=8)
    assert mask.acceleration == pytest.approx(4, abs=0.1)
    assert torch.equal(mask.mask, mask.mask[..., :1].expand(40, 36, 3))
    assert torch.equal(mask.mask[..., 0], poisson_disc((40, 36), 4.0, calibration_width=8).mask)


def test_equispaced_fraction_meets_its_acceleration():
    # Lines in the centre and the last partial step are lost: within a few lines of 80.
    for seed in range(8):
        assert equispaced_fraction(SHAPE, 4.0, rng=seed).acceleration == pytest.approx(4, rel=0.05)
    assert equispaced(SHAPE, 4.0).acceleration < 3.5


@pytest.mark.parametrize("seed", range(6))
def test_magic_lines_mirror_between_each_other(seed):
    k = taken(magic((1, 320), 4.0, center_fraction=0.0, rng=seed)).nonzero().flatten() - 160
    mirrored = torch.cat([k[k > 0], -k[k < 0]]).unique()
    assert (mirrored.diff() == 2).all()
    assert (k[k > 0].diff() == 4).all()


def test_magic_needs_an_even_number():
    with pytest.raises(InputError, match=r"acceleration is 3\.0; the distance .* even whole"):
        magic(SHAPE, 3.0)


def test_partial_fourier_takes_one_side():
    mask = partial_fourier((16, 5), 0.625)
    assert taken(mask, axis=-2).nonzero().flatten().tolist() == list(range(6, 16))
    assert mask.acceleration == 1.6
    both = mask & equispaced((16, 5), 2.0, center_fraction=0.0, axis=-2)
    assert both.acceleration == 3.2
    with pytest.raises(InputError, match=r"fraction is 0\.5; pass a number over 1/2"):
        partial_fourier((16, 5), 0.5)


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_caipirinha_is_a_lattice_of_the_right_density(shift):
    mask = caipirinha((12, 18), (3, 2), shift)
    assert mask.acceleration == 6
    assert mask.mask[6, 9]  # the zero frequency
    moved = mask.mask.roll((shift, 2), (0, 1))
    assert torch.equal(moved, mask.mask)
    assert caipirinha((12, 18, 4), (3, 2), shift).mask.shape == (12, 18, 4)


def test_caipirinha_may_take_the_centre():
    mask = caipirinha((12, 18), (3, 2), 1, calibration_width=5)
    assert mask.mask[4:9, 7:12].all()
    with pytest.raises(InputError, match=r"acceleration is \(3, 2\) and shift 3; .* from 0 to 2"):
        caipirinha((12, 18), (3, 2), 3)


def test_masks_over_time_differ_and_a_seed_gives_them_again():
    def draw(rng):
        return random1d((8, 64), 4.0, rng=rng)

    masks = over_time(draw, 5, rng=2)
    assert masks.mask.shape == (5, 8, 64)
    assert len({tuple(frame[0].tolist()) for frame in masks.mask}) == 5
    assert torch.equal(masks.mask, over_time(draw, 5, rng=2).mask)
    with pytest.raises(InputError, match="n_frames is 0; pass at least 1"):
        over_time(draw, 0)


@pytest.mark.parametrize("axis", [-2, -1])
def test_kt_lattice_holds_each_line_once_in_a_cycle(axis):
    mask = kt_lattice((20, 20), 5, 10, shift=2, axis=axis)
    assert mask.acceleration == 5
    assert (mask.mask[:5].sum(0) == 1).all()
    assert torch.equal(mask.mask[:5], mask.mask[5:])
    centred = kt_lattice((20, 20), 5, 3, center_fraction=0.2, axis=axis)
    assert centred.mask.movedim(axis, -1)[..., 8:12].all()
    with pytest.raises(InputError, match="n_frames is 0; pass at least 1"):
        kt_lattice((20, 20), 5, 0)


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
