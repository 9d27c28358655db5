"""The gradient of the measurement's residual through the denoiser.

Chung et al., "Diffusion posterior sampling" (ICLR 2023, arXiv:2209.14687), equation 14: the
likelihood of a noisy ``x`` is approximated by that of its denoised image ``D(x)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medinv.operators.base import Operator
from medinv.priors.base import Prior
from medinv.priors.batches import halving
from medinv.priors.jacobian import linearize


def denoise_with_residual_gradient(prior: Prior, x: Tensor, sigma: float, y: Tensor,
                                   A: Operator) -> tuple[Tensor, Tensor]:
    """``D(x)`` and the gradient of ``||A D(x) - y||`` in ``x``, item by item.

    Args:
        prior: the denoiser; its Jacobian is taken by backpropagation.
        x: noisy images, ``(*batch, *A.domain.shape)``.
        sigma: their noise level.
        y: measurement, ``(*batch, *A.codomain.shape)``.
        A: its operator, in the same units as ``y``.

    Returns:
        The denoised image, and the gradient (0 for an item whose residual is 0), like ``x``.

    Example:
        >>> from medinv.operators import CartesianMRI
        >>> from medinv.priors import GaussianPrior
        >>> A = CartesianMRI(torch.ones(1, 2, 2) + 0j, torch.ones(2, 2))
        >>> prior = GaussianPrior(torch.zeros(2, 2) + 0j, torch.eye(4))
        >>> x = torch.ones(2, 2) + 0j
        >>> D, gradient = denoise_with_residual_gradient(prior, x, 1.0, A(0 * x), A)
        >>> D[0, 0], gradient[0, 0]  # D = x / 2, and ||D|| grows by D / ||D|| / 2
        (tensor(0.5000+0.j), tensor(0.2500+0.j))
    """
    return halving(prior, lambda: _denoise(prior, x, sigma, y, A))


def _denoise(prior: Prior, x: Tensor, sigma: float, y: Tensor,
             A: Operator) -> tuple[Tensor, Tensor]:
    D, vjp = linearize(prior, x, sigma)
    residual = A(D) - y
    axes = tuple(range(A.codomain.batch_ndim(residual), residual.ndim))
    size = torch.linalg.vector_norm(residual, dim=axes, keepdim=True)
    direction = torch.where(size > 0, residual / size, 0.0)
    return D, vjp(A.linearize(D).adjoint(direction))
