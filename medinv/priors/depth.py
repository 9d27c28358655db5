"""A prior of volumes from a network that mixes neighbouring slices (`UNet` with ``taps``).

Inflation: a 2D network gets, after every block, a convolution along z that is zero at first (Ho et
al. 2022, "Video diffusion models", arXiv:2204.03458). It takes stacks of any number of slices.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medinv.errors import CheckpointError, InputError
from medinv.priors.base import Prior
from medinv.priors.batches import halving, in_parts
from medinv.priors.edm import NetworkPrior, from_channels, to_channels
from medinv.priors.networks import UNet

SPACING_SIZE = 4


def spacing_context(spacing_mm: tuple[float, float] | None) -> Tensor:
    """What a network is told of the spacing, (4,): nothing (zeros) where it is unknown.

    Args:
        spacing_mm: from pixel to pixel, and from slice to slice.

    Raises:
        InputError: a spacing that is no positive number.

    Example:
        >>> spacing_context((1.0, math.e)).tolist()
        [1.0, 0.0, 1.0, 1.0]
    """
    if spacing_mm is None:
        return torch.zeros(SPACING_SIZE)
    if not all(math.isfinite(mm) and mm > 0 for mm in spacing_mm):
        raise InputError(f"spacing: expected millimetres above 0, got {spacing_mm}")
    return torch.tensor([1.0, math.log(spacing_mm[0]), 1.0, math.log(spacing_mm[1])])


class DepthPrior(Prior):
    """Denoises volumes (z, y, x) by a network with taps along z.

    A volume runs through the network in parts of ``chunk`` slices, without a seam: each block
    waits for the next part's first slice. Memory is bounded by two volumes and what the parts in
    flight need. Where gradients are recorded, overlapping windows are computed again on the way
    back, which costs about twice as much.

    Args:
        prior: the network with its preconditioning.
        spacing_mm: from pixel to pixel and from slice to slice, if known.
        chunk: slices of a part.

    Raises:
        CheckpointError: the network sees single images only.

    Example:
        >>> network = UNet(1, widths=(16, 32), blocks=(1, 1), embedding=16, taps=True)
        >>> prior = DepthPrior(NetworkPrior(network, sigma_data=0.5))
        >>> prior(torch.zeros(5, 8, 8), sigma=0.1).shape
        torch.Size([5, 8, 8])
    """

    def __init__(self, prior: NetworkPrior, spacing_mm: tuple[float, float] | None = None,
                 chunk: int = 4) -> None:
        super().__init__()
        if not isinstance(prior.network, UNet) or not prior.network.taps:
            raise CheckpointError("DepthPrior: expected a network with taps along z, got one of "
                                  "single images; wrap its prior in SlicePrior")
        self.prior, self.network, self.spacing_mm = prior, prior.network, spacing_mm
        self.chunk = chunk
        self.dtype, self.ndim, self.scale = prior.dtype, 3, prior.scale

    def at_spacing(self, spacing_mm: tuple[float, float]) -> DepthPrior:
        """The same for volumes of this spacing, from pixel to pixel and from slice to slice."""
        return DepthPrior(self.prior, spacing_mm, self.chunk)

    def error_variance(self, sigma: float) -> float:
        """That of the network."""
        return self.prior.error_variance(sigma)

    def at_slices(self, x: Tensor, sigma: Tensor | float, index: Tensor) -> Tensor:
        """Slices of ``D(x)``, from all that the first to the last of them see."""
        first = max(0, int(index.min()) - self.reach)
        part = x[..., first : int(index.max()) + self.reach + 1, :, :]
        denoised: Tensor = self(part, sigma)
        return denoised.index_select(-3, index - first)

    @property
    def reach(self) -> int:
        """How many slices to either side a slice sees: one for each block."""
        return 2 * sum(self.network.blocks)

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``E[x0 | x]`` for volumes ``x`` (*batch, z, y, x), or an image (y, x)."""
        volumes = x.reshape(-1, *(x if x.ndim > 2 else x[None]).shape[-3:]).to(self.dtype)
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        levels = levels.expand(x.shape[:-3]).flatten()
        denoise = self._in_windows if torch.is_grad_enabled() else self._streamed
        return halving(self, lambda: torch.stack([
            denoise(volume, level) for volume, level in zip(volumes, levels, strict=True)
        ])).reshape(x.shape).to(x.dtype)

    def _streamed(self, volume: Tensor, sigma: Tensor) -> Tensor:
        """One volume, part by part."""
        level, context = sigma.reshape(1), self._context(sigma)
        c_in, c_skip, c_out = self.prior.preconditioning(level)
        parts = torch.split(volume, self.chunk)
        inner = (c_in * to_channels(part).contiguous(memory_format=torch.channels_last)
                 for part in parts)
        coarse = self.prior.used_dtype(volume.device) == torch.bfloat16
        with torch.autocast(volume.device.type, torch.bfloat16, enabled=coarse):
            features = [from_channels(part.float(), self.dtype) for part in
                        self.network.stream(inner, level.log() / 4, context)]
        return torch.addcmul(c_skip * volume, c_out, torch.cat(features))

    def _in_windows(self, volume: Tensor, sigma: Tensor) -> Tensor:
        """One volume in windows with all that their middle sees, for gradients."""
        n = 2 * self.reach
        return in_parts(self._window, [(volume, start, min(start + n, len(volume)), sigma)
                                       for start in range(0, len(volume), n)])

    def _window(self, volume: Tensor, start: int, stop: int, sigma: Tensor) -> Tensor:
        first = max(0, start - self.reach)
        seen = volume[first : stop + self.reach]
        denoised = self.prior.denoise(to_channels(seen[None]), sigma.reshape(1),
                                      self._context(sigma))
        return from_channels(denoised, self.dtype)[0, start - first : stop - first]

    def _context(self, like: Tensor) -> Tensor | None:
        if not self.network.context or self.spacing_mm is None:
            return None
        return spacing_context(self.spacing_mm).to(like.device)[None]
