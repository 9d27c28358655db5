from __future__ import annotations

import math

import pytest
import torch

from medinv.errors import InputError, ShapeError
from medinv.operators import CartesianMRI, fourier
from medinv.operators.coil_data import (
    CoilTransform,
    ReadoutCoilTransform,
    geometric_compression,
    noise_from_corners,
    prewhitening_matrix,
    svd_compression,
)
from tests.cases import random_maps
from tests.operators.test_coils import smooth_maps

SHAPE = (24, 20)


@pytest.fixture(scope="module")
def scan():
    """Maps of 8 coils, an image and its k-space."""
    maps = smooth_maps(8, SHAPE)
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(SHAPE, dtype=torch.complex64, generator=rng)
    return maps, image, fourier.fft(maps * image, (-2, -1))


def correlated(n_coils, n, rng, sigma=1.0):
    mixing = torch.randn(n_coils, n_coils, dtype=torch.complex64, generator=rng)
    white = math.sqrt(2) * torch.randn(n_coils, n, dtype=torch.complex64, generator=rng)
    return sigma * mixing @ white


def covariance(noise):
    return noise @ noise.mH / noise.shape[1]


def test_whitened_noise_has_sigma_one_and_no_correlation(rng):
    noise = correlated(6, 20000, rng, sigma=7.0)
    calibration, test = noise[:, :10000], noise[:, 10000:]
    white = CoilTransform(prewhitening_matrix(calibration)).kspace(test[..., None])[..., 0]
    # Entries of a covariance of 10^4 samples scatter by 2 / 100; two of them are compared.
    torch.testing.assert_close(covariance(white), 2 * torch.eye(6) + 0j, atol=0.12, rtol=0)
    assert float(white.real.std()) == pytest.approx(1, abs=0.02)
    assert float(white.imag.std()) == pytest.approx(1, abs=0.02)
    itself = CoilTransform(prewhitening_matrix(test)).kspace(test[..., None])[..., 0]
    torch.testing.assert_close(covariance(itself), 2 * torch.eye(6) + 0j, atol=1e-3, rtol=0)


def test_whitened_kspace_and_maps_fit_together(scan, rng):
    maps, image, kspace = scan
    white = CoilTransform(prewhitening_matrix(correlated(8, 500, rng)))
    A = CartesianMRI(white.maps(maps), torch.ones(SHAPE))
    torch.testing.assert_close(A(image), white.kspace(kspace), atol=1e-4, rtol=1e-4)


