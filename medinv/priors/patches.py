"""A prior of whole images from a denoiser of patches that knows where they lie.

PaDIS: Hu et al., "Learning image priors through patch-based diffusion models for solving inverse
problems" (NeurIPS 2024, arXiv:2406.02462). An image with a border of zeros is tiled by ``P x P``
patches in every possible shift; its score is the mean over shifts, of which each call takes one.
Along an axis of ``N`` pixels, ``k = N // P + 1`` tiles start anywhere in the ``k P - N`` pixels of
border before the image, so that every shift covers each pixel exactly once.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from medinv.arguments import checked
from medinv.errors import InputError
from medinv.operators.linalg import standard_normal
from medinv.priors.base import IntensityScale, Prior
from medinv.priors.batches import halving, in_parts
from medinv.priors.edm import NetworkPrior, from_channels, to_channels

PatchDenoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``D`` of patches (n, p, p) at levels (n,), with their positions (n, 2, p, p)."""


def positions(rows: Tensor, columns: Tensor, shape: tuple[int, int], side: int) -> Tensor:
    """Where pixels lie: column and row from the image's centre, in half ``side`` pixels.

    The unit is fixed when a prior is trained (there, ``side`` spans -1 to 1) and used for images
    of every size, so that the same anatomy keeps its coordinates.

    Args:
        rows: row indices of a patch, (p,), in pixels of the image without its border.
        columns: its column indices, (p,).
        shape: the image's shape (y, x).
        side: pixels from -1 to 1.

    Returns:
        (2, p, p): the column's coordinate, then the row's.

    Example:
        >>> positions(torch.arange(3), torch.arange(3), (3, 3), side=4)[0, 0].tolist()
        [-0.5, 0.0, 0.5]
    """
    y, x = ((index - (n - 1) / 2) * (2 / side)
            for index, n in zip((rows, columns), shape, strict=True))
    return torch.stack([x.expand(len(y), len(x)), y[:, None].expand(len(y), len(x))])


class PatchNetwork(nn.Module):
    """Denoises patches by a `NetworkPrior` whose network takes their positions as channels.

    Args:
        prior: the network with its preconditioning, of which the positions see nothing.

    Example:
        >>> from medinv.priors import UNet
        >>> network = UNet(1, (16, 32), (1, 1), 16, extra_channels=2)
        >>> denoiser = PatchNetwork(NetworkPrior(network, sigma_data=0.5))
        >>> denoiser(torch.zeros(3, 8, 8), torch.ones(3), torch.zeros(3, 2, 8, 8)).shape
        torch.Size([3, 8, 8])
    """

    def __init__(self, prior: NetworkPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, patches: Tensor, sigma: Tensor, where: Tensor) -> Tensor:
        """``D`` of patches (n, p, p) at levels (n,), with their positions (n, 2, p, p)."""
        own = to_channels(patches.to(self.prior.dtype))
        denoised = self.prior.denoise(own, sigma.float(), where=where.float())
        return from_channels(denoised, self.prior.dtype).to(patches.dtype)


