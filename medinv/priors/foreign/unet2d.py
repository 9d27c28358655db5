"""Diffusers' ``UNet2DModel``, and the blocks it shares with `unet2d_condition`.

The U-Net of Ho et al. 2020 (arXiv:2006.11239) as the library diffusers (Hugging Face, Apache-2.0)
lays it out. Modules bear the names of its state dicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medinv.priors.foreign.parts import Count, Layout, Size, attend, sinusoid

RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of attention layers in state dicts from before diffusers 0.17, and today's."""


class DiffusersLayout(Layout):
    """The fields that both U-Nets of diffusers have, as in their config.json.

    Example:
        >>> DiffusersLayout(in_channels=2, out_channels=2).time_scale_shift
        False
    """

    in_channels: Count = 3
    out_channels: Count = 3
    block_out_channels: tuple[Size, ...] = Field((224, 448, 672, 896), min_length=1, max_length=8)
    layers_per_block: Count = 2
    norm_num_groups: Size = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    downsample_padding: Literal[0, 1] = 1
    mid_block_scale_factor: float = 1
    center_input_sample: bool = Field(False, description="the network maps its input x to 2 x - 1")
    act_fn: Literal["silu", "swish"] = "silu"
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: None = None
    class_embed_type: None = None
    num_class_embeds: None = None

    @classmethod
    def training_only(cls) -> frozenset[str]:
        """Versions, sizes and dropout, which change nothing here."""
        return frozenset({"_class_name", "_diffusers_version", "_name_or_path", "sample_size",
                          "dropout", "num_train_timesteps"})

    @property
    def stride(self) -> int:
        """Sides of the input must be multiples of this."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @property
    def time_scale_shift(self) -> bool:
        """Whether the embedding scales as well as shifts."""
        return self.resnet_time_scale_shift == "scale_shift"


class UNet2DLayout(DiffusersLayout):
    """The config.json of diffusers' ``UNet2DModel``.

    Example:
        >>> UNet2DLayout(in_channels=1, out_channels=1, attention_head_dim=32).kind
        'unet2d'
    """

    kind: Literal["unet2d"] = "unet2d"
    attention_head_dim: Size | None = 8
    down_block_types: tuple[Literal["DownBlock2D", "AttnDownBlock2D"], ...] = (
        "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[Literal["UpBlock2D", "AttnUpBlock2D"], ...] = (
        "AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    downsample_type: Literal["conv"] = "conv"
    upsample_type: Literal["conv"] = "conv"
    add_attention: bool = True
    mid_block_type: Literal["UNetMidBlock2D"] = "UNetMidBlock2D"
    attn_norm_num_groups: None = None

    def build(self) -> UNet2D:
        """The network, with random weights."""
        return UNet2D(self)


class TimeEmbedding(nn.Module):
    """Two linear layers.

    Example:
        >>> TimeEmbedding(4, 16)(torch.zeros(1, 4)).shape
        torch.Size([1, 16])
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(n_in, n_out), nn.Linear(n_out, n_out)

    def forward(self, emb: Tensor) -> Tensor:
        """``emb`` (b, n_in) to (b, n_out)."""
        out: Tensor = self.linear_2(F.silu(self.linear_1(emb)))
        return out


class Resnet(nn.Module):
    """Two convolutions with the embedding between them; may resample first.

    Example:
        >>> block = Resnet(DiffusersLayout(block_out_channels=(32,)), 32, 64)
        >>> block(torch.zeros(1, 32, 4, 4), torch.zeros(1, 128)).shape
        torch.Size([1, 64, 4, 4])
    """

    def __init__(self, layout: DiffusersLayout, n_in: int, n_out: int, resize: str = "", *,
                 divisor: float = 1) -> None:
        super().__init__()
        self.resize, self.divisor, self.scale_shift = resize, divisor, layout.time_scale_shift
        groups, eps = layout.norm_num_groups, layout.norm_eps
        self.norm1 = nn.GroupNorm(groups, n_in, eps)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * layout.block_out_channels[0],
                                       n_out * (2 if self.scale_shift else 1))
        self.norm2 = nn.GroupNorm(groups, n_out, eps)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.conv_shortcut = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def _resized(self, h: Tensor) -> Tensor:
        if self.resize == "up":
            return F.interpolate(h, scale_factor=2, mode="nearest")
        return F.avg_pool2d(h, 2) if self.resize == "down" else h

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """``h`` (b, n_in, y, x), ``emb`` (b, embedding)."""
        out = self.conv1(self._resized(F.silu(self.norm1(h))))
        modulation = self.time_emb_proj(F.silu(emb))[:, :, None, None]
        if self.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            out = self.norm2(out) * (1 + scale) + shift
        else:
            out = self.norm2(out + modulation)
        out = self.conv2(F.silu(out)) + self.conv_shortcut(self._resized(h))
        scaled: Tensor = out / self.divisor
        return scaled


