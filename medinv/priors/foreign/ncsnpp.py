"""NCSN++, which score-MRI, DiffusionMBIR and TPDM train.

Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations"
(arXiv:2011.13456, appendix H), with BigGAN blocks and no progressive output, as these three have
it. Modules bear the names of the published state dicts, in the order of the published parameters:
its moving averages are stored as a list without names.
"""

from __future__ import annotations

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


class NCSNppLayout(Layout):
    """The ``model`` and ``data`` sections of a configuration of score_sde.

    Example:
        >>> NCSNppLayout(image_size=256, nf=128, ch_mult=(1, 2, 2, 2), num_res_blocks=4).kind
        'ncsnpp'
    """

    kind: Literal["ncsnpp"] = "ncsnpp"
    num_channels: Count = 1
    image_size: Size = Field(description="side of the training images, in pixels")
    nf: Size = Field(128, description="channels of the finest level", multiple_of=4)
    ch_mult: tuple[Count, ...] = Field((1, 2, 2, 2), min_length=1, max_length=8)
    num_res_blocks: Count = 4
    attn_resolutions: Annotated[tuple[int, ...], BeforeValidator(int_list)] = Field(
        (16,), description="sides of the levels that have attention, in pixels")
    fir: bool = True
    fir_kernel: tuple[int, ...] = Field((1, 3, 3, 1), min_length=1, max_length=16)
    skip_rescale: bool = True
    progressive_input: Literal["none", "residual"] = "residual"
    progressive: Literal["none"] = "none"
    resblock_type: Literal["biggan"] = "biggan"
    embedding_type: Literal["fourier", "positional"] = "fourier"
    centered: bool = Field(False, description="False: the network maps its input x to 2 x - 1")
    scale_by_sigma: bool = Field(True, description="the output is divided by sigma")

    @classmethod
    def training_only(cls) -> frozenset[str]:
        """Initialisation, averaging, the sampler's levels, and what has one value anyway."""
        return frozenset({"name", "dropout", "ema_rate", "init_scale", "fourier_scale",
                          "conv_size", "normalization", "nonlinearity", "resamp_with_conv",
                          "conditional", "progressive_combine", "attention_type", "num_scales",
                          "beta_min", "beta_max", "sigma_min", "sigma_max"})

    @property
    def taps(self) -> tuple[int, ...]:
        """The filter of the changes of resolution."""
        return self.fir_kernel if self.fir else (1, 1)

    @property
    def stride(self) -> int:
        """Sides of the input must be multiples of this."""
        return int(2 ** (len(self.ch_mult) - 1))

    def build(self) -> NCSNpp:
        """The network, with random weights."""
        return NCSNpp(self)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


class _Fourier(nn.Module):
    """Sines and cosines of random frequencies, of ``log sigma``."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.W = nn.Parameter(16 * torch.randn(n), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        phase = 2 * torch.pi * x[:, None] * self.W
        return torch.cat([phase.sin(), phase.cos()], dim=1)


class _NIN(nn.Module):
    """A linear map of the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(channels, channels) * channels**-0.5)
        self.b = nn.Parameter(torch.zeros(channels))

    def forward(self, h: Tensor) -> Tensor:
        return torch.einsum("bcn,cd->bdn", h, self.W) + self.b[:, None]


class _Attention(nn.Module):
    def __init__(self, channels: int, rescale: float) -> None:
        super().__init__()
        self.rescale = rescale
        self.GroupNorm_0 = _norm(channels)
        self.NIN_0, self.NIN_1 = _NIN(channels), _NIN(channels)
        self.NIN_2, self.NIN_3 = _NIN(channels), _NIN(channels)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:  # noqa: ARG002
        flat = self.GroupNorm_0(h).flatten(2)
        values = attend(self.NIN_0(flat), self.NIN_1(flat), self.NIN_2(flat), heads=1)
        out: Tensor = self.NIN_3(values).reshape(h.shape)
        return (h + out) * self.rescale


class _Residual(nn.Module):
    """A BigGAN block: two convolutions, the embedding added between, resampled at the start."""

    def __init__(self, layout: NCSNppLayout, n_in: int, n_out: int, resize: str = "") -> None:
        super().__init__()
        self.resize = resize
        self.kernel: Tensor
        self.register_buffer("kernel", fir(layout.taps), persistent=False)
        self.rescale = 0.5**0.5 if layout.skip_rescale else 1.0
        self.GroupNorm_0 = _norm(n_in)
        self.Conv_0 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.Dense_0 = nn.Linear(4 * layout.nf, n_out)
        self.GroupNorm_1 = _norm(n_out)
        self.Conv_1 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.Conv_2 = nn.Conv2d(n_in, n_out, 1) if n_in != n_out or resize else nn.Identity()

    def _resized(self, h: Tensor) -> Tensor:
        return resample(h, self.kernel, up=self.resize == "up") if self.resize else h

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        out = self.Conv_0(self._resized(F.silu(self.GroupNorm_0(h))))
        out = out + self.Dense_0(F.silu(emb))[:, :, None, None]
        out = self.Conv_1(F.silu(self.GroupNorm_1(out)))
        summed: Tensor = (self.Conv_2(self._resized(h)) + out) * self.rescale
        return summed


