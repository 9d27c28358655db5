"""Metrics against their formulas, a second SSIM, and the convention."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from medinv.errors import InputError, ShapeError
from medinv.evaluation import measurement_residual, nrmse, psnr, ssim
from medinv.operators import CartesianMRI

SHAPE = (3, 20, 17)


@pytest.fixture
def pair(rng):
    reference = torch.rand(SHAPE, generator=rng, dtype=torch.float64) * 5
    return reference + 0.3 * torch.randn(SHAPE, generator=rng, dtype=torch.float64), reference


def test_psnr_takes_the_maximum_of_the_volume(pair):
    image, reference = pair
    expected = 20 * math.log10(reference.max() / (image - reference).square().mean().sqrt())
    assert psnr(image, reference) == pytest.approx(expected, rel=1e-12)
    assert psnr(reference, reference) == math.inf


def test_nrmse(pair):
    image, reference = pair
    expected = np.linalg.norm(image - reference) / np.linalg.norm(reference)
    assert nrmse(image, reference) == pytest.approx(expected, rel=1e-12)


def ssim_by_scipy(image: np.ndarray, reference: np.ndarray) -> float:
    """Wang et al. 2004 with SciPy's filters: 7 x 7 uniform windows, sample covariance."""
    def mean(a: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(a, 7)[3:-3, 3:-3]

    peak, values = reference.max(), []
    for x, y in zip(image, reference, strict=True):
        var_x = 49 / 48 * (mean(x * x) - mean(x) ** 2)
        var_y = 49 / 48 * (mean(y * y) - mean(y) ** 2)
        cov = 49 / 48 * (mean(x * y) - mean(x) * mean(y))
        c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
        values.append((2 * mean(x) * mean(y) + c1) / (mean(x) ** 2 + mean(y) ** 2 + c1)
                      * (2 * cov + c2) / (var_x + var_y + c2))
    return float(np.mean(values))


def test_ssim_agrees_with_another_implementation(pair):
    image, reference = pair
    assert ssim(image, reference) == pytest.approx(
        ssim_by_scipy(image.numpy(), reference.numpy()), rel=1e-10
    )


@pytest.mark.parametrize("metric", [psnr, nrmse, ssim])
def test_complex_images_are_compared_by_magnitude(metric, pair):
    image, reference = (x.abs() for x in pair)
    turned = torch.polar(image, torch.full_like(image, 1.2))
    complex_reference = reference.to(torch.complex128)
    assert metric(turned, complex_reference) == pytest.approx(metric(image, reference))


@pytest.mark.parametrize("metric", [psnr, nrmse, ssim])
def test_only_the_region_counts(metric, pair):
    image, reference = pair
    roi = torch.zeros(SHAPE, dtype=torch.bool)
    roi[1, 8:12, 8:12] = True
    spoiled = image.clone()
    spoiled[0] = 100.0  # another slice: outside of every window of the region
    assert metric(spoiled, reference, roi) == metric(image, reference, roi)
    assert metric(spoiled, reference) != metric(image, reference)


@pytest.mark.parametrize("metric", [psnr, nrmse, ssim])
def test_no_hidden_rescaling(metric, pair):
    """A gain error is an error."""
    _, reference = pair
    perfect = metric(reference, reference)
    assert metric(1.1 * reference, reference) != perfect
    assert metric(reference + 0.1, reference) != perfect


@pytest.mark.parametrize("metric", [psnr, nrmse, ssim])
def test_refusals(metric, pair):
    image, reference = pair
    with pytest.raises(ShapeError, match="must have one shape"):
        metric(image[:2], reference)
    with pytest.raises(ShapeError, match="roi"):
        metric(image, reference, torch.ones(2, 20, 17, dtype=torch.bool))
    with pytest.raises(InputError, match="must be positive"):
        metric(image, -reference)
    with pytest.raises(InputError, match="NaN or Inf"):
        metric(image * math.nan, reference)
    with pytest.raises(InputError, match="empty"):
        metric(image, reference, torch.zeros(SHAPE, dtype=torch.bool))


def test_ssim_needs_room_for_a_window(pair):
    image, reference = pair
    with pytest.raises(ShapeError, match="at least 7 x 7"):
        ssim(image[:, :6], reference[:, :6])
    corner = torch.zeros(SHAPE, dtype=torch.bool)
    corner[:, 0, 0] = True
    with pytest.raises(InputError, match="no window"):
        ssim(image, reference, corner)


def test_nrmse_needs_signal(pair):
    image, reference = pair
    reference[0] = 0
    roi = torch.zeros(SHAPE, dtype=torch.bool)
    roi[0] = True
    with pytest.raises(InputError, match="zero on the region"):
        nrmse(image, reference, roi)


def test_measurement_residual(rng):
    maps = torch.ones(1, 8, 8, dtype=torch.complex64)
    A = CartesianMRI(maps=maps, mask=torch.ones(8, 8, dtype=torch.bool))
    x = torch.randn(8, 8, dtype=torch.complex64, generator=rng)
    y = A(x)
    assert measurement_residual(x, y, A) == 0
    assert measurement_residual(0 * x, y, A) == pytest.approx(1)
    assert measurement_residual(1.5 * x, y, A) == pytest.approx(0.5, rel=1e-5)  # float32
    with pytest.raises(InputError, match="y is zero"):
        measurement_residual(x, 0 * y, A)
    with pytest.raises(ShapeError, match="measurement_residual"):
        measurement_residual(x, y[..., :4], A)
