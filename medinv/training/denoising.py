"""The denoising score-matching loss, for priors trained on clean images.

Vincent 2011; Karras et al. 2022 (arXiv:2206.00364), equations 2 and 8: with s = sigma_data and
``log(sigma / (2 s)) ~ N(noise_mean, noise_std^2)``,

    loss = E  (sigma^2 + s^2) / (sigma s)^2  |D(x0 + sigma n, sigma) - x0|^2

The minimiser is the posterior mean ``E[x0 | x]`` whatever the weight.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from medinv.priors.edm import to_channels

Denoise = Callable[[Tensor, Tensor], Tensor]


def draw_sigma(n: int, sigma_data: float, mean: float, std: float, rng: Generator) -> Tensor:
    """Noise levels (n,) of a training batch, log-normal."""
    return 2 * sigma_data * (mean + std * torch.randn(n, generator=rng)).exp()


def denoising_loss(denoise: Denoise, sigma_data: float, x0: Tensor, sigma: Tensor,
                   rng: Generator) -> Tensor:
    """Weighted mean squared error of each item.

    Args:
        denoise: ``D`` on real channels, ``(b, channels, *z, y, x), (b,)``: that of
            `NetworkPrior`.
        sigma_data: root mean square of the data per real component.
        x0: clean images or stacks (b, *z, y, x) in prior units, real or complex.
        sigma: noise level of each item (b,), std of each real component.
        rng: where the noise comes from.

    Returns:
        The loss of each item (b,).
    """
    clean = to_channels(x0)
    noise = torch.randn(clean.shape, generator=rng).to(clean.device)
    level = sigma.reshape(-1, *[1] * (clean.ndim - 1))
    denoised = denoise(clean + level * noise, sigma)
    weight = (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()
    return weight * (denoised - clean).square().flatten(1).mean(1)
