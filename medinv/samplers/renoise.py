"""From an estimate of the clean image to the next noise level.

A step to the level ``sigma'`` is ``x' = x0 + c_eps eps + c_noise n`` with the predicted noise
``eps = (x - D) / sigma`` and fresh ``n``. The two published choices of ``c_eps`` and ``c_noise``
both keep ``c_eps^2 + c_noise^2 = sigma'^2``; they differ in whether the fresh noise vanishes with
the step.
"""

from __future__ import annotations

from math import sqrt

from torch import Generator, Tensor

from medinv.operators.linalg import standard_normal


def fixed_split(eta: float, sigma: float, sigma_next: float) -> tuple[float, float]:
    """Fixed share of fresh noise (DDRM, DDNM, DDS): ``c_noise = eta sigma'``.

    Finer steps don't lead to the prior: an unmeasured direction of variance ``p`` ends with
    ``p (1 + sqrt(1 - eta^2)) / 2``.

    Example:
        >>> fixed_split(0.6, sigma=2.0, sigma_next=1.0)
        (0.8, 0.6)
    """
    return sqrt(1 - eta**2) * sigma_next, eta * sigma_next


def ddim_split(eta: float, sigma: float, sigma_next: float) -> tuple[float, float]:
    """DDIM (Song et al. 2021, eq. 16): 0 is the probability-flow ODE, 1 ancestral sampling.

    Example:
        >>> ddim_split(0.0, sigma=2.0, sigma_next=1.0)
        (1.0, 0.0)
    """
    fresh = eta * sigma_next * sqrt(1 - (sigma_next / sigma) ** 2)
    return sqrt(sigma_next**2 - fresh**2), fresh


def gaussian_like(x: Tensor, rng: Generator | None, *, shared_axis: int | None = None) -> Tensor:
    """Standard normal noise of the shape of ``x``, of unit variance in each REAL component.

    Args:
        x: gives shape, dtype and device.
        rng: source of the numbers, on any device; the global one of that of ``x`` by default.
        shared_axis: an axis along which the noise is constant (it is expanded, not copied).

    Example:
        >>> import torch
        >>> noise = gaussian_like(torch.zeros(3, 4, 4), None, shared_axis=-3)
        >>> noise.shape, torch.equal(noise[0], noise[2])
        (torch.Size([3, 4, 4]), True)
    """
    like = x if shared_axis is None else x.narrow(shared_axis, 0, 1)
    return standard_normal(like, rng).expand(x.shape)