def test_corners_hold_the_noise(scan, rng):
    _, _, kspace = scan
    ky, kx = (torch.arange(n) - n // 2 for n in SHAPE)
    signal = torch.where(torch.hypot(ky[:, None] / 24, kx / 20) < 0.3, 100 * kspace, 0)
    noise = correlated(8, 24 * 20 * 40, rng).reshape(8, 40, *SHAPE).movedim(1, 0)
    samples = noise_from_corners(signal + noise, fraction=0.2)
    assert samples.shape == (8, round(0.2 * 40 * 24 * 20))
    found, truth = covariance(samples), covariance(noise.movedim(1, 0).flatten(1))
    assert (found - truth).norm() < 0.05 * truth.norm()


def test_corners_of_undersampled_kspace_hold_no_empty_sample(scan):
    kspace = scan[2].clone()
    kspace[:, ::2] = 0
    assert (noise_from_corners(kspace, fraction=0.1) != 0).all()


def test_svd_keeps_the_energy_of_what_the_coils_share(rng):
    maps = torch.tensordot(torch.randn(8, 3, dtype=torch.complex64, generator=rng),
                           random_maps((3, *SHAPE), torch.float32, -3), 1)
    kspace = fourier.fft(maps, (-2, -1))
    compress = svd_compression(kspace, 3)
    assert float(compress.kspace(kspace).norm() / kspace.norm()) == pytest.approx(1, abs=1e-5)
    identity = compress.matrix @ compress.matrix.mH
    torch.testing.assert_close(identity, torch.eye(3) + 0j, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [-1, -2])
def test_geometric_compression_keeps_more_than_svd(scan, axis):
    _, _, kspace = scan
    whole, each = svd_compression(kspace, 3), geometric_compression(kspace, 3, axis=axis)
    assert kspace.norm() > each.kspace(kspace).norm() > whole.kspace(kspace).norm()


@pytest.mark.parametrize("compress", [svd_compression, geometric_compression])
def test_compressed_kspace_and_maps_fit_together(scan, compress):
    maps, image, kspace = scan
    transform = compress(kspace, 4)
    A = CartesianMRI(transform.maps(maps), torch.ones(SHAPE))
    torch.testing.assert_close(A(image), transform.kspace(kspace), atol=1e-4, rtol=1e-4)


def test_virtual_coils_are_aligned_along_the_readout(scan):
    matrix = geometric_compression(scan[2], 3).matrix
    turn = torch.linalg.matrix_norm(matrix[1:] @ matrix[:-1].mH - torch.eye(3))
    assert float(turn.max()) < 0.2  # without alignment neighbours differ by more than 1
    rows = matrix @ matrix.mH
    torch.testing.assert_close(rows, (torch.eye(3) + 0j).expand_as(rows), atol=1e-5, rtol=0)


def test_volumes_and_slices(rng):
    volume = torch.randn(4, 3, 5, 6, dtype=torch.complex64, generator=rng)
    compress = svd_compression(volume, 2, ndim=3)
    assert compress.kspace(volume, ndim=3).shape == (2, 3, 5, 6)
    each = geometric_compression(volume, 2, axis=-2, ndim=3)
    assert each.matrix.shape == (5, 2, 4)
    assert each.kspace(volume, ndim=3).shape == (2, 3, 5, 6)
    slices = volume.movedim(1, 0)
    torch.testing.assert_close(compress.kspace(slices), compress.kspace(volume, ndim=3).movedim(
        1, 0))


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda y: svd_compression(y, 9), InputError, "9 virtual coils from 8; pass a number from 1"),
    (lambda y: svd_compression(y, 0), InputError, "0 virtual coils from 8"),
    (lambda y: svd_compression(y.real, 2), ShapeError, r"svd_compression: k-space is \(8, 24, 20"),
    (lambda y: svd_compression(0 * y, 2), InputError, "k-space is 0 everywhere or holds NaN"),
    (lambda y: svd_compression(y * math.nan, 2), InputError, "holds NaN or infinite"),
    (lambda y: geometric_compression(y, 2, axis=0), InputError, "axis is 0; count the readout"),
    (lambda y: geometric_compression(y * (torch.rand(SHAPE) > 0.5), 2), InputError,
     "readouts along axis -1 are sampled in part"),
    (lambda _: prewhitening_matrix(torch.zeros(0, 9) + 0j), InputError, "for 0 coils"),
    (lambda y: noise_from_corners(y, fraction=0), InputError, r"fraction is 0; pass a number in"),
    (lambda y: prewhitening_matrix(y.real), ShapeError, "noise is torch.float32"),
    (lambda y: prewhitening_matrix(y[:, 0, :3]), InputError, "3 noise samples for 8 coils"),
    (lambda y: prewhitening_matrix(y[[0, 0]]), InputError, "covariance is singular"),
    (lambda y: prewhitening_matrix(y * math.nan), InputError, "covariance is singular"),
    (lambda y: CoilTransform(torch.eye(3) + 0j).kspace(y), ShapeError, "expected 3 coils before"),
    (lambda y: ReadoutCoilTransform(torch.zeros(5, 2, 8) + 0j).kspace(y), ShapeError,
     "the readout has 20 samples but the matrix 5"),
])
def test_wrong_arguments(scan, call, error, message):
    with pytest.raises(error, match=message):
        call(scan[2])
