"""Simultaneous slices, other grids and partial Fourier: small operators around CartesianMRI."""

from __future__ import annotations

import math

import pytest
import torch

from medinv.errors import ShapeError
from medinv.operators import CartesianMRI, Space, fourier
from medinv.operators.kspace_grid import CentreCrop, interpolate, remove_oversampling
from medinv.operators.multislice import SliceSum, caipi_phase
from medinv.operators.partial_fourier import KnownPhase, low_resolution_phase
from medinv.operators.sampling import partial_fourier
from tests.cases import random_maps, random_mask


def test_simultaneous_slices_equal_the_explicit_sum(rng):
    maps, mask = random_maps((3, 4, 8, 6), torch.float64, -3), random_mask(8, 6)
    A = CartesianMRI(maps, mask)
    sms = SliceSum(A.codomain, caipi_phase(3, 8, shift=1 / 3)) @ A
    x = torch.randn(3, 8, 6, dtype=torch.complex128, generator=rng)
    expected = 0
    for z in range(3):
        phase = torch.exp(-2j * math.pi * z / 3 * (torch.arange(8.0, dtype=torch.float64) - 4))
        expected = expected + mask * phase[:, None] * fourier.fft(maps[z] * x[z], (-2, -1))
    torch.testing.assert_close(sms(x), expected)


@pytest.mark.parametrize("n", [8, 9])
def test_caipi_moves_a_slice_by_its_shift(n):
    A = CartesianMRI(torch.ones(2, 1, n, 4, dtype=torch.complex128), torch.ones(n, 4))
    sms = SliceSum(A.codomain, caipi_phase(2, n, shift=2 / n)) @ A
    x = torch.zeros(2, n, 4, dtype=torch.complex128)
    x[1, 3, 1] = 1
    image = fourier.ifft(sms(x), (-2, -1))[0]
    torch.testing.assert_close(image, x[1].roll(2, 0))


def test_slices_are_told_apart_by_coils_and_caipi(rng):
    A = CartesianMRI(random_maps((2, 6, 8, 8), torch.float64, -3), torch.ones(8, 8))
    sms = SliceSum(A.codomain, caipi_phase(2, 8, shift=0.5)) @ A
    x = torch.randn(2, 8, 8, dtype=torch.complex128, generator=rng)
    torch.testing.assert_close(sms.solve(sms(x), max_iter=200, tol=1e-10), x, atol=1e-6, rtol=0)


def test_wrong_simultaneous_slices():
    space = Space((3, 4, 8, 6), torch.complex64, ("slice", "coil", "ky", "kx"))
    with pytest.raises(ShapeError, match=r"phase is \(2, 8, 1\) but k-space is .*slice 3, .*3, 8"):
        SliceSum(space, caipi_phase(2, 8, shift=0.5))
    with pytest.raises(ShapeError, match=r"it needs \(slice, coil, ky, kx\)"):
        SliceSum(Space((4, 8, 6), torch.complex64), torch.ones(1))


