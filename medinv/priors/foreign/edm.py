"""The U-Nets of EDM: DDPM++ and NCSN++ (``SongUNet``), ADM (``DhariwalUNet``).

Karras et al. 2022 (arXiv:2206.00364), appendix F; PaDIS trains the first with two channels of
positions more at the input, InverseBench the second. Modules bear the names of the published state
dicts. Classes and augmentation labels are zero, as they are when EDM samples without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from medinv.priors.foreign.parts import (
    Count,
    Layout,
    Size,
    attend,
    fir,
    int_list,
    resample,
    sinusoid,
)

_TRAINING_ONLY = frozenset({"model_type", "class_name", "dropout", "label_dropout", "use_fp16",
                            "label_dim", "hash_channels", "four_channels"})


class SongLayout(Layout):
    """Arguments of EDM's ``SongUNet``: ``--arch=ddpmpp`` by default.

    Example:
        >>> SongLayout(img_resolution=64, in_channels=3, out_channels=1).kind  # with positions
        'song-unet'
    """

    kind: Literal["song-unet"] = "song-unet"
    img_resolution: Size = Field(description="side of the training images, in pixels")
    in_channels: Count = 1
    out_channels: Count = 1
    model_channels: Size = Field(128, multiple_of=4)
    channel_mult: tuple[Count, ...] = Field((1, 2, 2, 2), min_length=1, max_length=8)
    channel_mult_emb: Count = 4
    num_blocks: Count = 4
    attn_resolutions: Annotated[tuple[int, ...], BeforeValidator(int_list)] = (16,)
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: Count = 1
    encoder_type: Literal["standard", "residual"] = "standard"
    decoder_type: Literal["standard"] = "standard"
    resample_filter: tuple[int, ...] = Field((1, 1), min_length=1, max_length=16)
    augment_dim: int = Field(0, ge=0, le=1024, description="size of the augmentation labels, "
                             "which are zero here")

    @classmethod
    def training_only(cls) -> frozenset[str]:
        """Dropout, precision, and the preconditioner's keys."""
        return _TRAINING_ONLY

    @property
    def stride(self) -> int:
        """Sides of the input must be multiples of this."""
        return int(2 ** (len(self.channel_mult) - 1))

    def build(self) -> SongUNet:
        """The network, with random weights."""
        return SongUNet(self)


class DhariwalLayout(Layout):
    """Arguments of EDM's ``DhariwalUNet`` (``--arch=adm``).

    Example:
        >>> DhariwalLayout(img_resolution=320, in_channels=2, out_channels=2).kind
        'dhariwal-unet'
    """

    kind: Literal["dhariwal-unet"] = "dhariwal-unet"
    img_resolution: Size = Field(description="side of the training images, in pixels")
    in_channels: Count = 1
    out_channels: Count = 1
    model_channels: Size = Field(192, multiple_of=64)
    channel_mult: tuple[Count, ...] = Field((1, 2, 3, 4), min_length=1, max_length=8)
    channel_mult_emb: Count = 4
    num_blocks: Count = 3
    attn_resolutions: Annotated[tuple[int, ...], BeforeValidator(int_list)] = (32, 16, 8)
    augment_dim: int = Field(0, ge=0, le=1024, description="size of the augmentation labels, "
                             "which are zero here")

    @classmethod
    def training_only(cls) -> frozenset[str]:
        """Dropout, precision, and the preconditioner's keys."""
        return _TRAINING_ONLY

    @property
    def stride(self) -> int:
        """Sides of the input must be multiples of this."""
        return int(2 ** (len(self.channel_mult) - 1))

    def build(self) -> DhariwalUNet:
        """The network, with random weights."""
        return DhariwalUNet(self)


class _Conv(nn.Module):
    """A convolution that may change the resolution first; without a side, that alone.

    The published state dicts hold the filter. ``fused`` filters first and convolves with a stride
    of 2, with more zeros around.
    """

    def __init__(self, n_in: int, n_out: int, side: int, resize: str = "",
                 taps: tuple[int, ...] = (1, 1), *, fused: bool = False) -> None:
        super().__init__()
        self.resize, self.fused, self.padding = resize, fused, 0 if fused else side // 2
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        if side:
            weight = torch.randn(n_out, n_in, side, side) / (n_in * side**2) ** 0.5
            self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(n_out))
        self.resample_filter: Tensor | None
        self.register_buffer("resample_filter", fir(taps)[None, None] if resize else None)

    def forward(self, h: Tensor) -> Tensor:
        if self.resample_filter is not None:
            h = resample(h, self.resample_filter[0, 0], up=self.resize == "up",
                         margin=int(self.fused))
        if self.weight is None:
            return h
        return F.conv2d(h, self.weight, self.bias, stride=1 + self.fused, padding=self.padding)


