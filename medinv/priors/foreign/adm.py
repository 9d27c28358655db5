"""The U-Net of guided-diffusion (ADM), which DPS, DDS and many others train.

Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis" (arXiv:2105.05233),
without classes. Modules bear the names of the published state dicts.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from medinv.errors import CheckpointError
from medinv.priors.foreign.parts import (
    Count,
    Layout,
    Size,
    attend,
    check_divides,
    int_list,
    sinusoid,
)

_MULTIPLIERS = {
    512: (0.5, 1, 1, 2, 2, 4, 4), 320: (1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4),
}


def _multipliers(value: object) -> object:
    if isinstance(value, str):
        return tuple(float(part) for part in value.split(",") if part)
    return value


class ADMLayout(Layout):
    """Arguments of guided-diffusion's ``create_model``, as its configurations write them.

    Example:
        >>> ADMLayout(in_channels=1, image_size=64, num_channels=32).multipliers
        (1, 2, 3, 4)
    """

    kind: Literal["adm"] = "adm"
    in_channels: Count = 3
    image_size: Size = Field(description="side of the training images, in pixels")
    num_channels: Size
    num_res_blocks: Count = 1
    channel_mult: Annotated[tuple[float, ...], BeforeValidator(_multipliers)] = Field(
        (), max_length=8,
        description="width of each level over num_channels; published for image_size if empty")
    attention_resolutions: Annotated[tuple[int, ...], BeforeValidator(int_list)] = Field(
        (16,), description="sides of the levels that have attention, in pixels")
    num_heads: int = 1
    num_head_channels: int = Field(-1, description="channels of a head; replaces num_heads")
    num_heads_upsample: int = -1
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    learn_sigma: bool = Field(False, description="twice the channels come out; the second half "
                              "(variances) is dropped")
    class_cond: Literal[False] = False

    @classmethod
    def training_only(cls) -> frozenset[str]:
        """Dropout, precision, checkpointing, and what another key says already."""
        return frozenset({"dropout", "use_fp16", "use_checkpoint", "type", "out_channels",
                          "resamp_with_conv", "var_type", "model_path"})

    @property
    def multipliers(self) -> tuple[float, ...]:
        """Width of each level, fine to coarse, over ``num_channels``."""
        if not self.channel_mult and self.image_size not in _MULTIPLIERS:
            raise CheckpointError(
                f"adm: no channel_mult is published for image_size {self.image_size}; give it"
            )
        return self.channel_mult or _MULTIPLIERS[self.image_size]

    @property
    def stride(self) -> int:
        """Sides of the input must be multiples of this."""
        return int(2 ** (len(self.multipliers) - 1))

    def build(self) -> ADM:
        """The network, with random weights."""
        return ADM(self)


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:  # noqa: ARG002
        out: Tensor = self.conv(F.interpolate(h, scale_factor=2, mode="nearest"))
        return out


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:  # noqa: ARG002
        out: Tensor = self.op(h)
        return out


class _Residual(nn.Module):
    """Two convolutions; the embedding shifts (and scales) between them; may resample first."""

    def __init__(self, layout: ADMLayout, n_in: int, n_out: int, resize: str = "") -> None:
        super().__init__()
        self.scale_shift, self.resize = layout.use_scale_shift_norm, resize
        n_emb = 4 * layout.num_channels
        self.in_layers = nn.Sequential(nn.GroupNorm(32, n_in), nn.SiLU(),
                                       nn.Conv2d(n_in, n_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(),
                                        nn.Linear(n_emb, n_out * (2 if self.scale_shift else 1)))
        self.out_layers = nn.Sequential(nn.GroupNorm(32, n_out), nn.SiLU(), nn.Identity(),
                                        nn.Conv2d(n_out, n_out, 3, padding=1))
        same = n_in == n_out
        self.skip_connection = nn.Identity() if same else nn.Conv2d(n_in, n_out, 1)

    def _resized(self, h: Tensor) -> Tensor:
        if self.resize == "up":
            return F.interpolate(h, scale_factor=2, mode="nearest")
        return F.avg_pool2d(h, 2) if self.resize == "down" else h

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        out = self.in_layers[2](self._resized(self.in_layers[:2](h)))
        modulation = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            out = self.out_layers[1:](self.out_layers[0](out) * (1 + scale) + shift)
        else:
            out = self.out_layers(out + modulation)
        summed: Tensor = self.skip_connection(self._resized(h)) + out
        return summed


class _Attention(nn.Module):
    def __init__(self, layout: ADMLayout, channels: int, heads: int) -> None:
        super().__init__()
        if layout.num_head_channels > 0:
            check_divides("adm", [channels], layout.num_head_channels, "heads")
            heads = channels // layout.num_head_channels
        self.heads, self.new_order = heads, layout.use_new_attention_order
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:  # noqa: ARG002
        flat = h.flatten(2)
        qkv = self.qkv(self.norm(flat))
        if self.new_order:  # q of all heads, then k, then v
            q, k, v = qkv.chunk(3, dim=1)
        else:  # q, k, v of the first head, then of the next
            q, k, v = (x.flatten(1, 2)
                       for x in qkv.unflatten(1, (self.heads, 3, -1)).unbind(2))
        out: Tensor = flat + self.proj_out(attend(q, k, v, self.heads))
        return out.reshape(h.shape)


class _Steps(nn.Sequential):
    """Modules that take features and the embedding, one after another."""

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        for module in self:
            h = module(h, emb)
        return h


class _Stem(nn.Conv2d):
    def forward(self, h: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ARG002
        return super().forward(h)


class ADM(nn.Module):
    """``(b, in_channels, y, x), (b,) -> (b, in_channels, y, x)``, twice that with learn_sigma.

    Args:
        layout: its shape.

    Example:
        >>> layout = ADMLayout(in_channels=1, image_size=16, num_channels=32, channel_mult=(1, 2))
        >>> ADM(layout)(torch.zeros(2, 1, 8, 8), torch.zeros(2)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, layout: ADMLayout) -> None:
        super().__init__()
        self.layout = layout
        width = layout.num_channels
        widths = [int(mult * width) for mult in layout.multipliers]
        check_divides("adm", widths, 32, "groups")
        self.time_embed = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(),
                                        nn.Linear(4 * width, 4 * width))
        strides = {layout.image_size // side for side in layout.attention_resolutions}
        self.attends = [2**level in strides for level in range(len(widths))]
        self.input_blocks = nn.ModuleList(
            [_Steps(_Stem(layout.in_channels, widths[0], 3, padding=1))])
        skips = self._descend(layout, widths)
        last = widths[-1]
        self.middle_block = _Steps(_Residual(layout, last, last),
                                   _Attention(layout, last, layout.num_heads),
                                   _Residual(layout, last, last))
        self.output_blocks = nn.ModuleList()
        self._ascend(layout, widths, skips)
        n_out = layout.in_channels * (2 if layout.learn_sigma else 1)
        self.out = nn.Sequential(nn.GroupNorm(32, widths[0]), nn.SiLU(),
                                 nn.Conv2d(widths[0], n_out, 3, padding=1))

    def _descend(self, layout: ADMLayout, widths: list[int]) -> list[int]:
        """Fill ``input_blocks``; the channels of each one's output."""
        skips = [widths[0]]
        for level, width in enumerate(widths):
            for _ in range(layout.num_res_blocks):
                block = _Steps(_Residual(layout, skips[-1], width))
                if self.attends[level]:
                    block.append(_Attention(layout, width, layout.num_heads))
                self.input_blocks.append(block)
                skips.append(width)
            if level + 1 < len(widths):
                shrink = (_Residual(layout, width, width, "down") if layout.resblock_updown
                          else _Downsample(width))
                self.input_blocks.append(_Steps(shrink))
                skips.append(width)
        return skips

    def _ascend(self, layout: ADMLayout, widths: list[int], skips: list[int]) -> None:
        """Fill ``output_blocks``, which take ``skips`` from the last to the first."""
        heads = layout.num_heads_upsample if layout.num_heads_upsample > 0 else layout.num_heads
        channels = widths[-1]
        for level in reversed(range(len(widths))):
            width = widths[level]
            for i in range(layout.num_res_blocks + 1):
                block = _Steps(_Residual(layout, channels + skips.pop(), width))
                channels = width
                if self.attends[level]:
                    block.append(_Attention(layout, width, heads))
                if level and i == layout.num_res_blocks:
                    block.append(_Residual(layout, width, width, "up") if layout.resblock_updown
                                 else _Upsample(width))
                self.output_blocks.append(block)

    def forward(self, x: Float[Tensor, "b c y x"], t: Float[Tensor, " b"]) -> Tensor:
        """Noise (and variances) in ``x`` at time index ``t``, which may be fractional."""
        emb = self.time_embed(sinusoid(t, self.layout.num_channels))
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        out: Tensor = self.out(h)
        return out
