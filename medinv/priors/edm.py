"""Networks as priors: EDM preconditioning and the real/complex adapter.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models"
(arXiv:2206.00364), Table 1, in the VE coordinate (s = sigma_data):

    D(x, sigma) = c_skip x + c_out F(c_in x, log(sigma) / 4)
    c_skip = s^2 / (sigma^2 + s^2)
    c_out = sigma s / sqrt(sigma^2 + s^2)
    c_in = 1 / sqrt(sigma^2 + s^2)

A complex image is two real channels inside `forward` and nowhere else.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from medinv.arguments import checked
from medinv.errors import InputError
from medinv.priors.adapters import AdaptedNetwork
from medinv.priors.base import IntensityScale, Prior
from medinv.priors.batches import halving, in_parts
from medinv.priors.precision import DTYPES, default_dtype


class NetworkPrior(Prior):
    """A 2D prior from a network ``F((b, channels, y, x), (b,))``.

    Args:
        network: real network with one channel (real images) or two (complex images).
        sigma_data: root mean square of the training data per real component.
        complex_images: whether items are complex64, else float32.
        scale: how the prior's units relate to physical intensity.
        error_by_sigma: mean squared error of ``D`` by noise level, measured on held-out images;
            without it, that of a Gaussian of standard deviation ``sigma_data``.
        chunk: most images sent through the network at once; bounds memory, and is halved where
            it runs out.
        text_encoder: what the network's context comes from, for networks that take prompts.

    Attributes:
        compute_dtype: what the network's layers compute in, as `set_precision` chose, float32 or
            bfloat16; None: bfloat16 where it is faster (see `medinv.priors.precision`).

    Example:
        >>> from medinv.priors import UNet
        >>> network = UNet(2, widths=(16, 32), blocks=(1, 1), embedding=16)
        >>> prior = NetworkPrior(network, sigma_data=0.5, complex_images=True)
        >>> prior(torch.zeros(3, 7, 9, dtype=torch.complex64), sigma=0.1).shape
        torch.Size([3, 7, 9])
    """

    @checked
    def __init__(self, network: nn.Module, sigma_data: float, *, complex_images: bool = False,
                 scale: IntensityScale | None = None,
                 error_by_sigma: dict[float, float] | None = None, chunk: int = 8,
                 text_encoder: str | None = None) -> None:
        super().__init__()
        if not 0 < sigma_data < math.inf:
            raise InputError(f"NetworkPrior: expected a positive sigma_data, got {sigma_data}")
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.sigma_data, self.chunk = sigma_data, chunk
        self.dtype = torch.complex64 if complex_images else torch.float32
        self.ndim, self.scale = 2, scale or IntensityScale()
        self.error_by_sigma = error_by_sigma or {}
        self.text_encoder = text_encoder
        self.compute_dtype: torch.dtype | None = None

    def used_dtype(self, device: torch.device) -> torch.dtype:
        """What the network's layers compute in there; a published network's in float32 always."""
        if isinstance(self.network, AdaptedNetwork):
            return torch.float32
        return self.compute_dtype or default_dtype(device)

    def error_variance(self, sigma: float) -> float:
        """Measured squared error of ``D``; its share of the Gaussian's is interpolated."""
        gaussian = sigma**2 * self.sigma_data**2 / (sigma**2 + self.sigma_data**2)
        if not self.error_by_sigma:
            return gaussian
        levels = sorted(self.error_by_sigma)
        shares = [self.error_by_sigma[s] * (1 / s**2 + 1 / self.sigma_data**2) for s in levels]
        return gaussian * float(np.interp(np.log(sigma), np.log(levels), shares))

    def denoise(self, x: Tensor, sigma: Tensor, context: Tensor | None = None,
                where: Tensor | None = None) -> Tensor:
        """``D`` on real channels: ``x`` (b, channels, *z, y, x), ``sigma`` (b,); for training.

        ``context`` (b, n) describes each image, and ``where`` (b, 2, y, x) gives the positions of
        its pixels, for networks that take them.
        """
        c_in, c_skip, c_out = self.preconditioning(sigma.reshape(-1, *[1] * (x.ndim - 1)))
        inner = c_in * x
        if where is not None:
            inner = torch.cat([inner, where], dim=1)
        if x.ndim == 4:
            inner = inner.contiguous(memory_format=torch.channels_last)
        described = () if context is None else (context,)
        coarse = self.used_dtype(x.device) == torch.bfloat16
        with torch.autocast(x.device.type, torch.bfloat16, enabled=coarse):
            features = self.network(inner, sigma.log() / 4, *described)
        return torch.addcmul(c_skip * x, c_out, features.float())

    def preconditioning(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``c_in``, ``c_skip`` and ``c_out`` at these levels."""
        total = sigma.square() + self.sigma_data**2
        c_in = total.rsqrt()
        return c_in, self.sigma_data**2 / total, sigma * self.sigma_data * c_in

    @checked
    def forward(self, x: Tensor, sigma: Tensor | float, context: Tensor | None = None) -> Tensor:
        """``E[x0 | x]`` for ``x`` (*batch, y, x); ``sigma`` a number or of the batch's shape.

        ``context`` describes the images, (n,) or (*batch, n); `ContextPrior` holds it for solvers.
        """
        sigmas = self.levels(x, sigma).float().flatten()
        if not bool((sigmas > 0).all()):
            raise InputError(f"{type(self).__name__}: expected a positive sigma, got {sigma}")
        batch = x.shape[:-2]
        images = x.reshape(-1, *x.shape[-2:]).to(self.dtype)  # the network's precision
        if context is not None:
            context = context.expand(*batch, context.shape[-1]).flatten(0, -2)
        denoised = halving(self, lambda: self._in_parts(images, sigmas, context))
        return denoised.reshape(x.shape).to(x.dtype)

    def _in_parts(self, images: Tensor, sigmas: Tensor, contexts: Tensor | None) -> Tensor:
        """Images (b, y, x), ``chunk`` at a time."""
        parts = [torch.split(t, self.chunk) for t in (images, sigmas)]
        given = ([None] * len(parts[0]) if contexts is None
                 else torch.split(contexts, self.chunk))
        return in_parts(self._denoise, list(zip(*parts, given, strict=True)))

    def _denoise(self, images: Tensor, sigma: Tensor, context: Tensor | None) -> Tensor:
        return from_channels(self.denoise(to_channels(images), sigma, context), self.dtype)


def to_channels(x: Tensor) -> Tensor:
    """Images (b, *z, y, x) as real channels (b, 1 or 2, *z, y, x).

    Example:
        >>> to_channels(torch.tensor([[[1 + 2j]]])).tolist()
        [[[[1.0]], [[2.0]]]]
    """
    return torch.view_as_real(x).movedim(-1, 1) if x.is_complex() else x[:, None]


def from_channels(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `to_channels`.

    Example:
        >>> from_channels(torch.tensor([[[[1.0]], [[2.0]]]]), torch.complex64)
        tensor([[[1.+2.j]]])
    """
    if dtype.is_complex:
        return torch.view_as_complex(x.movedim(1, -1).contiguous())
    return x[:, 0]


def set_precision(prior: nn.Module, dtype: torch.dtype | None) -> None:
    """Let every network in a prior compute in this precision.

    Args:
        prior: a `NetworkPrior`, or what wraps some.
        dtype: float32 or bfloat16; None where the faster one shall be taken.

    Raises:
        InputError: another dtype.

    Example:
        >>> from medinv.priors import UNet
        >>> prior = NetworkPrior(UNet(1, widths=(16, 32), blocks=(1, 1), embedding=16), 0.5)
        >>> set_precision(prior, torch.float32)
        >>> used_precision(prior, torch.device("cpu"))
        'float32'
    """
    if dtype not in DTYPES.values():
        raise InputError(f"precision: expected torch.float32, torch.bfloat16 or None, got {dtype}")
    for part in prior.modules():
        if isinstance(part, NetworkPrior):
            part.compute_dtype = dtype


def used_precision(prior: nn.Module, device: torch.device) -> str | None:
    """What a prior's networks compute in on a device, by name; None if it has none.

    Where they differ (one is of a published checkpoint) all are named: ``bfloat16, float32``.
    """
    used = {str(part.used_dtype(device)).removeprefix("torch.") for part in prior.modules()
            if isinstance(part, NetworkPrior)}
    return ", ".join(sorted(used)) or None
