"""A 2D prior on the slices of a volume, along any axis."""

from __future__ import annotations

import torch
from torch import Tensor

from medinv.arguments import checked
from medinv.errors import InputError, ShapeError
from medinv.priors.base import Prior
from medinv.priors.batches import halving, in_parts


class SlicePrior(Prior):
    """The product of a 2D prior over the slices of volumes (z, y, x).

    Slices go through the network ``chunk`` at a time, so memory is bounded by two volumes and what
    one chunk needs; where gradients are recorded, each chunk is computed again on the way back.

    Args:
        prior: a prior of 2D images.
        axis: the axis that slices are perpendicular to, -3 (z), -2 (y) or -1 (x).
        chunk: most slices denoised at once; halved where memory runs out.

    Example:
        >>> from medinv.priors import GaussianPrior
        >>> prior = SlicePrior(GaussianPrior(torch.zeros(1, 2), torch.eye(2)))
        >>> prior(torch.ones(2, 1, 2), 1.0).tolist()
        [[[0.5, 0.5]], [[0.5, 0.5]]]
    """

    @checked
    def __init__(self, prior: Prior, axis: int = -3, chunk: int = 8) -> None:
        super().__init__()
        if chunk < 1:
            raise InputError(f"SlicePrior: expected a chunk of at least one slice, got {chunk}")
        if prior.ndim != 2 or axis not in (-3, -2, -1):
            raise ShapeError(
                f"SlicePrior: expected a 2D prior and axis -3, -2 or -1, got a {prior.ndim}D "
                f"prior and axis {axis}"
            )
        self.prior, self.axis, self.chunk = prior, axis, chunk
        self.dtype, self.ndim, self.scale = prior.dtype, 3, prior.scale

    def error_variance(self, sigma: float) -> float:
        """That of the 2D prior."""
        return self.prior.error_variance(sigma)

    def of_slices(self, index: Tensor) -> SlicePrior:
        """Of part of a volume, cut along z."""
        if self.axis != -3:
            return self
        return SlicePrior(self.prior.of_slices(index), self.axis, self.chunk)

    def at_slices(self, x: Tensor, sigma: Tensor | float, index: Tensor) -> Tensor:
        """Slices of ``D(x)``; those along z are denoised alone, other planes need the volume."""
        if self.axis != -3:
            return super().at_slices(x, sigma, index)
        denoised: Tensor = self.of_slices(index)(x.index_select(-3, index), sigma)
        return denoised

    @checked
    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``E[x0 | x]`` for volumes ``x`` (*batch, z, y, x)."""
        levels = self.levels(x, sigma).flatten()
        slices = x.movedim(self.axis, -3)
        volumes = slices.reshape(-1, *slices.shape[-3:])
        denoised = halving(self, lambda: torch.stack([
            self._in_parts(volume, level) for volume, level in zip(volumes, levels, strict=True)
        ]))
        return denoised.reshape(slices.shape).movedim(-3, self.axis)

    def _in_parts(self, volume: Tensor, sigma: Tensor) -> Tensor:
        """Slices (n, y, x), ``chunk`` at a time."""
        indices = torch.split(torch.arange(len(volume)), self.chunk)
        priors = [self.prior.of_slices(index) for index in indices]
        return in_parts(_denoise, [(prior, part, sigma) for prior, part in zip(
            priors, torch.split(volume, self.chunk), strict=True)])


def _denoise(prior: Prior, part: Tensor, sigma: Tensor) -> Tensor:
    denoised: Tensor = prior(part, sigma)
    return denoised
