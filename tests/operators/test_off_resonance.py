from __future__ import annotations

import math

import pytest
import torch

from medinv.errors import InputError, ShapeError
from medinv.operators import CartesianMRI, NonCartesianMRI, trajectories
from medinv.operators.off_resonance import OffResonance, readout_times
from tests.cases import random_maps, random_mask

SHAPE = (12, 9)
FIELD = torch.linspace(-3, 4, 108, dtype=torch.float64).reshape(SHAPE).sin() * 90  # Hz
READOUT = readout_times(SHAPE, 6.0, 0.4)
ECHO_PLANAR = readout_times(SHAPE, 30.0, 0.02, echo_spacing_ms=0.9)


def cartesian(shape=SHAPE):
    return CartesianMRI(random_maps((3, *shape), torch.float64, -3), random_mask(*shape))


def exact(A, x, field_hz, times_ms):
    """The sum over voxels, one at a time, each with its own phase at every sample."""
    y = torch.zeros(A.codomain.shape, dtype=x.dtype)
    for index in range(x.numel()):
        voxel = torch.zeros_like(x).flatten()
        voxel[index] = x.flatten()[index]
        angle = -2e-3 * math.pi * field_hz.flatten()[index] * times_ms
        y += torch.polar(torch.ones_like(angle), angle) * A(voxel.reshape(x.shape))
    return y


@pytest.mark.parametrize("times", [READOUT, ECHO_PLANAR], ids=["readout", "echo-planar"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-7])
def test_error_against_the_exact_sum_is_as_stated(times, tolerance, rng):
    A = cartesian()
    B = OffResonance(A, FIELD, times, tolerance=tolerance)
    x = torch.randn(SHAPE, dtype=torch.complex128, generator=rng)
    truth = exact(A, x, FIELD, times)
    assert B.error <= tolerance
    # Errors of the voxels add up at random; they never exceed the phasor's times sum |E x|.
    assert (B(x) - truth).norm() <= 2 * B.error * truth.norm()
    assert (A(x) - truth).norm() > 0.1 * truth.norm()


def test_more_accuracy_takes_more_segments():
    counts = [OffResonance(cartesian(), FIELD, ECHO_PLANAR, tolerance=t).n_segments
              for t in (1e-1, 1e-3, 1e-5)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] < 16


def test_a_constant_field_shifts_an_echo_planar_image():
    n = 16
    A = CartesianMRI(torch.ones(1, n, n, dtype=torch.complex128), torch.ones(n, n))
    hz = 3 / (n * 1e-3)  # a turn of 3 / n from line to line, 1 ms apart: 3 pixels
    B = OffResonance(A, torch.tensor([hz]), readout_times((n, n), 0.0, 0.0, echo_spacing_ms=1.0))
    x = torch.zeros(n, n, dtype=torch.complex128)
    x[5, 7] = 1
    image = A.adjoint(B(x))
    assert image.abs().argmax() == (5 + 3) * n + 7
    assert B.n_segments < 4


def test_it_wraps_radial_sampling(rng):
    points = trajectories.radial(5, 12)
    maps = random_maps((2, *SHAPE), torch.float64, -3)
    A = NonCartesianMRI(maps, 0.7 * points.points, eps=1e-10)
    times = torch.arange(12, dtype=torch.float64) * 0.5
    x = torch.randn(SHAPE, dtype=torch.complex128, generator=rng)
    B = OffResonance(A, FIELD, times, tolerance=1e-6)
    truth = exact(A, x, FIELD, times)
    assert (B(x) - truth).norm() < 1e-5 * truth.norm()


def test_on_resonance_is_the_operator_itself(rng):
    A = cartesian()
    B = OffResonance(A, torch.zeros(1), READOUT)
    x = torch.randn(SHAPE, dtype=torch.complex128, generator=rng)
    assert B.n_segments == 1
    torch.testing.assert_close(B(x), A(x))


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"field_hz": torch.zeros(9, 12)}, ShapeError, r"field_hz is torch.float32 \(9, 12\); pass"),
    ({"field_hz": torch.zeros(12, 9, dtype=torch.int32)}, ShapeError, "real values that broadc"),
    ({"times_ms": torch.zeros(5)}, ShapeError, r"times_ms is .*broadcast against \(3, 12, 9\)"),
    ({"field_hz": torch.full(SHAPE, math.nan)}, ShapeError, "field_hz holds NaN or infinite"),
    ({"tolerance": 0.0}, InputError, r"tolerance is 0.0; pass a positive number"),
    ({"field_hz": 1e6 * FIELD, "times_ms": READOUT}, InputError, "not reached .* the field spans"),
    ({"tolerance": 1e-30, "times_ms": READOUT}, InputError, "not reached with 9 segments"),
])
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match="OffResonance: .*" + message):
        OffResonance(cartesian(), **{"field_hz": FIELD, "times_ms": READOUT[:1], **arguments})