class PatchPrior(Prior):
    """Denoises images of any size patch by patch, in one random shift of the tiling per image.

    The shift, and the noise of the border, come from the image itself and the noise level: the
    same input gives the same output, a slightly different one another shift. Images of a batch
    don't influence each other.

    Args:
        denoiser: denoises patches; a module moves with the prior.
        patch: side of the patches, P.
        side: pixels that the positions' range -1 to 1 spans.
        dtype: float32 or complex64 images (double precision for tests).
        scale: how the prior's units relate to physical intensity.
        error_variance: of the denoiser by noise level; a unit Gaussian's if None.
        chunk: most patches denoised at once; halved where memory runs out.

    Raises:
        InputError: no positive patch or side.

    Example:
        >>> prior = PatchPrior(lambda x, sigma, where: 0.5 * x, patch=4, side=8)
        >>> torch.equal(prior(torch.ones(7, 9), 1.0), torch.full((7, 9), 0.5))
        True
    """

    @checked
    def __init__(self, denoiser: PatchDenoiser, patch: int, side: int, *,
                 dtype: torch.dtype = torch.float32, scale: IntensityScale | None = None,
                 error_variance: Callable[[float], float] | None = None,
                 chunk: int = 64) -> None:
        super().__init__()
        if patch < 1 or side < 1:
            raise InputError(f"PatchPrior: expected a patch and side of at least one pixel, got "
                             f"{patch} and {side}")
        self.denoiser, self.patch, self.side, self.chunk = denoiser, patch, side, chunk
        self.dtype, self.ndim, self.scale = dtype, 2, scale or IntensityScale()
        self._error_variance = error_variance

    @classmethod
    def from_network(cls, prior: NetworkPrior, patch: int, side: int) -> PatchPrior:
        """Around a network that was trained on patches with positions.

        Args:
            prior: the network; it gives scale, dtype and error.
            patch: side of the patches, P.
            side: pixels that the positions' range -1 to 1 spanned in training.
        """
        return cls(PatchNetwork(prior), patch, side, dtype=prior.dtype, scale=prior.scale,
                   error_variance=prior.error_variance)

    def error_variance(self, sigma: float) -> float:
        """That of the denoiser of patches."""
        if self._error_variance is None:
            return super().error_variance(sigma)
        return self._error_variance(sigma)

    @checked
    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``E[x0 | x]`` for ``x`` (*batch, y, x); ``sigma`` a number or of the batch's shape."""
        levels = self.levels(x, sigma).flatten()
        shape = x.shape[-2], x.shape[-1]
        images = x.reshape(-1, *shape)
        tilings = [self._tiling(image, level) for image, level in zip(images, levels, strict=True)]
        tiles = torch.cat([tiles for tiles, _, _ in tilings])
        where = torch.cat([where for _, where, _ in tilings])
        sigmas = levels.repeat_interleave(len(tilings[0][0]))
        denoised = halving(self, lambda: in_parts(self.denoiser, list(zip(
            *(torch.split(t, self.chunk) for t in (tiles, sigmas, where)), strict=True))))
        pasted = [
            self._paste(patches, shape, start)
            for patches, (_, _, start) in zip(torch.split(denoised, len(tilings[0][0])), tilings,
                                              strict=True)
        ]
        return torch.stack(pasted).reshape(x.shape)

    def _counts(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Tiles along each axis."""
        return shape[0] // self.patch + 1, shape[1] // self.patch + 1

    def _tiling(self, image: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """The patches of one shift, their positions, and the pixels of border before the image."""
        p, shape = self.patch, (image.shape[0], image.shape[1])
        rng = image_generator(image, float(sigma))
        counts = self._counts(shape)
        border = [k * p - n for k, n in zip(counts, shape, strict=True)]
        top, left = (int(torch.randint(m + 1, (), generator=rng)) for m in border)
        noise = sigma * standard_normal(image.detach().new_empty(counts[0] * p, counts[1] * p),
                                        rng)
        inside = F.pad(torch.ones_like(image.detach().real, dtype=torch.bool),
                       (left, border[1] - left, top, border[0] - top))
        padded = F.pad(image, (left, border[1] - left, top, border[0] - top))
        canvas = torch.where(inside, padded, noise)
        rows, columns = (torch.arange(k * p, device=image.device) - start
                         for k, start in zip(counts, (top, left), strict=True))
        where = positions(rows, columns, shape, self.side).to(image.real.dtype)
        return self._cut(canvas), self._cut(where).movedim(-3, 1), (top, left)

    def _cut(self, canvas: Tensor) -> Tensor:
        """(..., k p, m p) to (k m, ..., p, p)."""
        p = self.patch
        k, m = (n // p for n in canvas.shape[-2:])
        tiles = canvas.reshape(*canvas.shape[:-2], k, p, m, p).movedim((-4, -2), (0, 1))
        return tiles.flatten(0, 1)

    def _paste(self, patches: Tensor, shape: tuple[int, int], start: tuple[int, int]) -> Tensor:
        """(k m, p, p) to the image inside its border."""
        (k, m), p = self._counts(shape), self.patch
        canvas = patches.reshape(k, m, p, p).movedim(1, 2).reshape(k * p, m * p)
        return canvas[start[0] : start[0] + shape[0], start[1] : start[1] + shape[1]]


def image_generator(image: Tensor, sigma: float) -> Generator:
    """Random numbers that depend on the first pixel of an image (y, x) and the level alone.

    Example:
        >>> a, b = (image_generator(torch.ones(2, 2), 0.1) for _ in range(2))
        >>> torch.equal(a.get_state(), b.get_state())
        True
    """
    first = torch.view_as_real(image)[0, 0] if image.is_complex() else image[0, :1]
    values = (*first.tolist(), sigma)
    return Generator().manual_seed(zlib.crc32(struct.pack(f"<{len(values)}d", *values)))