def band_limited(n, length, seed=0):
    """A periodic function of a few harmonics at ``n`` points of a field of view."""
    rng = torch.Generator().manual_seed(seed)
    position = (torch.arange(n, dtype=torch.float64) - n // 2) / n
    harmonics = torch.arange(-length, length + 1, dtype=torch.float64)
    weights = torch.randn(2 * length + 1, dtype=torch.complex128, generator=rng)
    return (weights * torch.exp(2j * math.pi * position[:, None] * harmonics)).sum(1)


@pytest.mark.parametrize(("coarse", "fine"), [(12, 20), (11, 24), (12, 17), (9, 9)])
def test_interpolation_is_exact_for_few_harmonics(coarse, fine):
    torch.testing.assert_close(interpolate(band_limited(coarse, 3), (fine,)),
                               band_limited(fine, 3))


@pytest.mark.parametrize(("n", "kept"), [(24, 12), (23, 12), (20, 9)])
def test_removing_oversampling_crops_the_image(n, kept, rng):
    image = torch.randn(2, 5, n, dtype=torch.complex128, generator=rng)
    kspace = remove_oversampling(fourier.fft(image, (-2, -1)), kept)
    first = n // 2 - kept // 2
    torch.testing.assert_close(fourier.ifft(kspace, (-2, -1)), image[..., first: first + kept])


def test_removing_oversampling_keeps_sigma(rng):
    noise = torch.randn(64, 64, 128, dtype=torch.complex64, generator=rng)
    # 1 / sqrt(2 * 64 * 64 * 64 * 2) is 0.1 %.
    assert float(remove_oversampling(noise, 64).std() / noise.std()) == pytest.approx(1, abs=0.005)


def test_an_image_larger_than_its_kspace(rng):
    A = CartesianMRI(random_maps((3, 16, 16), torch.float64, -3), torch.ones(16, 16))
    small = CentreCrop(A.codomain, (8, 10)) @ A
    x = torch.randn(16, 16, dtype=torch.complex128, generator=rng)
    torch.testing.assert_close(small(x), A(x)[:, 4:12, 3:13])
    zero_filled = small.adjoint(small(x))
    inside = torch.zeros(16, 16)
    inside[4:12, 3:13] = 1
    torch.testing.assert_close(zero_filled, CartesianMRI(A.maps, inside).normal(x))


@pytest.mark.parametrize("sizes", [(9, 4), (0, 4), (1, 2, 3, 4)])
def test_wrong_crop(sizes):
    with pytest.raises(ShapeError, match=r"CentreCrop: sizes are .*a size from 1 to its own"):
        CentreCrop(Space((3, 8, 6), torch.complex64), sizes)


@pytest.mark.parametrize("n", [0, 13])
def test_wrong_readout(n):
    with pytest.raises(ShapeError, match=rf"n is {n} but the readout has 12 samples"):
        remove_oversampling(torch.zeros(4, 12, dtype=torch.complex64), n)


def phantom(n):
    """A smooth real image with edges, and a smooth phase."""
    q = torch.linspace(-1, 1, n, dtype=torch.float64)
    magnitude = ((q / 0.8).square() + (q[:, None] / 0.6).square() < 1).double()
    magnitude = magnitude + 0.5 * ((q - 0.2).square() + q[:, None].square() < 0.05)
    return magnitude, 0.8 * q + 0.6 * q[:, None].square()


def test_partial_fourier_needs_the_phase():
    n = 64
    magnitude, phase = phantom(n)
    mask = partial_fourier((n, n), 5 / 8).mask
    A = CartesianMRI(torch.ones(1, n, n, dtype=torch.complex128), mask)
    y = A(torch.polar(magnitude, phase))
    estimated = low_resolution_phase(A.adjoint(y), (16, n))
    real = (A @ KnownPhase(estimated)).solve(y, damping=1e-3)
    zero_filled = A.adjoint(y).abs()

    def error(image):
        return float((image - magnitude).norm() / magnitude.norm())

    assert error((A @ KnownPhase(phase)).solve(y, max_iter=100)) < 0.01
    assert error(real) < 0.6 * error(zero_filled)


def test_low_resolution_phase_of_a_smooth_phase():
    magnitude, phase = phantom(64)
    image = torch.polar(torch.ones_like(magnitude), 0.2 * phase)
    found = low_resolution_phase(image, (24, 24))
    assert float((found - 0.2 * phase)[8:-8, 8:-8].abs().max()) < 0.02


def test_wrong_phase():
    with pytest.raises(ShapeError, match=r"phase is torch.complex64, \(4, 4\); pass finite rad"):
        KnownPhase(torch.zeros(4, 4, dtype=torch.complex64))
    with pytest.raises(ShapeError, match="pass finite radians"):
        KnownPhase(torch.full((4, 4), math.inf))
    with pytest.raises(ShapeError, match=r"sizes \(5, 4\); pass a complex image and sizes up to"):
        low_resolution_phase(torch.zeros(4, 4, dtype=torch.complex64), (5, 4))
