"""Predictor-corrector sampling of the variance-exploding SDE.

Song et al., "Score-based generative modeling through stochastic differential equations" (ICLR
2021, arXiv:2011.13456), algorithm 2, with the score ``(D - x) / sigma^2`` of the denoised ``D``.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from medinv.samplers.renoise import gaussian_like


def reverse_diffusion(x: Tensor, D: Tensor, sigma: float, sigma_next: float,
                      rng: Generator | None) -> Tensor:
    """The predictor, ``x + (sigma^2 - sigma'^2) score + sqrt(sigma^2 - sigma'^2) n``.

    To the level 0 it takes the mean, ``D``. Works in the memory of ``x``, which is lost.

    Example:
        >>> reverse_diffusion(torch.zeros(2), torch.ones(2), 1.0, 0.0, None).tolist()
        [1.0, 1.0]
    """
    removed = sigma**2 - sigma_next**2
    x.lerp_(D, removed / sigma**2)
    return x.add_(gaussian_like(x, rng), alpha=removed**0.5) if sigma_next else x


def langevin(x: Tensor, D: Tensor, sigma: float, snr: float, item_ndim: int,
             rng: Generator | None) -> Tensor:
    """The corrector, ``x + eps score + sqrt(2 eps) n`` with ``eps = 2 (snr ||n|| / ||score||)^2``.

    Norms are per item (the published code takes them over the batch). Works in the memory of
    ``x``, which is lost.

    Args:
        x: noisy images, ``(*batch, *item)``.
        D: their denoised images.
        sigma: their noise level.
        snr: signal-to-noise ratio that sets the step.
        item_ndim: number of axes of an item.
        rng: source of the noise.

    Example:
        >>> x = torch.ones(3, 4, 4)
        >>> langevin(x, torch.zeros(3, 4, 4), 1.0, 0.16, 2, None).shape
        torch.Size([3, 4, 4])
    """
    axes = tuple(range(-item_ndim, 0))
    noise = gaussian_like(x, rng)
    score = (D - x).div_(sigma**2)
    size = torch.linalg.vector_norm(score, dim=axes, keepdim=True)
    ratio = torch.linalg.vector_norm(noise, dim=axes, keepdim=True) / size
    eps = torch.where(size > 0, 2 * (snr * ratio).square(), 0.0)
    return x.add_(score.mul_(eps)).addcmul_(noise, (2 * eps).sqrt().to(x.dtype))
