from __future__ import annotations

import numpy as np
import pytest
import sigpy
import torch

from medinv.operators import fourier

SHAPES = [(8,), (7,), (1,), (6, 5), (4, 3, 7)]


@pytest.mark.parametrize("shape", SHAPES)
def test_matches_its_definition(shape, rng):
    x = torch.randn(shape, dtype=torch.complex128, generator=rng)
    expected = x
    for axis, n in enumerate(shape):
        i = torch.arange(n, dtype=torch.float64) - n // 2
        matrix = torch.exp(-2j * torch.pi * i[:, None] * i / n) / n**0.5
        expected = (matrix @ expected.movedim(axis, 0).flatten(1)).reshape(
            expected.movedim(axis, 0).shape).movedim(0, axis) if x.ndim > 1 else matrix @ expected
    torch.testing.assert_close(fourier.fft(x, range(x.ndim)), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_inverse_and_norm(shape, rng):
    x = torch.randn(2, *shape, dtype=torch.complex128, generator=rng)
    axes = range(1, x.ndim)
    spectrum = fourier.fft(x, axes)
    torch.testing.assert_close(fourier.ifft(spectrum, axes), x)
    torch.testing.assert_close(spectrum.norm(), x.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_sigpy(shape, rng):
    x = torch.randn(shape, dtype=torch.complex128, generator=rng)
    np.testing.assert_allclose(fourier.fft(x, range(x.ndim)), sigpy.fft(x.numpy()), atol=1e-12)


def test_a_centred_point_has_a_flat_real_spectrum():
    x = torch.zeros(5, 6)
    x[2, 3] = 1
    torch.testing.assert_close(fourier.fft(x, (0, 1)),
                               torch.full((5, 6), 30**-0.5, dtype=torch.complex64))
