"""What the published U-Nets share: embeddings of the noise level, attention, resampling."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from medinv.errors import CheckpointError

Count = Annotated[int, Field(ge=1, le=64)]
"""Blocks of a level, layers of a block."""
Size = Annotated[int, Field(ge=1, le=16384)]
"""Channels of a tensor, pixels of an image's side."""


class Layout(BaseModel):
    """The shape of a network, in the words of its publication; base of the layouts.

    Each has ``build()`` (the network, with random weights), ``stride`` (sides of its input must be
    multiples of it) and ``context_size`` (numbers in a token of its context).

    Keys of a published configuration that only training uses are accepted and dropped; a key that
    is neither known nor among these is an error.

    Example:
        >>> Layout().model_dump()
        {}
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def context_size(self) -> int:
        """Numbers in a token of the context; 0 if the network takes none."""
        return 0

    @classmethod
    def training_only(cls) -> frozenset[str]:
        """Keys of the published configurations that don't change the network's output."""
        return frozenset()

    @model_validator(mode="before")
    @classmethod
    def _drop(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key not in cls.training_only()}


def sinusoid(t: Float[Tensor, " b"], dim: int, *, cosine_first: bool = True,
             shift: float = 0) -> Float[Tensor, "b dim"]:
    """Sines and cosines of ``t`` at ``dim / 2`` frequencies, 1 to about 1e-4.

    Args:
        t: noise coordinates; they may be fractional.
        dim: size of the embedding.
        cosine_first: whether the cosines come first.
        shift: 1 if the last frequency is 1e-4 exactly, 0 if the one after it would be.

    Example:
        >>> sinusoid(torch.zeros(1), 4).tolist()
        [[1.0, 1.0, 0.0, 0.0]]
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device) / (half - shift)
    phase = t[:, None] * torch.exp(-math.log(1e4) * steps)
    parts = (phase.cos(), phase.sin()) if cosine_first else (phase.sin(), phase.cos())
    return torch.cat(parts, dim=1)


def attend(q: Float[Tensor, "b c n"], k: Float[Tensor, "b c m"], v: Float[Tensor, "b c m"],
           heads: int) -> Float[Tensor, "b c n"]:
    """Softmax attention; each head has ``c / heads`` neighbouring channels.

    Example:
        >>> attend(*[torch.ones(1, 4, 3)] * 3, heads=2).shape
        torch.Size([1, 4, 3])
    """
    q, k, v = (x.reshape(len(x), heads, -1, x.shape[2]).mT for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)


def fir(taps: Sequence[float]) -> Float[Tensor, "k k"]:
    """A separable filter of sum one: (1, 1) averages neighbours, (1, 3, 3, 1) is smooth.

    Example:
        >>> fir((1, 1)).tolist()
        [[0.25, 0.25], [0.25, 0.25]]
    """
    row = torch.tensor(taps, dtype=torch.float32)
    return row[:, None] * row / row.sum().square()


def resample(x: Float[Tensor, "b c y x"], kernel: Float[Tensor, "k k"], *, up: bool,
             margin: int = 0) -> Tensor:
    """Twice or half the resolution, filtered.

    Args:
        x: features.
        kernel: an even filter (`fir`).
        up: whether the resolution doubles; it halves otherwise.
        margin: on the way down, filter only, with this many more pixels of zeros around, for a
            convolution with a stride of 2 that follows.

    Example:
        >>> resample(torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]]), fir((1, 1)), up=False).item()
        2.0
    """
    filters = kernel.to(x.dtype).repeat(x.shape[1], 1, 1, 1)
    pad = (len(kernel) - 1) // 2
    if up:
        return F.conv_transpose2d(x, 4 * filters, stride=2, padding=pad, groups=x.shape[1])
    stride = 1 if margin else 2
    return F.conv2d(x, filters, stride=stride, padding=pad + margin, groups=x.shape[1])


def int_list(value: object) -> object:
    """``"32,16"`` (as published configurations write lists) or ``16`` as a tuple of integers.

    Example:
        >>> int_list("32,16"), int_list(16), int_list([1, 2])
        ((32, 16), (16,), [1, 2])
    """
    if isinstance(value, str):
        return tuple(int(part) for part in value.split(",") if part)
    return (value,) if isinstance(value, int) else value


def check_divides(layout: str, widths: Iterable[int], divisor: int, what: str) -> None:
    """Refuse a configuration whose channels cannot be split into groups or heads.

    Raises:
        CheckpointError: a width is no multiple of ``divisor``.

    Example:
        >>> check_divides("adm", [64, 128], 32, "groups")
    """
    for width in widths:
        if width % divisor:
            raise CheckpointError(f"{layout}: {width} channels can't be split into {what} of "
                                  f"{divisor}; take the numbers of the published configuration")
