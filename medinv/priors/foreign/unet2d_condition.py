"""Diffusers' ``UNet2DConditionModel`` with added keys and values, which ContextMRI trains.

Chung et al. 2025 (arXiv:2501.04284) take the pixel-space U-Net of DeepFloyd IF: every attention
layer sees the pixels and the tokens of the prompt. Modules bear the names of diffusers' state
dicts.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medinv.errors import ShapeError
from medinv.priors.foreign.parts import Count, Size, attend, sinusoid
from medinv.priors.foreign.unet2d import (
    DiffusersLayout,
    Level,
    Resnet,
    TimeEmbedding,
    up_channels,
    walk,
)


class UNet2DConditionLayout(DiffusersLayout):
    """The config.json of diffusers' ``UNet2DConditionModel``, as ContextMRI writes it.

    Example:
        >>> UNet2DConditionLayout(in_channels=2, out_channels=2, encoder_hid_dim=768).kind
        'unet2d-condition'
    """

    kind: Literal["unet2d-condition"] = "unet2d-condition"
    block_out_channels: tuple[Size, ...] = Field((192, 384, 576, 768), min_length=1, max_length=8)
    layers_per_block: Count = 3
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "scale_shift"
    attention_head_dim: Size = 64
    cross_attention_dim: Size = 768
    encoder_hid_dim: Size = Field(768, description="size of a token of the prompt")
    addition_embed_type_num_heads: Size = 64
    down_block_types: tuple[
        Literal["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"], ...
    ] = ("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 3
    up_block_types: tuple[Literal["ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"], ...] = (
        ("SimpleCrossAttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",))
    mid_block_type: Literal["UNetMidBlock2DSimpleCrossAttn"] = "UNetMidBlock2DSimpleCrossAttn"
    addition_embed_type: Literal["text"] = "text"
    cross_attention_norm: Literal["group_norm"] = "group_norm"
    encoder_hid_dim_type: Literal["text_proj"] | None = "text_proj"
    only_cross_attention: Literal[False] = False
    resnet_out_scale_factor: Literal[1] = 1
    resnet_skip_time_act: Literal[False] = False
    class_embeddings_concat: Literal[False] = False
    conv_in_kernel: Literal[3] = 3
    conv_out_kernel: Literal[3] = 3
    time_embedding_act_fn: None = None
    timestep_post_act: None = None
    time_cond_proj_dim: None = None

    @classmethod
    def training_only(cls) -> frozenset[str]:
        """Keys of other kinds of blocks, which change nothing in these."""
        return super().training_only() | {
            "dual_cross_attention", "use_linear_projection", "upcast_attention",
            "mid_block_only_cross_attention", "projection_class_embeddings_input_dim",
            "num_attention_heads", "transformer_layers_per_block", "attention_type",
            "addition_time_embed_dim", "reverse_transformer_layers_per_block",
        }

    @property
    def context_size(self) -> int:
        """Numbers in a token of the prompt."""
        return self.encoder_hid_dim

    def build(self) -> UNet2DCondition:
        """The network, with random weights."""
        return UNet2DCondition(self)


class _Attention(nn.Module):
    """Attention of pixels to each other and to the prompt's tokens."""

    def __init__(self, layout: UNet2DConditionLayout, channels: int) -> None:
        super().__init__()
        self.heads, tokens = channels // layout.attention_head_dim, layout.cross_attention_dim
        self.group_norm = nn.GroupNorm(layout.norm_num_groups, channels, 1e-5)
        self.norm_cross = nn.GroupNorm(32, tokens, 1e-5)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.add_k_proj, self.add_v_proj = (nn.Linear(tokens, channels) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        tokens = self.norm_cross(context.mT).mT
        pixels = self.group_norm(h).flatten(2).mT
        k = torch.cat([self.add_k_proj(tokens), self.to_k(pixels)], dim=1)
        v = torch.cat([self.add_v_proj(tokens), self.to_v(pixels)], dim=1)
        values = attend(self.to_q(pixels).mT, k.mT, v.mT, self.heads)
        out: Tensor = self.to_out[0](values.mT).mT.reshape(h.shape)
        return h + out


class _Pool(nn.Module):
    """The mean token attends to all tokens and itself."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(1, size) / size**0.5)
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(size, size) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        first = tokens.mean(dim=1, keepdim=True) + self.positional_embedding
        every = torch.cat([first, tokens], dim=1)
        q, k, v = self.q_proj(first), self.k_proj(every), self.v_proj(every)
        return attend(q.mT, k.mT, v.mT, self.heads)[:, :, 0]


class _TextEmbedding(nn.Module):
    """The prompt's share of the embedding of the noise level."""

    def __init__(self, size: int, n_out: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.pool = nn.LayerNorm(size), _Pool(size, heads)
        self.proj, self.norm2 = nn.Linear(size, n_out), nn.LayerNorm(n_out)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.proj(self.pool(self.norm1(tokens))))
        return out


class UNet2DCondition(nn.Module):
    """``(b, in_channels, y, x), (b,), (b, tokens, size) -> (b, out_channels, y, x)``.

    Args:
        layout: its shape.

    Example:
        >>> layout = UNet2DConditionLayout(
        ...     in_channels=2, out_channels=2, block_out_channels=(32, 32), layers_per_block=1,
        ...     attention_head_dim=8, cross_attention_dim=32, encoder_hid_dim=16,
        ...     addition_embed_type_num_heads=4,
        ...     down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        ...     up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"))
        >>> UNet2DCondition(layout)(torch.zeros(1, 2, 8, 8), torch.zeros(1),
        ...                         torch.zeros(1, 5, 16)).shape
        torch.Size([1, 2, 8, 8])
    """

    def __init__(self, layout: UNet2DConditionLayout) -> None:
        super().__init__()
        self.layout, widths = layout, layout.block_out_channels
        n_emb = 4 * widths[0]
        self.conv_in = nn.Conv2d(layout.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], n_emb)
        self.encoder_hid_proj = nn.Linear(layout.encoder_hid_dim, layout.cross_attention_dim)
        self.add_embedding = _TextEmbedding(layout.encoder_hid_dim, n_emb,
                                            layout.addition_embed_type_num_heads)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for i, (width, kind) in enumerate(zip(widths, layout.down_block_types, strict=True)):
            inputs = [widths[max(i - 1, 0)]] + [width] * (layout.layers_per_block - 1)
            last = i + 1 == len(widths)
            self.down_blocks.append(Level(
                [Resnet(layout, n, width) for n in inputs],
                [_Attention(layout, width) for _ in inputs] if "Attn" in kind else [],
                downsampler=None if last else Resnet(layout, width, width, "down")))
        last_width, divisor = widths[-1], layout.mid_block_scale_factor
        self.mid_block = Level(
            [Resnet(layout, last_width, last_width, divisor=divisor) for _ in range(2)],
            [_Attention(layout, last_width)])
        counts = up_channels(widths, layout.layers_per_block)
        for i, up_kind in enumerate(layout.up_block_types):
            width = widths[-1 - i]
            self.up_blocks.append(Level(
                [Resnet(layout, n, width) for n in counts[i]],
                [_Attention(layout, width) for _ in counts[i]] if "Attn" in up_kind else [],
                upsampler=None if i + 1 == len(widths) else Resnet(layout, width, width, "up")))
        self.conv_norm_out = nn.GroupNorm(layout.norm_num_groups, widths[0], layout.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], layout.out_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c y x"], t: Float[Tensor, " b"],
                context: Float[Tensor, "b tokens size"] | None = None) -> Tensor:
        """The network's output for ``x`` at time index ``t``, which may be fractional.

        Raises:
            ShapeError: no context; an empty prompt has tokens, too.
        """
        if context is None:
            raise ShapeError(
                "UNet2DCondition: this network needs a context (tokens, "
                f"{self.layout.encoder_hid_dim}); pass the encoded prompt, or that of an empty one"
            )
        layout = self.layout
        emb = self.time_embedding(sinusoid(
            t, layout.block_out_channels[0], cosine_first=layout.flip_sin_to_cos,
            shift=layout.freq_shift))
        emb = emb + self.add_embedding(context)
        tokens = self.encoder_hid_proj(context)
        h = self.conv_in(2 * x - 1 if layout.center_input_sample else x)
        h = walk(self.down_blocks, self.mid_block, self.up_blocks, h, emb, tokens)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(h)))
        return out
