"""One's own denoiser as a prior."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from medinv.errors import CheckpointError, InputError, ShapeError
from medinv.priors.base import IntensityScale, Prior
from medinv.priors.batches import halving, in_parts

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""``D(x, sigma)`` of images (b, y, x), or volumes (b, z, y, x), at noise levels (b,)."""


class DenoiserPrior(Prior):
    """A prior from any denoiser ``D(x, sigma) = E[x0 | x]`` of ``x = x0 + sigma n``.

    It is a function or a module, whose parameters then move with the prior; a network that
    predicts noise, velocity or ``x0`` in another parametrisation is no denoiser yet, see
    docs/own-denoiser.md.

    Args:
        denoise: takes images (b, y, x), float32 or complex64, and levels (b,); returns images of
            the same shape. Volumes (b, z, y, x) with ``ndim=3``.
        complex_images: whether items are complex.
        scale: how the denoiser's units relate to physical intensity.
        error_std: root mean square of ``D - x0`` per real component by noise level; that of a
            Gaussian of unit variance if None.
        ndim: axes of an item, 2 or 3.
        chunk: most items denoised at once; halved where memory runs out.

    Raises:
        InputError: no function, or another number of axes.

    Example:
        >>> prior = DenoiserPrior(lambda x, sigma: x / (1 + sigma[:, None, None] ** 2))
        >>> prior(torch.ones(3, 8, 8), sigma=1.0).unique().tolist()
        [0.5]
    """

    def __init__(self, denoise: Denoiser, *, complex_images: bool = False,
                 scale: IntensityScale | None = None,
                 error_std: Callable[[float], float] | None = None, ndim: int = 2,
                 chunk: int = 8) -> None:
        super().__init__()
        if not callable(denoise) or ndim not in (2, 3) or chunk < 1:
            raise InputError("DenoiserPrior: expected a function of images and noise levels, 2 or "
                             f"3 axes and a chunk of at least 1, got {type(denoise).__name__}, "
                             f"{ndim} and {chunk}")
        if isinstance(denoise, Prior):
            raise InputError("DenoiserPrior: expected a function, got a prior; pass it as it is")
        self.denoise = denoise
        if isinstance(denoise, nn.Module):
            denoise.eval()
        self.dtype = torch.complex64 if complex_images else torch.float32
        self.ndim, self.scale, self.chunk = ndim, scale or IntensityScale(), chunk
        self._error_std = error_std

    def error_variance(self, sigma: float) -> float:
        """The square of ``error_std``."""
        if self._error_std is None:
            return super().error_variance(sigma)
        return self._error_std(sigma) ** 2

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``D`` of ``x`` (*batch, *item), computed in single precision.

        Raises:
            ShapeError: the denoiser returns something else than images like its own.
        """
        batch, item = x.shape[:-self.ndim], x.shape[-self.ndim:]
        items = x.reshape(math.prod(batch), *item).to(self.dtype)
        levels = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        levels = levels.expand(batch).flatten()
        denoised = halving(self, lambda: in_parts(self._checked, list(zip(
            torch.split(items, self.chunk), torch.split(levels, self.chunk), strict=True))))
        return denoised.reshape(x.shape).to(x.dtype)

    def _checked(self, items: Tensor, sigma: Tensor) -> Tensor:
        out = self.denoise(items, sigma)
        if not isinstance(out, Tensor) or (out.shape, out.dtype) != (items.shape, items.dtype):
            got = (f"{tuple(out.shape)} of {out.dtype}" if isinstance(out, Tensor)
                   else type(out).__name__)
            raise ShapeError("DenoiserPrior: expected the denoiser to return "
                             f"{tuple(items.shape)} of {items.dtype}, like its input, got {got}")
        return out


def check_prior(prior: object) -> None:
    """Raise `CheckpointError` unless it is a `Prior`, and say how to make one.

    Example:
        >>> check_prior(lambda x, sigma: x)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        medinv.errors.CheckpointError: expected a prior, got function; wrap a denoiser ...
    """
    if not isinstance(prior, Prior):
        raise CheckpointError(
            f"expected a prior, got {type(prior).__name__}; wrap a denoiser D(x, sigma) in "
            "medinv.priors.DenoiserPrior, or load one with medinv.load_prior "
            "(docs/own-denoiser.md)")
