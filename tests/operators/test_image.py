"""Image operators against their definitions, term by term."""

from __future__ import annotations

import pytest
import torch

from medinv.errors import ShapeError
from medinv.operators import Blur, Identity, Inpainting, Patches, SliceDownsampling

DTYPES = [torch.float64, torch.complex128]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(("shape", "size"), [((7, 6), (3, 4)), ((1, 5), (1, 5)),
                                             ((4, 5, 6), (2, 3, 1)), ((6, 6), (6, 6))])
def test_blur_is_its_sum(shape, size, periodic, dtype, rng):
    psf = torch.randn(size, dtype=dtype, generator=rng)
    x = torch.randn(2, *shape, dtype=dtype, generator=rng)
    expected = torch.zeros_like(x)
    for at in torch.cartesian_prod(*map(torch.arange, size)).reshape(-1, len(size)).tolist():
        shift = [j - n // 2 for j, n in zip(at, size, strict=True)]
        expected += psf[tuple(at)] * shifted(x, shift, periodic)
    torch.testing.assert_close(Blur(psf, shape, periodic=periodic)(x), expected)


def shifted(x, shift, periodic):
    """``x[i - shift]``, with zeros or the other side outside the field."""
    for axis, s in zip(range(-len(shift), 0), shift, strict=True):
        x = x.roll(s, axis)
        if not periodic and s:
            n = x.shape[axis]
            x = x.index_fill(axis, torch.arange(n)[:s] if s > 0 else torch.arange(n)[s:], 0)
    return x


def test_blur_by_a_kernel_that_sums_to_one_keeps_a_constant():
    psf = torch.tensor([[1.0, 2.0, 1.0]]) / 4
    x = torch.ones(5, 8)
    torch.testing.assert_close(Blur(psf, (5, 8), periodic=True)(x), x)
    assert Blur(psf, (5, 8), periodic=True).norm() == pytest.approx(1)
    torch.testing.assert_close(Blur(psf, (5, 8))(x)[:, 1:-1], x[:, 1:-1])


def test_real_psf_blurs_complex_images(rng):
    psf, x = torch.rand(3, 3, generator=rng), torch.randn(6, 7, dtype=torch.complex64)
    A, B = Blur(psf, (6, 7), torch.complex64), Blur(psf, (6, 7))
    torch.testing.assert_close(A(x), torch.complex(B(x.real), B(x.imag)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_thick_slices_are_means(dtype, rng):
    x = torch.randn(2, 6, 3, 4, dtype=dtype, generator=rng)
    y = SliceDownsampling((6, 3, 4), 3, dtype=dtype)(x)
    torch.testing.assert_close(y, x.unflatten(1, (2, 3)).mean(2))


@pytest.mark.parametrize(("factor", "n"), [(2, 2), (2, 5), (3, 4), (1, 3), (4, 11)])
def test_slice_profile_is_its_sum(factor, n, rng):
    profile = torch.randn(n, dtype=torch.float64, generator=rng)
    x = torch.randn(12, 2, 1, dtype=torch.float64, generator=rng)
    expected = torch.zeros(12 // factor, 2, 1, dtype=torch.float64)
    for k in range(12 // factor):
        for j in range(n):
            i = factor * k + j - (n - factor) // 2
            if 0 <= i < 12:
                expected[k] += profile[j] * x[i]
    A = SliceDownsampling((12, 2, 1), factor, profile, torch.float64)
    torch.testing.assert_close(A(x), expected)


@pytest.mark.parametrize(("shape", "patch", "stride"), [
    ((7, 8), (3, 4), (2, 4)), ((5, 5), (5, 2), (1, 1)), ((4, 5, 6), (2, 3, 6), (2, 1, 5)),
])
def test_patches_cover_and_blend(shape, patch, stride, rng):
    A = Patches(shape, patch, stride, torch.float64)
    x = torch.randn(2, *shape, dtype=torch.float64, generator=rng)
    y = A(x)
    assert torch.equal(y[:, 0], x[(..., *(slice(p) for p in patch))])
    assert torch.equal(y[:, -1], x[(..., *(slice(-p, None) for p in patch))])
    assert A.counts.min() >= 1
    torch.testing.assert_close(A.adjoint(y) / A.counts, x)


def test_patches_of_torch_unfold(rng):
    x = torch.randn(8, 9, generator=rng)
    expected = x.unfold(0, 4, 2).unfold(1, 3, 3).reshape(-1, 4, 3)
    assert torch.equal(Patches((8, 9), (4, 3), (2, 3))(x), expected)


def test_inpainting_ignores_what_is_masked():
    A = Inpainting(torch.tensor([[True, False]]))
    assert A(torch.tensor([[1.0, float("nan")]])).tolist() == [[1, 0]]
    assert A.norm() == 1
    assert Inpainting(torch.zeros(1, 2)).norm() == 0


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Identity((2, 3, 4, 5)), r"shape is \(2, 3, 4, 5\); pass \(y, x\)"),
    (lambda: Identity((0, 3)), "each at least 1"),
    (lambda: Identity((2, 3), torch.int64), "dtype is torch.int64; pass a real or complex"),
    (lambda: Inpainting(torch.tensor([[0.5, 1]])), "values other than 0 and 1; pass `mask != 0`"),
    (lambda: Blur(torch.ones(3), (4, 4)), r"psf is \(3,\) but the image is \(4, 4\)"),
    (lambda: Blur(torch.ones(5, 3), (4, 4)), "not larger"),
    (lambda: Blur(torch.ones(3, 3) * 1j, (4, 4), torch.float32), "pass psf.real"),
    (lambda: Blur(torch.full((3, 3), float("nan")), (4, 4)), "NaN or infinite"),
    (lambda: Blur(torch.ones(3, 3, dtype=torch.int32), (4, 4)), "dtype is torch.int32"),
    (lambda: SliceDownsampling((7, 4, 4), 2), "z a multiple of factor"),
    (lambda: SliceDownsampling((8, 4), 2), r"pass \(z, y, x\)"),
    (lambda: SliceDownsampling((8, 4, 4), 0), "factor 0"),
    (lambda: SliceDownsampling((8, 4, 4), 4, torch.ones(3)), "at least factor = 4"),
    (lambda: SliceDownsampling((8, 4, 4), 2, torch.ones(2) / 0), "NaN or infinite"),
    (lambda: Patches((8, 8), (9, 2), (1, 1)), "1 <= stride <= patch <= image"),
    (lambda: Patches((8, 8), (2, 2), (3, 1)), "1 <= stride <= patch <= image"),
    (lambda: Patches((8, 8), (2,), (1,)), "one number per axis"),
])
def test_wrong_arguments(make, message):
    with pytest.raises(ShapeError, match=message):
        make()
