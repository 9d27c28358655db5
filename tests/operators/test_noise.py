"""Noise against its law, corrections against arithmetic, weights against measured variances."""

from __future__ import annotations

import math

import pytest
import torch

from medinv.errors import InputError
from medinv.operators.noise import (
    add_gaussian,
    draw_counts,
    flat_dark_correct,
    log_transform,
    statistical_weights,
)

N = 40_000
SIGMAS = 5  # a correct generator fails one of these tests once in a million seeds


def mean_close(samples, expected, std):
    assert abs(samples.mean().item() - expected) < SIGMAS * std / math.sqrt(samples.numel())


def variance_close(samples, expected, slack=0.0):
    error = SIGMAS * math.sqrt(2.1 / samples.numel()) + slack
    assert samples.var().item() == pytest.approx(expected, rel=error)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_gaussian_noise_has_its_standard_deviation_in_each_component(dtype, rng):
    noisy = add_gaussian(torch.full((N,), 3.0, dtype=dtype), 0.2, rng)
    for part in (noisy.real - 3, noisy.imag) if dtype.is_complex else (noisy - 3,):
        mean_close(part, 0, 0.2)
        variance_close(part, 0.04)


@pytest.mark.parametrize(("incident", "electronic_std"), [(1e5, 0.0), (200.0, 0.0), (200.0, 8.0)])
def test_counts_have_poissons_variance_plus_the_electronics(incident, electronic_std, rng):
    counts = draw_counts(torch.full((N,), 1.2), incident, rng, electronic_std=electronic_std)
    expected = incident * math.exp(-1.2)
    variance = expected + electronic_std**2
    mean_close(counts, expected, math.sqrt(variance))
    variance_close(counts, variance, slack=0.5 / N)


@pytest.mark.parametrize("electronic_std", [0.0, 30.0])
def test_weights_are_the_inverse_variance_of_line_integrals(electronic_std, rng):
    incident, integral = 2e4, 2.0
    counts = draw_counts(torch.full((N,), integral), incident, rng, electronic_std=electronic_std)
    integrals = log_transform(counts / incident, floor=0.5 / incident)
    expected = torch.tensor(incident * math.exp(-integral))
    variance = 1 / statistical_weights(expected, electronic_std=electronic_std).item()
    # First-order propagation; the next order is about 1 / N of the count, 4e-4 to 1e-3 here.
    variance_close(integrals, variance, slack=2e-3)
    mean_close(integrals - variance / 2, integral, math.sqrt(variance))  # -E log is convex


def test_the_same_seed_gives_the_same_counts():
    draws = [draw_counts(torch.ones(50), 100.0, torch.Generator().manual_seed(3),
                         electronic_std=2.0) for _ in range(2)]
    assert torch.equal(*draws)


def test_counts_without_signal_weigh_nothing():
    weights = statistical_weights(torch.tensor([-4.0, 0.0, 9.0]))
    assert weights.tolist() == [0.0, 0.0, 9.0]


def test_flat_and_dark_fields_undo_the_detector(rng):
    gain = 1000 * (1 + torch.rand(2, 7, generator=rng))
    dark = 50 * torch.rand(2, 7, generator=rng)
    transmission = torch.rand(5, 2, 7, generator=rng)
    corrected = flat_dark_correct(dark + gain * transmission, dark + gain, dark)
    torch.testing.assert_close(corrected, transmission, rtol=0, atol=1e-5)


def test_the_floor_bounds_line_integrals():
    integrals = log_transform(torch.tensor([-0.1, 0.0, 1e-9, 0.5]), floor=1e-3)
    expected = [math.log(1000)] * 3 + [math.log(2)]
    torch.testing.assert_close(integrals, torch.tensor(expected))


@pytest.mark.parametrize(("call", "message"), [
    (lambda y: add_gaussian(y, -1.0), "add_gaussian: std: expected a number >= 0, got -1"),
    (lambda y: draw_counts(y, 0.0), "draw_counts: incident: expected photons per ray > 0"),
    (lambda y: draw_counts(y, 9.0, electronic_std=-1.0), "draw_counts: electronic_std"),
    (lambda y: flat_dark_correct(y, y, y), r"flat > dark in every pixel, got 4 of 4 pixels"),
    (lambda y: flat_dark_correct(y, y * math.nan, y), "got 4 of 4 pixels"),
    (lambda y: log_transform(y, floor=0.0), r"floor: expected a number in \(0, 1\), got 0"),
    (lambda y: statistical_weights(y, electronic_std=-1.0), "statistical_weights: electronic"),
])
def test_wrong_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call(torch.ones(4))