class _Norm(nn.GroupNorm):
    def __init__(self, channels: int, eps: float) -> None:
        super().__init__(min(32, channels // 4), channels, eps)


@dataclass(frozen=True)
class _Style:
    """How the blocks of the two U-Nets differ."""

    embedding: int
    eps: float
    taps: tuple[int, ...]
    rescale: float
    head: int | None  # channels of an attention head; all in one head if None
    scale_shift: bool
    project_skip: bool  # a 1 x 1 convolution where the skip connection changes resolution


class _Block(nn.Module):
    """Two convolutions with the embedding between them, then perhaps attention."""

    def __init__(self, style: _Style, n_in: int, n_out: int, resize: str = "", *,
                 attention: bool = False) -> None:
        super().__init__()
        self.style, self.attention, self.in_channels = style, attention, n_in
        self.norm0 = _Norm(n_in, style.eps)
        self.conv0 = _Conv(n_in, n_out, 3, resize, style.taps)
        self.affine = nn.Linear(style.embedding, n_out * (2 if style.scale_shift else 1))
        self.norm1 = _Norm(n_out, style.eps)
        self.conv1 = _Conv(n_out, n_out, 3)
        self.skip: nn.Module = nn.Identity()
        if n_in != n_out or resize:
            side = 1 if style.project_skip or n_in != n_out else 0
            self.skip = _Conv(n_in, n_out, side, resize, style.taps)
        if attention:
            self.heads = n_out // style.head if style.head else 1
            self.norm2 = _Norm(n_out, style.eps)
            self.qkv, self.proj = _Conv(n_out, 3 * n_out, 1), _Conv(n_out, n_out, 1)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        out = self.conv0(F.silu(self.norm0(h)))
        modulation = self.affine(emb)[:, :, None, None]
        if self.style.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            out = torch.addcmul(shift, self.norm1(out), 1 + scale)
        else:
            out = self.norm1(out + modulation)
        summed: Tensor = (self.skip(h) + self.conv1(F.silu(out))) * self.style.rescale
        if not self.attention:
            return summed
        q, k, v = self.qkv(self.norm2(summed)).flatten(2).unflatten(1, (-1, 3)).unbind(2)
        values = attend(q, k, v, self.heads).reshape(summed.shape)
        attended: Tensor = (summed + self.proj(values)) * self.style.rescale
        return attended


def _run(blocks: Iterable[tuple[str, nn.Module]], h: Tensor, emb: Tensor,
         skips: list[Tensor]) -> Tensor:
    """The way up: each block of more channels than there are takes the last of ``skips``."""
    for _, block in blocks:
        assert isinstance(block, _Block)
        if h.shape[1] != block.in_channels:
            h = torch.cat([h, skips.pop()], dim=1)
        h = block(h, emb)
    return h


def _way_up(style: _Style, resolution: int, widths: list[int], blocks: int, skips: list[int],
            attends: Callable[[int, int], bool]) -> nn.ModuleDict:
    """Blocks from the coarsest level to the finest, which take ``skips`` from the end.

    ``attends(side, i)`` says whether block ``i`` of the level of this side has attention.
    """
    up, channels = nn.ModuleDict(), widths[-1]
    for level in reversed(range(len(widths))):
        side = resolution >> level
        name = f"{side}x{side}"
        if level == len(widths) - 1:
            up[f"{name}_in0"] = _Block(style, channels, channels, attention=True)
            up[f"{name}_in1"] = _Block(style, channels, channels)
        else:
            up[f"{name}_up"] = _Block(style, channels, channels, "up")
        for i in range(blocks + 1):
            up[f"{name}_block{i}"] = _Block(style, channels + skips.pop(), widths[level],
                                            attention=attends(side, i))
            channels = widths[level]
    return up


class SongUNet(nn.Module):
    """``(b, in_channels, y, x), (b,) -> (b, out_channels, y, x)``, EDM's DDPM++ or NCSN++.

    Args:
        layout: its shape.

    Example:
        >>> layout = SongLayout(img_resolution=16, model_channels=8, channel_mult=(1, 2),
        ...                     num_blocks=1)
        >>> SongUNet(layout)(torch.zeros(2, 1, 8, 8), torch.ones(2)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, layout: SongLayout) -> None:
        super().__init__()
        self.layout = layout
        width = layout.model_channels
        widths = [width * mult for mult in layout.channel_mult]
        n_emb, self.n_noise = width * layout.channel_mult_emb, width * layout.channel_mult_noise
        style = _Style(n_emb, 1e-6, layout.resample_filter, 0.5**0.5, None, False, True)
        self.map_noise = nn.Module()
        if layout.embedding_type == "fourier":
            self.map_noise.register_buffer("freqs", 16 * torch.randn(self.n_noise // 2))
        if layout.augment_dim:
            self.map_augment = nn.Linear(layout.augment_dim, self.n_noise, bias=False)
        self.map_layer0 = nn.Linear(self.n_noise, n_emb)
        self.map_layer1 = nn.Linear(n_emb, n_emb)
        self.enc = nn.ModuleDict()
        skips = self._way_down(style, widths)
        self.dec = _way_up(
            style, layout.img_resolution, widths, layout.num_blocks, skips,
            lambda side, i: i == layout.num_blocks and side in layout.attn_resolutions)
        name = f"{layout.img_resolution}x{layout.img_resolution}"
        self.dec[f"{name}_aux_norm"] = _Norm(widths[0], 1e-6)
        self.dec[f"{name}_aux_conv"] = _Conv(widths[0], layout.out_channels, 3)

    def _way_down(self, style: _Style, widths: list[int]) -> list[int]:
        """Fill ``enc``; the channels of each feature that the way up takes."""
        layout, auxiliary = self.layout, self.layout.in_channels
        channels = layout.model_channels
        skips: list[int] = []
        for level, width in enumerate(widths):
            side = layout.img_resolution >> level
            name = f"{side}x{side}"
            if not level:
                self.enc[f"{name}_conv"] = _Conv(layout.in_channels, channels, 3)
            else:
                self.enc[f"{name}_down"] = _Block(style, channels, channels, "down")
                if layout.encoder_type == "residual":
                    self.enc[f"{name}_aux_residual"] = _Conv(
                        auxiliary, channels, 3, "down", style.taps, fused=True)
                    auxiliary = channels
            skips.append(channels)
            for i in range(layout.num_blocks):
                self.enc[f"{name}_block{i}"] = _Block(style, channels, width,
                                                      attention=side in layout.attn_resolutions)
                channels = width
                skips.append(channels)
        return skips

    def _embed(self, noise: Tensor) -> Tensor:
        if self.layout.embedding_type == "fourier":
            frequencies = self.map_noise.get_buffer("freqs")
            phase = 2 * torch.pi * noise[:, None] * frequencies
            emb = torch.cat([phase.sin(), phase.cos()], dim=1)
        else:
            emb = sinusoid(noise, self.n_noise, cosine_first=False, shift=1)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def forward(self, x: Float[Tensor, "b c y x"], noise: Float[Tensor, " b"]) -> Tensor:
        """Features of ``x`` at noise coordinate ``noise`` (EDM's ``log(sigma) / 4``)."""
        emb, h, auxiliary = self._embed(noise), x, x
        skips: list[Tensor] = []
        for name, block in self.enc.items():
            if name.endswith("aux_residual"):
                h = skips[-1] = auxiliary = (h + block(auxiliary)) * 0.5**0.5
            else:
                h = block(h) if isinstance(block, _Conv) else block(h, emb)
                skips.append(h)
        *blocks, norm, head = self.dec.items()
        h = _run(blocks, h, emb, skips)
        out: Tensor = head[1](F.silu(norm[1](h)))
        return out


class DhariwalUNet(nn.Module):
    """``(b, in_channels, y, x), (b,) -> (b, out_channels, y, x)``, EDM's ADM.

    Args:
        layout: its shape.

    Example:
        >>> layout = DhariwalLayout(img_resolution=16, model_channels=64, channel_mult=(1, 1),
        ...                         num_blocks=1)
        >>> DhariwalUNet(layout)(torch.zeros(2, 1, 8, 8), torch.ones(2)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, layout: DhariwalLayout) -> None:
        super().__init__()
        self.layout = layout
        width, side = layout.model_channels, layout.img_resolution
        widths = [width * mult for mult in layout.channel_mult]
        n_emb = width * layout.channel_mult_emb
        style = _Style(n_emb, 1e-5, (1, 1), 1.0, 64, True, False)
        if layout.augment_dim:
            self.map_augment = nn.Linear(layout.augment_dim, width, bias=False)
        self.map_layer0 = nn.Linear(width, n_emb)
        self.map_layer1 = nn.Linear(n_emb, n_emb)
        self.enc = nn.ModuleDict({f"{side}x{side}_conv": _Conv(layout.in_channels, widths[0], 3)})
        skips = self._way_down(style, widths)
        self.dec = _way_up(style, side, widths, layout.num_blocks, skips,
                           lambda side, _: side in layout.attn_resolutions)
        self.out_norm = _Norm(widths[0], 1e-5)
        self.out_conv = _Conv(widths[0], layout.out_channels, 3)

    def _way_down(self, style: _Style, widths: list[int]) -> list[int]:
        """Fill ``enc``; the channels of each feature that the way up takes."""
        skips = [widths[0]]
        for level, width in enumerate(widths):
            side = self.layout.img_resolution >> level
            if level:
                self.enc[f"{side}x{side}_down"] = _Block(style, skips[-1], skips[-1], "down")
                skips.append(skips[-1])
            for i in range(self.layout.num_blocks):
                self.enc[f"{side}x{side}_block{i}"] = _Block(
                    style, skips[-1], width, attention=side in self.layout.attn_resolutions)
                skips.append(width)
        return skips

    def forward(self, x: Float[Tensor, "b c y x"], noise: Float[Tensor, " b"]) -> Tensor:
        """Features of ``x`` at noise coordinate ``noise`` (EDM's ``log(sigma) / 4``)."""
        emb = self.map_layer0(sinusoid(noise, self.layout.model_channels))
        emb = F.silu(self.map_layer1(F.silu(emb)))
        h, skips = x, []
        for block in self.enc.values():
            h = block(h) if isinstance(block, _Conv) else block(h, emb)
            skips.append(h)
        h = _run(self.dec.items(), h, emb, skips)
        out: Tensor = self.out_conv(F.silu(self.out_norm(h)))
        return out