class _FilteredConv(nn.Conv2d):
    """Smooth, then a convolution with a stride of 2."""

    def __init__(self, n_in: int, n_out: int, taps: tuple[int, ...]) -> None:
        super().__init__(n_in, n_out, 3, stride=2)
        self.kernel: Tensor
        self.register_buffer("kernel", fir(taps), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        return super().forward(resample(h, self.kernel, up=False, margin=1))


class _PyramidStep(nn.Module):
    """The next coarser level of the input's own pyramid."""

    def __init__(self, layout: NCSNppLayout, n_in: int, n_out: int) -> None:
        super().__init__()
        if layout.fir:
            self.Conv2d_0 = _FilteredConv(n_in, n_out, layout.fir_kernel)
        else:
            self.Conv_0 = nn.Conv2d(n_in, n_out, 3, stride=2)
        self.fir = layout.fir

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.Conv2d_0(x) if self.fir else self.Conv_0(F.pad(x, (0, 1, 0, 1)))
        return out


class NCSNpp(nn.Module):
    """``(b, channels, y, x), (b,) -> (b, channels, y, x)``: the score at noise level sigma.

    Args:
        layout: its shape.

    Example:
        >>> layout = NCSNppLayout(image_size=16, nf=8, ch_mult=(1, 2), num_res_blocks=1)
        >>> NCSNpp(layout)(torch.zeros(2, 1, 8, 8), torch.ones(2)).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(self, layout: NCSNppLayout) -> None:
        super().__init__()
        self.layout = layout
        self.rescale = 0.5**0.5 if layout.skip_rescale else 1.0
        self.widths = [layout.nf * mult for mult in layout.ch_mult]
        self.attends = [layout.image_size // 2**level in layout.attn_resolutions
                        for level in range(len(self.widths))]
        n, nf, fourier = layout.num_channels, layout.nf, layout.embedding_type == "fourier"
        self.all_modules = nn.ModuleList([_Fourier(nf)] if fourier else [])
        self.all_modules.extend([nn.Linear(2 * nf if fourier else nf, 4 * nf),
                                 nn.Linear(4 * nf, 4 * nf), nn.Conv2d(n, nf, 3, padding=1)])
        skips = self._descend()
        last = self.widths[-1]
        self.all_modules.extend([_Residual(layout, last, last), _Attention(last, self.rescale),
                                 _Residual(layout, last, last)])
        self._ascend(skips)
        self.all_modules.extend([_norm(nf), nn.Conv2d(nf, n, 3, padding=1)])

    def _descend(self) -> list[int]:
        """Append the way down; the channels of each feature that the way up takes."""
        layout, skips, pyramid = self.layout, [self.layout.nf], self.layout.num_channels
        for level, width in enumerate(self.widths):
            for _ in range(layout.num_res_blocks):
                self.all_modules.append(_Residual(layout, skips[-1], width))
                if self.attends[level]:
                    self.all_modules.append(_Attention(width, self.rescale))
                skips.append(width)
            if level + 1 < len(self.widths):
                self.all_modules.append(_Residual(layout, width, width, "down"))
                if layout.progressive_input == "residual":
                    self.all_modules.append(_PyramidStep(layout, pyramid, width))
                    pyramid = width
                skips.append(width)
        return skips

    def _ascend(self, skips: list[int]) -> None:
        """Append the way up, which takes ``skips`` from the last to the first."""
        layout, channels = self.layout, self.widths[-1]
        for level in reversed(range(len(self.widths))):
            for _ in range(layout.num_res_blocks + 1):
                self.all_modules.append(_Residual(layout, channels + skips.pop(),
                                                  self.widths[level]))
                channels = self.widths[level]
            if self.attends[level]:
                self.all_modules.append(_Attention(channels, self.rescale))
            if level:
                self.all_modules.append(_Residual(layout, channels, channels, "up"))

    def forward(self, x: Float[Tensor, "b c y x"], noise: Float[Tensor, " b"]) -> Tensor:
        """The output for ``x`` at ``noise``: sigma (fourier) or a time index (positional)."""
        modules = iter(self.all_modules)
        layout, blocks, coarsest = self.layout, self.layout.num_res_blocks, len(self.widths) - 1
        if layout.embedding_type == "fourier":
            emb = next(modules)(noise.log())
        else:
            emb = sinusoid(noise, layout.nf, cosine_first=False, shift=1)
        emb = next(modules)(emb)
        emb = next(modules)(F.silu(emb))
        pyramid = x if layout.centered else 2 * x - 1
        skips = [next(modules)(pyramid)]
        for level in range(coarsest + 1):
            for _ in range(blocks):
                h = next(modules)(skips[-1], emb)
                skips.append(next(modules)(h, emb) if self.attends[level] else h)
            if level < coarsest:
                h = next(modules)(skips[-1], emb)
                if layout.progressive_input == "residual":
                    h = pyramid = (next(modules)(pyramid) + h) * self.rescale
                skips.append(h)
        h = skips[-1]
        for _ in range(3):
            h = next(modules)(h, emb)
        for level in reversed(range(coarsest + 1)):
            for _ in range(blocks + 1):
                h = next(modules)(torch.cat([h, skips.pop()], dim=1), emb)
            if self.attends[level]:
                h = next(modules)(h, emb)
            if level:
                h = next(modules)(h, emb)
        h = F.silu(next(modules)(h))
        out: Tensor = next(modules)(h)
        return out / noise[:, None, None, None] if layout.scale_by_sigma else out
