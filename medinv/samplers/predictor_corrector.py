"""Predictor-corrector sampling of the variance-exploding SDE.

Song et al., "Score-based generative modeling through stochastic differential equations" (ICLR
2021, arXiv:2011.13456), algorithm 2, with the score ``(D - x) / sigma^2`` of the denoised ``D``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def reverse_diffusion(x: Tensor, D: Tensor, sigma: float, sigma_next: float,
                      draw: Callable[[Tensor], Tensor]) -> Tensor:
    """The predictor, ``x + (sigma^2 - sigma'^2) score + sqrt(sigma^2 - sigma'^2) n``.

    To the level 0 it takes the mean, ``D``. Works in the memory of ``x``, which is lost; ``draw``
    gives standard normal noise like a tensor (`Run.noise`).

    Example:
        >>> reverse_diffusion(torch.zeros(2), torch.ones(2), 1.0, 0.0, torch.randn_like).tolist()
        [1.0, 1.0]
    """
    removed = sigma**2 - sigma_next**2
    x.lerp_(D, removed / sigma**2)
    return x.add_(draw(x), alpha=removed**0.5) if sigma_next else x


def langevin(x: Tensor, D: Tensor, sigma: float, snr: float, item_ndim: int,
             draw: Callable[[Tensor], Tensor]) -> Tensor:
    """The corrector, ``x + eps score + sqrt(2 eps) n`` with ``eps = 2 (snr ||n|| / ||score||)^2``.

    Norms are per item (the published code takes them over the batch). Works in the memory of
    ``x``, which is lost.

    Args:
        x: noisy images, ``(*batch, *item)``.
        D: their denoised images.
        sigma: their noise level.
        snr: signal-to-noise ratio that sets the step.
        item_ndim: number of axes of an item.
        draw: standard normal noise like a tensor (`Run.noise`).

    Example:
        >>> x = torch.ones(3, 4, 4)
        >>> langevin(x, torch.zeros(3, 4, 4), 1.0, 0.16, 2, torch.randn_like).shape
        torch.Size([3, 4, 4])
    """
    axes = tuple(range(-item_ndim, 0))
    noise = draw(x)
    score = (D - x).div_(sigma**2)
    size = torch.linalg.vector_norm(score, dim=axes, keepdim=True)
    ratio = torch.linalg.vector_norm(noise, dim=axes, keepdim=True) / size
    eps = torch.where(size > 0, 2 * (snr * ratio).square(), 0.0)
    return x.add_(score.mul_(eps)).addcmul_(noise, (2 * eps).sqrt().to(x.dtype))
