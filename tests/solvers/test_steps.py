"""Steps from one noise level to the next, against their formulas."""

import pytest
import torch

from medinv.samplers import ddim_split, langevin


def test_ddim_s_share_of_fresh_noise():
    """eta sigma' sqrt(1 - (sigma' / sigma)^2), and sigma'^2 in all."""
    c_eps, c_noise = ddim_split(0.5, sigma=2.0, sigma_next=1.0)
    assert c_noise == pytest.approx(0.5 * 0.75**0.5)
    assert c_eps**2 + c_noise**2 == pytest.approx(1.0)


def test_the_corrector_s_step():
    """eps = 2 (snr |n| / |score|)^2 for each item."""
    x, D = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    noise = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1))
    score = (D - x) / 0.25
    eps = 2 * (0.16 * noise.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)) ** 2
    eps = eps[:, None, None]
    got = langevin(x.clone(), D, 0.5, 0.16, 2, lambda like: noise)  # noqa: ARG005
    torch.testing.assert_close(got, x + eps * score + (2 * eps).sqrt() * noise)
