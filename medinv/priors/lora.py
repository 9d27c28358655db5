"""Low-rank adaptation of a prior's network.

Hu et al., "LoRA: low-rank adaptation of large language models" (ICLR 2022, arXiv:2106.09685): a
layer's weight ``W`` becomes ``W + up down`` with ``up`` (out, rank) at 0 and ``down`` (rank, in)
random. A convolution's ``in`` counts its kernel, so ``down`` is a convolution to ``rank`` channels
and ``up`` one of size 1. The sum is formed once per call, which costs nothing beside the layer.
"""

from __future__ import annotations

import copy

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

from medinv.errors import InputError
from medinv.priors.base import Prior

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)


class LowRank(nn.Module):
    """``W -> W + up down``: a parametrisation of a weight, the identity at first.

    Args:
        weight: the weight, (out, ...).
        rank: number of directions added.
        rng: source of ``down``.

    Example:
        >>> weight = torch.randn(8, 4, 3, 3)
        >>> torch.equal(LowRank(weight, rank=2, rng=None)(weight), weight)
        True
    """

    def __init__(self, weight: Tensor, rank: int, rng: Generator | None) -> None:
        super().__init__()
        down = torch.randn(rank, weight[0].numel(), generator=rng) / rank
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        """``W + up down``, shaped like ``W``."""
        return weight + (self.up @ self.down).reshape(weight.shape)


def adaptable_copy(prior: Prior, rank: int, *, biases: bool = True,
                   targets: tuple[str, ...] = (),
                   rng: Generator | None = None) -> tuple[Prior, list[nn.Parameter]]:
    """A copy of a prior that adds low-rank weights to its layers, and what to train of it.

    The copy denoises exactly as the prior does until it is trained; the prior is never touched,
    so there is nothing to undo. The copy is in evaluation mode (no dropout).

    Args:
        prior: a prior with networks inside, however wrapped.
        rank: rank of the added weights; layers that are thinner keep theirs.
        biases: whether the biases of the adapted layers are trained too.
        targets: adapt only layers whose name contains one of these; all of them if empty.
        rng: source of the random factors.

    Raises:
        InputError: no layer can be adapted.

    Example:
        >>> from medinv.priors import NetworkPrior, UNet
        >>> prior = NetworkPrior(UNet(1, (16, 32), (1, 1), 16), sigma_data=0.5)
        >>> copied, parameters = adaptable_copy(prior, rank=2)
        >>> x = torch.randn(1, 8, 8)
        >>> torch.equal(copied(x, 0.3), prior(x, 0.3)), sum(p.numel() for p in parameters) > 0
        (True, True)
    """
    adapted = copy.deepcopy(prior).eval().requires_grad_(False)
    chosen = {
        name: layer for name, layer in adapted.named_modules()
        if isinstance(layer, _LAYERS) and min(len(layer.weight), layer.weight[0].numel()) > rank
        and (not targets or any(part in name for part in targets))
    }
    if rank < 1 or not chosen:
        raise InputError(
            f"LoRA: no layer of {type(prior).__name__} can take rank {rank}"
            + (f" among those called {', '.join(targets)}" if targets else "")
            + "; expected a network with convolutions or linear layers, and a rank of at least 1"
        )
    parameters: list[nn.Parameter] = []
    for layer in chosen.values():
        low_rank = LowRank(layer.weight, rank, rng)
        parametrize.register_parametrization(layer, "weight", low_rank)
        parameters += [low_rank.down, low_rank.up]
        if biases and isinstance(layer.bias, nn.Parameter):
            layer.bias.requires_grad_()
            parameters.append(layer.bias)
    return adapted, parameters
