"""Closed-form priors against numerical integration, dense algebra and each other."""

import pytest
import torch

from medinv.errors import ShapeError
from medinv.priors import GaussianMixturePrior, GaussianPrior


def random_covariance(n, dtype, seed=0):
    rng = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, dtype=dtype, generator=rng) / n**0.5
    return root @ root.mH + 0.1 * torch.eye(n, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gaussian_denoiser_is_the_regression_of_clean_on_noisy(dtype):
    """D is linear with gain C (C + sigma^2)^-1, also for a correlated complex covariance."""
    covariance = random_covariance(6, dtype)
    mean = torch.arange(6).to(dtype).reshape(2, 3)
    prior = GaussianPrior(mean, covariance)
    x = torch.randn(4, 2, 3, dtype=dtype, generator=torch.Generator().manual_seed(1))
    gain = covariance @ torch.linalg.inv(covariance + 0.3**2 * torch.eye(6, dtype=dtype))
    expected = mean + ((x - mean).flatten(1) @ gain.T).reshape(4, 2, 3)
    torch.testing.assert_close(prior(x, 0.3), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_samples_have_the_covariance_of_each_real_component(dtype):
    covariance = random_covariance(3, dtype)
    prior = GaussianPrior(torch.ones(3, dtype=dtype), covariance)
    x = prior.sample(200_000, torch.Generator().manual_seed(0)) - 1
    share = 2 if dtype.is_complex else 1
    # 200,000 draws: relative standard error about 0.3 %
    torch.testing.assert_close(x.T @ x.conj() / len(x) / share, covariance, atol=0.02, rtol=0)


def test_each_item_has_its_own_noise_level():
    prior = GaussianPrior(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    x = torch.ones(2, 2, dtype=torch.float64)
    sigma = torch.tensor([1.0, 3.0], dtype=torch.float64)
    expected = torch.tensor([0.5, 0.1], dtype=torch.float64)
    torch.testing.assert_close(prior(x, sigma)[:, 0], expected)


def test_mixture_denoiser_matches_numerical_integration():
    """One dimension: E[x0 | x] by quadrature of the joint density."""
    means, variances, weights = (-1.0, 2.0), (0.2, 0.5), (0.3, 0.7)
    one = torch.ones(1, dtype=torch.float64)
    components = [
        GaussianPrior(m * one, v * one[:, None]) for m, v in zip(means, variances, strict=True)
    ]
    prior = GaussianMixturePrior(torch.tensor(weights, dtype=torch.float64), components)
    grid = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    density = sum(w / v**0.5 * (-((grid - m) ** 2) / (2 * v)).exp()
                  for w, m, v in zip(weights, means, variances, strict=True))
    for value in (-2.0, 0.4, 1.0):
        likelihood = density * (-((value - grid) ** 2) / (2 * 0.8**2)).exp()
        expected = (grid * likelihood).sum() / likelihood.sum()
        got = prior(torch.tensor([value], dtype=torch.float64), 0.8)[0]
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_complex_mixture_equals_the_stacked_real_one():
    """A circular complex item is a real item of twice the size."""
    components, stacked = [], []
    for k in range(2):
        mean = torch.tensor([1.0 + k, -1j * k], dtype=torch.complex128)
        c = random_covariance(2, torch.complex128, seed=k)
        components.append(GaussianPrior(mean, c))
        real = torch.cat([torch.cat([c.real, -c.imag], 1), torch.cat([c.imag, c.real], 1)])
        stacked.append(GaussianPrior(torch.cat([mean.real, mean.imag]), real))
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64)
    x = torch.tensor([0.7 + 0.2j, 0.1 - 0.5j], dtype=torch.complex128)
    got = GaussianMixturePrior(weights, components)(x, 0.5)
    expected = GaussianMixturePrior(weights, stacked)(torch.cat([x.real, x.imag]), 0.5)
    torch.testing.assert_close(torch.cat([got.real, got.imag]), expected)


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match=r"expected \(4, 4\)"):
        GaussianPrior(torch.zeros(2, 2), torch.eye(3))
    component = GaussianPrior(torch.zeros(1), torch.eye(1))
    with pytest.raises(ShapeError, match="sum 1"):
        GaussianMixturePrior(torch.tensor([0.5]), [component])
