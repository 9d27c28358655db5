"""The small residual U-Net behind the priors that medinv trains.

A plain convolutional U-Net (Ronneberger et al. 2015) with residual blocks, group normalisation,
SiLU and a noise-level embedding that scales and shifts the features (Dhariwal and Nichol 2021;
Karras et al. 2022). No attention, so the receptive field is local, any image size works, and a CPU
spends its time in 3x3 convolutions, which it does well. Skips are added, not concatenated: half
the work in the decoder. Inputs are padded by reflection to a multiple of the coarsest stride and
cropped back.

Stacks of neighbouring slices are seen in two ways. A network with ``taps`` mixes neighbours after
every block (inflation, Ho et al. 2022, arXiv:2204.03458); one with ``slab`` above 1 takes that
many slices as channels (DiffusionBlend, Song et al. 2024, arXiv:2406.10211).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import tee
from typing import cast

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


class DepthTaps(nn.Module):
    """Adds a convolution of three taps along z to the slices of a stack; nothing at first.

    Beyond the first and the last slice there is nothing, which counts as zeros.

    Example:
        >>> h = torch.rand(6, 16, 4, 4)
        >>> torch.equal(DepthTaps(16)(h, 3), h)
        True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, (3, 1), bias=False)  # of z and all pixels
        _zero(self.mix)

    def forward(self, h: Tensor, depth: int) -> Tensor:
        """``h`` (b depth, channels, y, x): stacks of ``depth`` slices, one after another."""
        n, channels, y, x = h.shape
        stacks = h.flatten(2).reshape(-1, depth, channels, y * x).transpose(1, 2)
        mixed = F.conv2d(stacks, self.mix.weight, padding=(1, 0))
        return h + mixed.transpose(1, 2).reshape(n, channels, y, x)

    def stream(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """The same of one stack that comes in parts (n, channels, y, x).

        A part leaves when the first slice of the next is known.
        """
        before, held = None, None
        for h in parts:
            if held is not None:
                yield self._mixed(before, held, h[:1])
                before = held[-1:]
            held = h
        if held is not None:
            yield self._mixed(before, held, None)

    def _mixed(self, before: Tensor | None, h: Tensor, after: Tensor | None) -> Tensor:
        """Slices ``h``, given those beside them; None where the stack ends."""
        nothing = torch.zeros_like(h[:1])
        stack = torch.cat([nothing if before is None else before, h,
                           nothing if after is None else after])
        mixed: Tensor = self.mix(stack.flatten(2).transpose(0, 1)[None])
        return h + mixed[0].transpose(0, 1).reshape(h.shape)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; the embedding scales and shifts between them.

    Args:
        channels: of the features, a multiple of 16.
        embedding: size of the embedding.
        taps: whether the slices of a stack are mixed afterwards.

    Example:
        >>> ResidualBlock(16, embedding=8)(torch.zeros(1, 16, 4, 4), torch.zeros(1, 8)).shape
        torch.Size([1, 16, 4, 4])
    """

    def __init__(self, channels: int, embedding: int, *, taps: bool = False) -> None:
        super().__init__()
        groups = channels // 16
        self.norm1 = nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        _zero(self.conv2)
        self.along = DepthTaps(channels) if taps else None

    def forward(self, h: Tensor, emb: Tensor, depth: int = 1) -> Tensor:
        """``h`` (b, channels, y, x), ``emb`` (b, embedding); stacks of ``depth`` slices."""
        h = self._in_plane(h, emb)
        return h if self.along is None else cast(Tensor, self.along(h, depth))

    def stream(self, parts: Iterable[Tensor], emb: Tensor) -> Iterator[Tensor]:
        """The same of one stack in parts (n, channels, y, x); ``emb`` (1, embedding)."""
        inner = map(partial(self._in_plane, emb=emb), parts)
        return inner if self.along is None else self.along.stream(inner)

    def _in_plane(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.modulation(emb)[:, :, None, None].chunk(2, dim=1)
        out = self.conv1(_silu(self.norm1(h)))
        out = torch.addcmul(shift, self.norm2(out), 1 + scale)
        residual: Tensor = self.conv2(_silu(out))
        return residual.add_(h)


class _Stage(nn.ModuleList):
    """The blocks of one resolution level, one after another."""

    def forward(self, h: Tensor, emb: Tensor, depth: int) -> Tensor:
        for block in self:
            h = block(h, emb, depth)
        return h

    def stream(self, parts: Iterable[Tensor], emb: Tensor) -> Iterator[Tensor]:
        for block in self:
            parts = cast(ResidualBlock, block).stream(parts, emb)
        return iter(parts)


class UNet(nn.Module):
    """Residual U-Net ``(b, channels, y, x), (b,) -> (b, channels, y, x)``.

    Stacks of slices are ``(b, channels, z, y, x)``, with one noise level for each stack.

    Args:
        channels: image channels in and out (1 real, 2 complex).
        widths: feature channels of each resolution level, fine to coarse, multiples of 16.
        blocks: residual blocks per level, on the way down and again on the way up.
        embedding: size of the noise-level embedding.
        context: size of the vector that describes an image, 0 for a network that takes none. A
            layer without biases adds it to the noise-level embedding, so that the zero vector and
            no vector are the same; at first, so is every other.
        extra_channels: input channels after the image's, such as the positions of its pixels.
        slab: slices of a stack that go through the network together, as channels.
        taps: whether each block mixes neighbouring slices (or slabs) of a stack.

    Example:
        >>> network = UNet(2, widths=(16, 32), blocks=(1, 1), embedding=16)
        >>> network(torch.zeros(3, 2, 7, 9), torch.zeros(3)).shape
        torch.Size([3, 2, 7, 9])
    """

    def __init__(self, channels: int, widths: Sequence[int] = (32, 64, 128, 160),
                 blocks: Sequence[int] = (1, 1, 2, 2), embedding: int = 128,
                 context: int = 0, extra_channels: int = 0, slab: int = 1,
                 taps: bool = False) -> None:
        super().__init__()
        self.channels, self.embedding, self.context = channels, embedding, context
        self.slab, self.taps = slab, taps
        self.extra_channels = extra_channels
        self.widths, self.blocks = tuple(widths), tuple(blocks)
        self.stride = 2 ** (len(widths) - 1)
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.linspace(0, 2, 32).exp2(), persistent=False)
        self.embed = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(),
                                   nn.Linear(embedding, embedding), nn.SiLU())
        self.stem = nn.Conv2d(slab * channels + extra_channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.shrink, self.grow = nn.ModuleList(), nn.ModuleList()
        for i, (w, n) in enumerate(zip(widths, blocks, strict=True)):
            for way in (self.down, self.up):
                way.append(_Stage(ResidualBlock(w, embedding, taps=taps) for _ in range(n)))
            if i + 1 < len(widths):
                self.shrink.append(nn.Conv2d(w, widths[i + 1], 2, stride=2))
                self.grow.append(nn.ConvTranspose2d(widths[i + 1], w, 2, stride=2))
        self.norm = nn.GroupNorm(widths[0] // 16, widths[0])
        self.head = nn.Conv2d(widths[0], slab * channels, 3, padding=1)
        _zero(self.head)
        if context:
            first = nn.Linear(context, embedding, bias=False)
            nn.init.normal_(first.weight, std=4 / context**0.5)  # vectors of prompts are alike
            last = nn.Linear(embedding, embedding, bias=False)
            _zero(last)
            self.describe = nn.Sequential(first, nn.SiLU(), last)

    def forward(self, x: Float[Tensor, "b c_in *z y x"], noise: Float[Tensor, " b"],
                context: Float[Tensor, "b n"] | None = None) -> Float[Tensor, "b c_out *z y x"]:
        """Features of ``x`` at noise coordinate ``noise`` (EDM's ``log(sigma) / 4``)."""
        emb = self._embedding(noise, context)
        if x.ndim == 4:
            return self._in_plane(x, emb, 1)
        b, channels, z, ny, nx = x.shape
        depth = z // self.slab
        slabs = x.reshape(b, channels, depth, self.slab, ny, nx).transpose(1, 2)
        out = self._in_plane(slabs.reshape(b * depth, -1, ny, nx),
                             emb.repeat_interleave(depth, dim=0), depth)
        return out.reshape(b, depth, channels, self.slab, ny, nx).transpose(1, 2).reshape(x.shape)

    def stream(self, parts: Iterable[Tensor], noise: Float[Tensor, 1],
               context: Float[Tensor, "1 n"] | None = None) -> Iterator[Tensor]:
        """`forward` of one long stack that comes, and leaves, in parts (n, channels, y, x).

        At most one part is alive in each block, and those of the skips that wait for it.
        """
        emb = self._embedding(noise, context)
        first, last = tee(parts)
        h: Iterator[Tensor] = map(self.stem, map(self._padded, first))
        skips = []
        for i, stage in enumerate(self.down):
            h = cast(_Stage, stage).stream(h, emb)
            if i < len(self.shrink):
                h, skip = tee(h)
                skips.append(skip)
                h = map(self.shrink[i], h)
        for i in reversed(range(len(self.up))):
            if i < len(self.grow):
                h = map(torch.add, map(self.grow[i], h), skips[i])
            h = cast(_Stage, self.up[i]).stream(h, emb)
        return map(self._leave, h, last)

    def _in_plane(self, x: Tensor, emb: Tensor, depth: int) -> Tensor:
        """Images (b, channels, y, x) of stacks of ``depth``."""
        h = self.stem(self._padded(x))
        skips = []
        for i, stage in enumerate(self.down):
            h = stage(h, emb, depth)
            if i < len(self.shrink):
                skips.append(h)
                h = self.shrink[i](h)
        for i in reversed(range(len(self.up))):
            if i < len(self.grow):
                h = self.grow[i](h).add_(skips.pop())
            h = self.up[i](h, emb, depth)
        return self._leave(h, x)

    def _embedding(self, noise: Tensor, context: Tensor | None) -> Tensor:
        phase = noise[:, None] * self.frequencies * torch.pi
        emb: Tensor = self.embed(torch.cat([phase.sin(), phase.cos()], dim=1))
        return emb if context is None else emb + self.describe(context)

    def _padded(self, x: Tensor) -> Tensor:
        ny, nx = x.shape[-2:]
        pad = (0, -nx % self.stride, 0, -ny % self.stride)
        mode = "reflect" if pad[1] < nx and pad[3] < ny else "replicate"
        return F.pad(x, pad, mode=mode) if any(pad) else x

    def _leave(self, h: Tensor, x: Tensor) -> Tensor:
        """Features to images of the shape of ``x``."""
        out: Tensor = self.head(_silu(self.norm(h)))
        return out[..., : x.shape[-2], : x.shape[-1]]
