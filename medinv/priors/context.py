"""Priors that are told what they look at, with classifier-free guidance.

Ho and Salimans, "Classifier-free diffusion guidance" (arXiv:2207.12598), as ContextMRI (Chung et
al. 2025, arXiv:2501.04284) uses it: one network knows ``p(x)`` and ``p(x | c)``, and

    D_w(x, sigma) = D(x, sigma) + w (D(x, sigma | c) - D(x, sigma))

``w = 0`` ignores the context, ``w = 1`` is ``p(x | c)``, and ``w > 1`` leans further towards it,
to ``p(x | c)^w p(x)^(1 - w)``, which no longer is a posterior of the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medinv.arguments import checked
from medinv.errors import CheckpointError, InputError, ShapeError
from medinv.priors.base import Prior
from medinv.priors.edm import NetworkPrior
from medinv.priors.networks import UNet
from medinv.priors.text import TextEncoder


class ContextPrior(Prior):
    """A network's prior given a context, for any solver.

    At ``w = 0`` and ``w = 1`` one network call is made, at other weights two. The published code
    returns the unconditional branch at ``w = 1`` in its sibling TReg; here it is the conditional.

    Args:
        prior: a prior whose network takes a context.
        context: a vector (n,) for all images, or (slice, n): one for each slice of a stack.
        weight: guidance weight w, at least 0.

    Raises:
        CheckpointError: the network takes no context, or one of another size.
        InputError: a negative weight.

    Example:
        >>> from medinv.priors import NetworkPrior, UNet
        >>> network = UNet(1, widths=(16, 32), blocks=(1, 1), embedding=16, context=3)
        >>> prior = ContextPrior(NetworkPrior(network, sigma_data=0.5), torch.ones(3))
        >>> prior(torch.zeros(5, 8, 8), 0.1).shape
        torch.Size([5, 8, 8])
    """

    def __init__(self, prior: NetworkPrior, context: Tensor, weight: float = 1.0) -> None:
        super().__init__()
        size = prior.network.context if isinstance(prior.network, UNet) else context.shape[-1]
        if size != context.shape[-1] or context.ndim not in (1, 2):
            takes = f"vectors of {size} numbers" if size else "no context"
            raise CheckpointError(
                f"ContextPrior: the prior's network takes {takes}, got {tuple(context.shape)}; "
                "choose a prior that was trained with prompts, and its own text encoder"
            )
        if not 0 <= weight < math.inf:
            raise InputError(f"ContextPrior: expected a weight of at least 0, got {weight}")
        self.prior, self.weight = prior, weight
        self.context: Tensor
        self.register_buffer("context", context)
        self.dtype, self.ndim, self.scale = prior.dtype, prior.ndim, prior.scale

    def error_variance(self, sigma: float) -> float:
        """That of the network, measured over images with their contexts."""
        return self.prior.error_variance(sigma)

    def of_slices(self, index: Tensor) -> ContextPrior:
        """The same network, given the contexts of these slices."""
        if self.context.ndim == 1:
            return self
        return ContextPrior(self.prior, self.context[index.to(self.context.device)], self.weight)

    @checked
    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``D_w`` of ``x`` (*batch, y, x); contexts for slices need ``x`` (*batch, slice, y, x).

        Raises:
            ShapeError: another number of slices than of contexts.
        """
        if self.weight == 0:
            return self._denoise(x, sigma, None)
        if self.context.ndim == 2 and (x.ndim < 3 or x.shape[-3] != len(self.context)):
            raise ShapeError(
                f"ContextPrior: {len(self.context)} slices are described, got {tuple(x.shape)}; "
                "pass whole stacks, or take the prior of fewer slices with `of_slices`"
            )
        given = self._denoise(x, sigma, self.context)
        if self.weight == 1:
            return given
        return torch.lerp(self._denoise(x, sigma, None), given, self.weight)

    def _denoise(self, x: Tensor, sigma: Tensor | float, context: Tensor | None) -> Tensor:
        denoised: Tensor = self.prior(x, sigma, context)
        return denoised


def conditioned(prior: Prior, prompts: str | Sequence[str], encoder: TextEncoder,
                weight: float = 1.0) -> ContextPrior:
    """A prior given a prompt, or one prompt for each slice; prompts of metadata are in `data`.

    Args:
        prior: a prior that was trained with prompts.
        prompts: one for all images, or one for each slice of a stack.
        encoder: the one it was trained with.
        weight: guidance weight, see `ContextPrior`.

    Raises:
        CheckpointError: the prior takes no prompts, or was trained with another encoder.

    Example:
        >>> from medinv.data import load_manifest
        >>> from medinv.priors import MiniLM, load_prior
        >>> encoder = MiniLM(**load_manifest("minilm-l6-v2").fetch())  # doctest: +SKIP
        >>> prior = load_prior("told.safetensors")  # doctest: +SKIP
        >>> prior = conditioned(prior, "brain, T2w, axial", encoder)  # doctest: +SKIP
    """
    if not isinstance(prior, NetworkPrior) or prior.text_encoder != encoder.name:
        wanted = prior.text_encoder if isinstance(prior, NetworkPrior) else None
        takes = f"prompts through {wanted}" if wanted else "no prompts"
        raise CheckpointError(f"conditioned: the prior takes {takes}, got the encoder "
                              f"{encoder.name}; choose a prior whose card names that encoder")
    vectors = encoder([prompts] if isinstance(prompts, str) else prompts)
    return ContextPrior(prior, vectors[0] if isinstance(prompts, str) else vectors, weight)