class SelfAttention(nn.Module):
    """Attention of pixels to each other.

    Example:
        >>> SelfAttention(32, head=8, groups=32, eps=1e-5)(torch.zeros(1, 32, 4, 4)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, channels: int, head: int, groups: int | None, eps: float, *,
                 divisor: float = 1) -> None:
        super().__init__()
        self.heads, self.divisor = channels // head, divisor
        self.group_norm = nn.GroupNorm(groups, channels, eps) if groups else nn.Identity()
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, h: Tensor) -> Tensor:
        """``h`` (b, channels, y, x)."""
        pixels = self.group_norm(h).flatten(2).mT
        q, k, v = (layer(pixels).mT for layer in (self.to_q, self.to_k, self.to_v))
        values = attend(q, k, v, self.heads).mT
        out: Tensor = (h + self.to_out[0](values).mT.reshape(h.shape)) / self.divisor
        return out


class Conv(nn.Module):
    """A change of resolution by a convolution, in a module of its own as the names have it."""

    def __init__(self, channels: int, resize: str, padding: int = 1) -> None:
        super().__init__()
        self.up, self.padding = resize == "up", padding
        stride = 1 if self.up else 2
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=padding)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:  # noqa: ARG002
        """``h`` (b, channels, y, x); the embedding is not used."""
        if self.up:
            h = F.interpolate(h, scale_factor=2, mode="nearest")
        elif not self.padding:
            h = F.pad(h, (0, 1, 0, 1))
        out: Tensor = self.conv(h)
        return out


class Level(nn.Module):
    """The blocks of one level, on the way down or up, or those in the middle.

    Attributes:
        resnets, attentions: in turn; without attention, there are none of the latter.
        downsamplers, upsamplers: the change of resolution that follows, if any.
    """

    resnets: nn.ModuleList
    attentions: nn.ModuleList
    downsamplers: nn.ModuleList
    upsamplers: nn.ModuleList

    def __init__(self, resnets: Sequence[nn.Module], attentions: Sequence[nn.Module],
                 downsampler: nn.Module | None = None,
                 upsampler: nn.Module | None = None) -> None:
        super().__init__()
        self.attentions, self.resnets = nn.ModuleList(attentions), nn.ModuleList(resnets)
        self.downsamplers = nn.ModuleList([downsampler] if downsampler else [])
        self.upsamplers = nn.ModuleList([upsampler] if upsampler else [])

    def block(self, i: int, h: Tensor, emb: Tensor, *context: Tensor) -> Tensor:
        """Block ``i``, with its attention if there is any."""
        out: Tensor = self.resnets[i](h, emb)
        if len(self.attentions):
            out = self.attentions[i](out, *context)
        return out


def walk(down: nn.ModuleList, middle: Level, up: nn.ModuleList, h: Tensor, emb: Tensor,
         *context: Tensor) -> Tensor:
    """Down the levels, through the middle, and up again with the skips.

    Args:
        down: levels, fine to coarse.
        middle: two blocks, attention between them.
        up: levels, coarse to fine.
        h: features (b, c, y, x) of the finest level.
        emb: embedding of the noise level, (b, n).
        context: what attention takes besides the features.

    Example:
        >>> layout = DiffusersLayout(block_out_channels=(32,))
        >>> level = Level([Resnet(layout, 64, 32)] * 2, [])
        >>> middle = Level([Resnet(layout, 32, 32)] * 2, [])
        >>> down = nn.ModuleList([Level([Resnet(layout, 32, 32)], [])])
        >>> walk(down, middle, nn.ModuleList([level]), torch.zeros(1, 32, 4, 4),
        ...      torch.zeros(1, 128)).shape
        torch.Size([1, 32, 4, 4])
    """
    skips = [h]
    for level in down:
        assert isinstance(level, Level)
        for i in range(len(level.resnets)):
            h = level.block(i, h, emb, *context)
            skips.append(h)
        for shrink in level.downsamplers:
            h = shrink(h, emb)
            skips.append(h)
    h = middle.resnets[0](h, emb)
    for attention in middle.attentions:
        h = attention(h, *context)
    h = middle.resnets[1](h, emb)
    for level in up:
        assert isinstance(level, Level)
        for i in range(len(level.resnets)):
            h = level.block(i, torch.cat([h, skips.pop()], dim=1), emb, *context)
        for grow in level.upsamplers:
            h = grow(h, emb)
    return h


def up_channels(widths: Sequence[int], layers: int) -> list[list[int]]:
    """Channels that each block on the way up takes, coarsest level first, with the skips.

    Args:
        widths: channels of each level, fine to coarse.
        layers: blocks per level on the way down; there is one more on the way up.

    Example:
        >>> up_channels((32, 64), layers=1)
        [[128, 96], [96, 64]]
    """
    coarse_first = list(reversed(widths))
    counts = []
    for i, width in enumerate(coarse_first):
        before = coarse_first[max(i - 1, 0)]
        after = coarse_first[min(i + 1, len(coarse_first) - 1)]
        inputs = [before] + [width] * layers
        skips = [width] * layers + [after]
        counts.append([a + b for a, b in zip(inputs, skips, strict=True)])
    return counts


class UNet2D(nn.Module):
    """``(b, in_channels, y, x), (b,) -> (b, out_channels, y, x)``, diffusers' ``UNet2DModel``.

    Args:
        layout: its shape.

    Example:
        >>> layout = UNet2DLayout(
        ...     in_channels=1, out_channels=1, block_out_channels=(32, 32), layers_per_block=1,
        ...     down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        ...     up_block_types=("AttnUpBlock2D", "UpBlock2D"))
        >>> UNet2D(layout)(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, layout: UNet2DLayout) -> None:
        super().__init__()
        self.layout, widths = layout, layout.block_out_channels
        self.conv_in = nn.Conv2d(layout.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], 4 * widths[0])
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for i, (width, kind) in enumerate(zip(widths, layout.down_block_types, strict=True)):
            inputs = [widths[max(i - 1, 0)]] + [width] * (layout.layers_per_block - 1)
            last = i + 1 == len(widths)
            self.down_blocks.append(Level(
                [Resnet(layout, n, width) for n in inputs],
                [self._attention(width) for _ in inputs] if "Attn" in kind else [],
                downsampler=None if last else Conv(width, "down", layout.downsample_padding)))
        divisor = layout.mid_block_scale_factor
        middle = [self._middle_attention()] if layout.add_attention else []
        self.mid_block = Level([Resnet(layout, widths[-1], widths[-1], divisor=divisor)
                                for _ in range(2)], middle)
        counts = up_channels(widths, layout.layers_per_block)
        for i, up_kind in enumerate(layout.up_block_types):
            width = widths[-1 - i]
            self.up_blocks.append(Level(
                [Resnet(layout, n, width) for n in counts[i]],
                [self._attention(width) for _ in counts[i]] if "Attn" in up_kind else [],
                upsampler=None if i + 1 == len(widths) else Conv(width, "up")))
        self.conv_norm_out = nn.GroupNorm(layout.norm_num_groups, widths[0], layout.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], layout.out_channels, 3, padding=1)

    def _attention(self, width: int) -> SelfAttention:
        layout = self.layout
        return SelfAttention(width, layout.attention_head_dim or width, layout.norm_num_groups,
                             layout.norm_eps)

    def _middle_attention(self) -> SelfAttention:
        """Unlike the others, it has no normalisation where the embedding scales and shifts."""
        layout, width = self.layout, self.layout.block_out_channels[-1]
        groups = None if layout.time_scale_shift else layout.norm_num_groups
        return SelfAttention(width, layout.attention_head_dim or width, groups, layout.norm_eps,
                             divisor=layout.mid_block_scale_factor)

    def forward(self, x: Float[Tensor, "b c y x"], t: Float[Tensor, " b"]) -> Tensor:
        """The network's output for ``x`` at time index ``t``, which may be fractional."""
        layout = self.layout
        emb = self.time_embedding(sinusoid(
            t, layout.block_out_channels[0], cosine_first=layout.flip_sin_to_cos,
            shift=layout.freq_shift))
        h = self.conv_in(2 * x - 1 if layout.center_input_sample else x)
        h = walk(self.down_blocks, self.mid_block, self.up_blocks, h, emb)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(h)))
        return out
