from __future__ import annotations

import math

import numpy as np
import pytest
import sigpy.mri
import torch

from medinv.errors import ShapeError
from medinv.operators import CartesianMRI, NonCartesianMRI, mri
from tests.cases import random_maps, random_mask

MAPS = torch.ones(15, 32, 36, dtype=torch.complex64)


@pytest.mark.parametrize("shape", [(3, 8, 6), (3, 7, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_sigpy_sense_2d(shape, dtype, rng):
    maps, mask = random_maps(shape, dtype, -3), random_mask(*shape[1:])
    A = CartesianMRI(maps, mask)
    peer = sigpy.mri.linop.Sense(maps.numpy(), weights=mask.numpy().astype(float))
    x = torch.randn(shape[1:], dtype=maps.dtype, generator=rng)
    atol = 1e-6 if dtype == torch.float32 else 1e-13
    np.testing.assert_allclose(A(x), peer(x.numpy()), atol=atol)
    np.testing.assert_allclose(A.normal(x), peer.N(x.numpy()), atol=atol)


def test_equals_sigpy_sense_3d(rng):
    maps, mask = random_maps((3, 4, 5, 7), torch.float64, -4), random_mask(4, 5, 7)
    peer = sigpy.mri.linop.Sense(maps.numpy(), weights=mask.numpy().astype(float))
    x = torch.randn(4, 5, 7, dtype=maps.dtype, generator=rng)
    np.testing.assert_allclose(CartesianMRI(maps, mask, ndim=3)(x), peer(x.numpy()), atol=1e-13)


def test_equals_sigpy_sense_with_two_sets(rng):
    maps, mask = random_maps((2, 3, 6, 5), torch.float64, -3), random_mask(6, 5)
    weights = mask.numpy().astype(float)
    x = torch.randn(2, 6, 5, dtype=maps.dtype, generator=rng)
    expected = sum(sigpy.mri.linop.Sense(maps[s].numpy(), weights=weights)(x[s].numpy())
                   for s in range(2))
    np.testing.assert_allclose(CartesianMRI(maps, mask, sets=True)(x), expected, atol=1e-13)


@pytest.mark.parametrize("block_bytes", [1, 1500, 10**6])
@pytest.mark.parametrize("mask_shape", [(6,), (5, 6), (4, 5, 6)])
def test_blocks_do_not_change_the_result(block_bytes, mask_shape, rng, monkeypatch):
    A = CartesianMRI(random_maps((4, 3, 5, 6), torch.float64, -3), random_mask(*mask_shape))
    x = torch.randn(2, 4, 5, 6, dtype=torch.complex128, generator=rng)
    expected = A(x), A.normal(x), A.adjoint(A(x))
    monkeypatch.setitem(mri._BLOCK_BYTES, "cpu", block_bytes)
    for result, reference in zip((A(x), A.normal(x), A.adjoint(A(x))), expected, strict=True):
        torch.testing.assert_close(result, reference)


@pytest.mark.parametrize(("mask", "axes"), [
    (random_mask(6), (-1,)), (random_mask(5, 1), (-2,)), (random_mask(5, 6), (-2, -1)),
    (torch.ones(5, 6), ()), (random_mask(6).expand(5, 6), (-1,)),
])
def test_normal_transforms_only_undersampled_axes(mask, axes, rng, monkeypatch):
    A = CartesianMRI(random_maps((3, 5, 6), torch.float64, -3), mask)
    transformed = set()
    fftn = torch.fft.fftn

    def spy(x, dim):
        transformed.update(dim)
        return fftn(x, dim=dim)

    monkeypatch.setattr(torch.fft, "fftn", spy)
    A.normal(torch.ones(5, 6, dtype=torch.complex128))
    assert transformed == set(axes)


def test_a_3d_operator_mixes_slices_and_a_2d_one_does_not(rng):
    x = torch.zeros(4, 5, 6, dtype=torch.complex64)
    x[1, 2, 3] = 1
    maps = random_maps((3, 4, 5, 6), torch.float32, -4)
    volume = CartesianMRI(maps, torch.ones(4, 5, 6), ndim=3)
    slices = CartesianMRI(random_maps((4, 3, 5, 6), torch.float32, -3), torch.ones(5, 6))
    assert (volume(x).abs().sum((0, 2, 3)) > 0).all()
    assert (slices(x).abs().sum((1, 2, 3)) > 0).tolist() == [False, True, False, False]


def test_unsampled_data_are_ignored_even_if_not_finite(rng):
    mask = random_mask(5, 6)
    A = CartesianMRI(random_maps((3, 5, 6), torch.float32, -3), mask)
    y = torch.randn(3, 5, 6, dtype=torch.complex64, generator=rng)
    broken = torch.where(mask, y, math.nan)
    torch.testing.assert_close(A.adjoint(broken), A.adjoint(y))
    assert (A(A.adjoint(y))[..., ~mask] == 0).all()


def test_norm_is_at_most_one_for_normalised_maps():
    A = CartesianMRI(random_maps((4, 16, 16), torch.float32, -3), random_mask(16))
    assert A.norm() <= 1 + 1e-6


def ellipse_image(n, half_x, half_y, x0, y0, oversampling=16):
    """Area fraction of each pixel that an axis-parallel ellipse covers; lengths in pixels."""
    fine = (torch.arange(n * oversampling, dtype=torch.float64) + 0.5) / oversampling
    fine = fine - 0.5 - n // 2
    inside = ((fine - x0) / half_x) ** 2 + ((fine[:, None] - y0) / half_y) ** 2 <= 1
    blocks = inside.double().reshape(n, oversampling, n, oversampling)
    return blocks.mean((1, 3))


def ellipse_spectrum(n, half_x, half_y, x0, y0):
    """Its continuous Fourier transform at the frequencies of the centred, orthonormal FFT."""
    k = (torch.arange(n, dtype=torch.float64) - n // 2) / n
    radius = 2 * math.pi * torch.hypot(half_x * k, half_y * k[:, None])
    jinc = torch.where(radius > 0, torch.special.bessel_j1(radius) / radius.clamp_min(1e-9), 0.5)
    phase = torch.exp(-2j * math.pi * (x0 * k + y0 * k[:, None]))
    return 2 * math.pi * half_x * half_y * jinc * phase / n


@pytest.mark.parametrize("n", [64, 65])
def test_spectrum_of_an_off_centre_ellipse(n):
    ellipse = {"half_x": 17.0, "half_y": 11.0, "x0": 6.5, "y0": -4.0}
    A = CartesianMRI(torch.ones(1, n, n, dtype=torch.complex128), torch.ones(n, n))
    y = A(ellipse_image(n, **ellipse).to(torch.complex128))[0]
    expected = ellipse_spectrum(n, **ellipse)
    # Pixels blur the object, which shows from a few cycles on; the inner spectrum must agree.
    inner = (slice(n // 2 - 4, n // 2 + 5),) * 2
    error = (y - expected)[inner].norm() / expected[inner].norm()
    assert error < 5e-3


def ellipse_error(n):
    """Over the frequencies of a 16-pixel grid of the same field of view."""
    ellipse = {"half_x": 0.27 * n, "half_y": 0.17 * n, "x0": 0.1 * n, "y0": -0.06 * n}
    A = CartesianMRI(torch.ones(1, n, n, dtype=torch.complex128), torch.ones(n, n))
    y = A(ellipse_image(n, **ellipse).to(torch.complex128))[0]
    expected = ellipse_spectrum(n, **ellipse)
    inner = (slice(n // 2 - 8, n // 2 + 9),) * 2
    return float((y - expected)[inner].norm() / expected[inner].norm())


def test_error_of_an_ellipse_falls_with_the_square_of_the_pixel():
    errors = [ellipse_error(n) for n in (32, 64, 128)]
    # A pixel's mean blurs by 1 - O(h^2) at a fixed frequency.
    assert errors[0] > 3.5 * errors[1] > 3.5**2 * errors[2]
    assert errors[2] < 2e-3


def test_frames_share_the_maps_and_have_their_own_masks(rng):
    maps, masks = random_maps((2, 3, 5, 6), torch.float64, -3), random_mask(4, 1, 5, 6)
    A = CartesianMRI(maps, masks, time_ndim=1)
    x = torch.randn(4, 2, 5, 6, dtype=torch.complex128, generator=rng)
    assert A.maps.data_ptr() == maps.data_ptr()
    assert A.maps.numel() == maps.numel()
    for t in range(4):
        torch.testing.assert_close(A(x)[t], CartesianMRI(maps, masks[t, 0])(x[t]))


def test_frames_of_a_volume(rng):
    maps, masks = random_maps((3, 4, 5, 6), torch.float64, -4), random_mask(2, 4, 5, 1)
    A = CartesianMRI(maps, masks, ndim=3, time_ndim=1)
    x = torch.randn(2, 4, 5, 6, dtype=torch.complex128, generator=rng)
    for t in range(2):
        torch.testing.assert_close(A(x)[t], CartesianMRI(maps, masks[t], ndim=3)(x[t]))


def test_maps_may_be_any_view_and_masks_integers(rng):
    maps = random_maps((6, 5, 3), torch.float64, -1)
    mask = random_mask(5, 6)
    x = torch.randn(5, 6, dtype=torch.complex128, generator=rng)
    expected = CartesianMRI(maps.permute(2, 1, 0).contiguous(), mask)(x)
    torch.testing.assert_close(CartesianMRI(maps.permute(2, 1, 0), mask.int())(x), expected)
    conjugate = CartesianMRI(maps.permute(2, 1, 0).conj().conj(), mask)
    torch.testing.assert_close(conjugate(x), expected)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"mask": torch.ones(32, 32)},
     r"mask is \(32, 32\) but maps are \(15, 32, 36\); crop k-space or pass a mask for ky, kx = "
     r"32, 36\."),
    ({"mask": torch.ones(15, 32, 36)}, r"crop k-space or pass a mask for ky, kx = 32, 36\."),
    ({"mask": torch.ones(2, 32, 36), "maps": MAPS.expand(4, 15, 32, 36)},
     r"pass a mask for slices, ky, kx = 4, 32, 36\."),
    ({"mask": torch.full((32, 36), 0.5)}, r"values other than 0 and 1; pass `mask != 0`"),
    ({"maps": MAPS.real}, r"maps are torch.float32; pass complex64 or complex128"),
    ({"maps": MAPS[0]}, r"maps are \(32, 36\) but ndim=2, sets=False need \(\*slices, coil, y, x"),
    ({"sets": True}, r"need \(\*slices, set, coil, y, x\); add the missing axis"),
    ({"ndim": 3, "maps": MAPS}, r"need \(coil, z, y, x\); add the missing axis"),
    ({"maps": torch.full((15, 32, 36), math.nan + 0j)}, "maps hold NaN or infinite values"),
    ({"maps": MAPS.real.int()}, r"maps are torch.int32; pass complex64"),
    ({"mask": torch.ones(32, 36, device="meta")}, "mask is on meta but maps are on cpu; move one"),
    ({"time_ndim": 1}, r"mask is \(32, 36\) but time_ndim=1 needs \(\*time, ky, kx\)"),
    ({"time_ndim": 1, "mask": torch.ones(4, 3, 36)}, r"for time, ky, kx = 4, 32, 36\."),
    ({"ndim": 1}, r"ndim is 1; pass 2 for slices or 3 for a volume"),
])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ShapeError, match="CartesianMRI: .*" + message):
        CartesianMRI(**{"maps": MAPS, "mask": torch.ones(32, 36), **arguments})


def test_wrong_coil_count_and_size_name_the_axes():
    A = CartesianMRI(MAPS, torch.ones(36))
    message = r"adjoint: expected \(\*batch, coil 15, ky 32, kx 36\), got \(8, 32, 36\)"
    with pytest.raises(ShapeError, match=message):
        A.adjoint(torch.zeros(8, 32, 36, dtype=torch.complex64))
    with pytest.raises(ShapeError, match=r"expected \(\*batch, y 32, x 36\), got \(32, 32\)"):
        A(torch.zeros(32, 32, dtype=torch.complex64))


def test_an_empty_mask_has_no_normalized_form():
    with pytest.raises(ShapeError, match="is the mask empty"):
        CartesianMRI(MAPS, torch.zeros(36)).normalized()


@pytest.mark.parametrize("make", [
    lambda c: CartesianMRI(c(0, 8, 8), torch.ones(8, 8)),
    lambda c: CartesianMRI(c(0, 2, 8, 8), torch.ones(8, 8)),
    lambda c: CartesianMRI(c(0, 2, 8, 8), torch.ones(8, 8), sets=True),
    lambda c: CartesianMRI(c(2, 8, 8), torch.ones(0, 8, 8), time_ndim=1),
    lambda c: CartesianMRI(c(2, 0, 8), torch.ones(0, 8)),
    lambda c: NonCartesianMRI(c(0, 8, 8), torch.zeros(4, 2)),
    lambda c: NonCartesianMRI(c(0, 2, 8, 8), torch.zeros(4, 2)),
])
def test_no_coils_slices_or_frames(make):
    with pytest.raises(ShapeError, match="expected at least one element along each axis"):
        make(lambda *shape: torch.zeros(shape, dtype=torch.complex64))
