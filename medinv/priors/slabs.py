"""A prior of volumes from a denoiser of slabs: a few neighbouring slices at once.

DiffusionBlend: Song, Hu, Luo, Fessler and Shen, "DiffusionBlend: learning 3D image prior through
position-aware diffusion score blending for 3D computed tomography reconstruction" (NeurIPS 2024,
arXiv:2406.10211). A volume is cut into slabs of K slices, which go through the network as
channels: one call denoises K slices. The score is the mean over the K places where the cuts may
lie, of which each call takes one. Slices before the first and after the last whole slab are those
of a slab that is moved to the volume's end. The published code needs a number of slices that K
divides, and draws the place from a global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from medinv.errors import CheckpointError, ShapeError
from medinv.priors.base import IntensityScale, Prior
from medinv.priors.batches import halving, in_parts
from medinv.priors.depth import spacing_context
from medinv.priors.edm import NetworkPrior, from_channels, to_channels
from medinv.priors.networks import UNet
from medinv.priors.patches import image_generator

SlabDenoiser = Callable[[Tensor, Tensor], Tensor]
"""``D`` of slabs (n, K, y, x) at levels (n,)."""

Offset = Callable[[Tensor, float], int]
"""Where the first cut of a volume (z, y, x) at a level lies; taken modulo K."""


def random_offset(volume: Tensor, sigma: float) -> int:
    """A random place that depends on the volume's first pixel and the level alone.

    Example:
        >>> random_offset(torch.zeros(4, 2, 2), 0.5) == random_offset(torch.zeros(4, 2, 2), 0.5)
        True
    """
    rng = image_generator(volume[0].detach(), sigma)
    return int(torch.randint(2**31, (), generator=rng))


def cycled_offset(levels: Sequence[float]) -> Offset:
    """The places in turn, one at each noise level of a schedule.

    Example:
        >>> offset = cycled_offset([10.0, 1.0, 0.1])
        >>> [offset(torch.zeros(4, 2, 2), sigma) for sigma in (10.0, 1.0, 0.1)]
        [0, 1, 2]
    """
    known = torch.tensor(levels).log()

    def offset(_: Tensor, sigma: float) -> int:
        return int((known - torch.tensor(sigma).log()).abs().argmin())

    return offset


class SlabNetwork(nn.Module):
    """Denoises slabs by a `NetworkPrior` whose network takes their slices as channels.

    Args:
        prior: the network with its preconditioning.
        spacing_mm: from pixel to pixel and from slice to slice, if known.

    Raises:
        CheckpointError: the network takes single slices.

    Example:
        >>> network = UNet(1, (16, 32), (1, 1), 16, slab=3)
        >>> SlabNetwork(NetworkPrior(network, sigma_data=0.5))(torch.zeros(2, 3, 8, 8),
        ...                                                    torch.ones(2)).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, prior: NetworkPrior, spacing_mm: tuple[float, float] | None = None) -> None:
        super().__init__()
        if not isinstance(prior.network, UNet) or prior.network.slab < 2 or prior.network.taps:
            raise CheckpointError("SlabNetwork: expected a network of slabs without taps, got "
                                  f"{type(prior.network).__name__} of single slices or stacks")
        self.prior, self.slices, self.spacing_mm = prior, prior.network.slab, spacing_mm
        self.told = bool(prior.network.context) and spacing_mm is not None

    def forward(self, slabs: Tensor, sigma: Tensor) -> Tensor:
        """``D`` of slabs (n, K, y, x) at levels (n,)."""
        context = (spacing_context(self.spacing_mm).to(slabs.device).expand(len(slabs), -1)
                   if self.told else None)
        denoised = self.prior.denoise(to_channels(slabs.to(self.prior.dtype)), sigma.float(),
                                      context)
        return from_channels(denoised, self.prior.dtype).to(slabs.dtype)


