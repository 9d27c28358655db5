"""A denoiser and its Jacobian at one image, in bounded memory.

With ``J = dD/dx``, Tweedie's second formula is ``Cov[x0 | x] = sigma^2 J``, which is symmetric for
an exact denoiser: what guidance needs of a prior beside ``D`` itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medinv.priors.base import Prior


def linearize(prior: Prior, x: Tensor, sigma: Tensor | float) -> tuple[
        Tensor, Callable[[Tensor], Tensor]]:
    """``D(x)``, and the map ``v -> J^H v``, which may be applied any number of times.

    What one batch of the network remembers is kept; of more images than the prior's ``chunk``,
    every batch is computed again whenever the map is applied (see `batches.in_parts`).

    Args:
        prior: the denoiser.
        x: noisy images, ``(*batch, *item)``.
        sigma: their noise level.

    Returns:
        The denoised images, and the map, whose ``v`` is like ``x``. For complex images ``J`` is
        linear over the reals and ``J^H`` its adjoint for ``Re <u, v>``.

    Example:
        >>> from medinv.priors import GaussianPrior
        >>> D, vjp = linearize(GaussianPrior(torch.zeros(2), torch.eye(2)), torch.ones(2), 1.0)
        >>> D, vjp(torch.tensor([1.0, 0.0]))
        (tensor([0.5000, 0.5000]), tensor([0.5000, 0.0000]))
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        D: Tensor = prior(x, sigma)

    def vjp(v: Tensor) -> Tensor:
        gradient, = torch.autograd.grad(D, x, v, retain_graph=True)
        return gradient

    return D.detach(), vjp
