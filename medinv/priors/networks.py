"""The small residual U-Net behind the priors that medinv trains.

A plain convolutional U-Net (Ronneberger et al. 2015) with residual blocks, group normalisation,
SiLU and a noise-level embedding that scales and shifts the features (Dhariwal and Nichol 2021;
Karras et al. 2022). No attention, so the receptive field is local, any image size works, and a CPU
spends its time in 3x3 convolutions, which it does well. Skips are added, not concatenated: half
the work in the decoder. Inputs are padded by reflection to a multiple of the coarsest stride and
cropped back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def _zero(layer: nn.Module) -> None:
    """Start a layer at zero, so that what it ends adds nothing yet."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _silu(x: Tensor) -> Tensor:
    """SiLU, in the memory of ``x`` unless a gradient needs that."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; the embedding scales and shifts between them.

    Example:
        >>> ResidualBlock(16, embedding=8)(torch.zeros(1, 16, 4, 4), torch.zeros(1, 8)).shape
        torch.Size([1, 16, 4, 4])
    """

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        groups = channels // 16
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        _zero(self.conv2)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """``h`` (b, channels, y, x), ``emb`` (b, embedding)."""
        scale, shift = self.modulation(emb)[:, :, None, None].chunk(2, dim=1)
        out = self.conv1(_silu(self.norm1(h)))
        out = torch.addcmul(shift, self.norm2(out), 1 + scale)
        residual: Tensor = self.conv2(_silu(out))
        return residual.add_(h)


class _Stage(nn.ModuleList):
    """The blocks of one resolution level, one after another."""

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        for block in self:
            h = block(h, emb)
        return h


class UNet(nn.Module):
    """Residual U-Net ``(b, channels, y, x), (b,) -> (b, channels, y, x)``.

    Args:
        channels: image channels in and out (1 real, 2 complex).
        widths: feature channels of each resolution level, fine to coarse, multiples of 16.
        blocks: residual blocks per level, on the way down and again on the way up.
        embedding: size of the noise-level embedding.
        context: size of the vector that describes an image, 0 for a network that takes none. A
            layer without biases adds it to the noise-level embedding, so that the zero vector and
            no vector are the same; at first, so is every other.
        extra_channels: input channels after the image's, such as the positions of its pixels.

    Example:
        >>> network = UNet(2, widths=(16, 32), blocks=(1, 1), embedding=16)
        >>> network(torch.zeros(3, 2, 7, 9), torch.zeros(3)).shape
        torch.Size([3, 2, 7, 9])
    """

    def __init__(self, channels: int, widths: Sequence[int] = (32, 64, 128, 160),
                 blocks: Sequence[int] = (1, 1, 2, 2), embedding: int = 128,
                 context: int = 0, extra_channels: int = 0) -> None:
        super().__init__()
        self.channels, self.embedding, self.context = channels, embedding, context
        self.extra_channels = extra_channels
        self.widths, self.blocks = tuple(widths), tuple(blocks)
        self.stride = 2 ** (len(widths) - 1)
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.linspace(0, 2, 32).exp2(), persistent=False)
        self.embed = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(),
                                   nn.Linear(embedding, embedding), nn.SiLU())
        self.stem = nn.Conv2d(channels + extra_channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for i, (w, n) in enumerate(zip(widths, blocks, strict=True)):
            self.down.append(_Stage(ResidualBlock(w, embedding) for _ in range(n)))
            self.up.append(_Stage(ResidualBlock(w, embedding) for _ in range(n)))
            if i + 1 < len(widths):
                self.shrink.append(nn.Conv2d(w, widths[i + 1], 2, stride=2))
                self.grow.append(nn.ConvTranspose2d(widths[i + 1], w, 2, stride=2))
        self.norm = nn.GroupNorm(widths[0] // 16, widths[0])
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)
        _zero(self.head)
        if context:
            first = nn.Linear(context, embedding, bias=False)
            nn.init.normal_(first.weight, std=4 / context**0.5)  # vectors of prompts are alike
            last = nn.Linear(embedding, embedding, bias=False)
            _zero(last)
            self.describe = nn.Sequential(first, nn.SiLU(), last)

    def forward(self, x: Float[Tensor, "b c_in y x"], noise: Float[Tensor, " b"],
                context: Float[Tensor, "b n"] | None = None) -> Float[Tensor, "b c_out y x"]:
        """Features of ``x`` at noise coordinate ``noise`` (EDM's ``log(sigma) / 4``)."""
        ny, nx = x.shape[-2:]
        pad = (0, -nx % self.stride, 0, -ny % self.stride)
        mode = "reflect" if pad[1] < nx and pad[3] < ny else "replicate"
        h = F.pad(x, pad, mode=mode) if any(pad) else x
        phase = noise[:, None] * self.frequencies * torch.pi
        emb = self.embed(torch.cat([phase.sin(), phase.cos()], dim=1))
        if context is not None:
            emb = emb + self.describe(context)
        h = self.stem(h)
        skips = []
        for i, stage in enumerate(self.down):
            h = stage(h, emb)
            if i < len(self.shrink):
                skips.append(h)
                h = self.shrink[i](h)
        for i in reversed(range(len(self.up))):
            if i < len(self.grow):
                h = self.grow[i](h).add_(skips.pop())
            h = self.up[i](h, emb)
        out: Tensor = self.head(_silu(self.norm(h)))
        return out[..., :ny, :nx]