class SlabPrior(Prior):
    """Denoises volumes of any number of slices slab by slab, with one place of the cuts per call.

    Args:
        denoiser: denoises slabs; a module moves with the prior.
        slices: of a slab, K.
        offset: where the cuts lie, by volume and level.
        dtype: float32 or complex64 volumes (double precision for tests).
        scale: how the prior's units relate to physical intensity.
        error_variance: of the denoiser by noise level; a unit Gaussian's if None.
        chunk: most slabs denoised at once; halved where memory runs out.

    Raises:
        ShapeError: slabs of less than two slices.

    Example:
        >>> prior = SlabPrior(lambda x, sigma: 0.5 * x, slices=3)
        >>> torch.equal(prior(torch.ones(7, 2, 2), 1.0), torch.full((7, 2, 2), 0.5))
        True
    """

    def __init__(self, denoiser: SlabDenoiser, slices: int, *, offset: Offset = random_offset,
                 dtype: torch.dtype = torch.float32, scale: IntensityScale | None = None,
                 error_variance: Callable[[float], float] | None = None, chunk: int = 4) -> None:
        super().__init__()
        if slices < 2:
            raise ShapeError(f"SlabPrior: expected slabs of at least 2 slices, got {slices}")
        self.denoiser, self.slices, self.offset, self.chunk = denoiser, slices, offset, chunk
        self.dtype, self.ndim, self.scale = dtype, 3, scale or IntensityScale()
        self._error_variance = error_variance

    @classmethod
    def from_network(cls, prior: NetworkPrior, spacing_mm: tuple[float, float] | None = None,
                     offset: Offset = random_offset) -> SlabPrior:
        """Around a network that takes slabs.

        Args:
            prior: the network; it gives K, scale, dtype and error.
            spacing_mm: from pixel to pixel and from slice to slice, if known.
            offset: where the cuts lie.
        """
        network = SlabNetwork(prior, spacing_mm)
        return cls(network, network.slices, offset=offset, dtype=prior.dtype, scale=prior.scale,
                   error_variance=prior.error_variance)

    def at_spacing(self, spacing_mm: tuple[float, float]) -> SlabPrior:
        """The same for volumes of this spacing."""
        if not isinstance(self.denoiser, SlabNetwork):
            return self
        return SlabPrior.from_network(self.denoiser.prior, spacing_mm, self.offset)

    def error_variance(self, sigma: float) -> float:
        """That of the denoiser of slabs."""
        if self._error_variance is None:
            return super().error_variance(sigma)
        return self._error_variance(sigma)

    def at_slices(self, x: Tensor, sigma: Tensor | float, index: Tensor) -> Tensor:
        """Slices of ``D(x)``, from their slabs alone."""
        volumes, levels = self._volumes(x, sigma)
        D = halving(self, lambda: torch.stack([
            self._denoise(volume, level, index)
            for volume, level in zip(volumes, levels, strict=True)]))
        return D.reshape(*x.shape[:-3], *D.shape[-3:])

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``E[x0 | x]`` for volumes ``x`` (*batch, z, y, x).

        Raises:
            ShapeError: fewer slices than a slab has.
        """
        return self.at_slices(x, sigma, torch.arange(x.shape[-3] if x.ndim > 2 else 0))

    def _volumes(self, x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
        if x.ndim < 3 or x.shape[-3] < self.slices:
            raise ShapeError(
                f"SlabPrior: expected volumes (*batch, z, y, x) of at least {self.slices} slices, "
                f"got {tuple(x.shape)}; choose a prior of single slices, or one with taps")
        levels = torch.as_tensor(sigma, dtype=x.real.dtype, device=x.device)
        return x.reshape(-1, *x.shape[-3:]), levels.expand(x.shape[:-3]).flatten()

    def _denoise(self, volume: Tensor, sigma: Tensor, index: Tensor) -> Tensor:
        """Slices ``index`` of one volume."""
        k, index = self.slices, index.to(volume.device)
        cut = self.offset(volume, float(sigma)) % k
        numbers, which = torch.unique((index - cut).div(k, rounding_mode="floor"),
                                      return_inverse=True)
        first = (numbers * k + cut).clamp(0, len(volume) - k)  # of each slab
        slabs = volume[first[:, None] + torch.arange(k, device=volume.device)]
        sigmas = sigma.expand(len(slabs))
        D = in_parts(self.denoiser, list(zip(
            *(torch.split(t, self.chunk) for t in (slabs, sigmas)), strict=True)))
        return D[which, index - first[which]]
