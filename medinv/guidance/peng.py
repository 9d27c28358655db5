"""The optimal covariance of a family."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medinv.errors import InputError
from medinv.guidance.guided import Estimate, Guidance, Need, through_jacobian


@dataclass(frozen=True)
class Peng(Guidance):
    """Optimal posterior covariance (Peng et al., ICML 2024, arXiv:2402.02149).

    ``C`` is the maximum-likelihood one of a family: the mean squared error of the denoiser at
    this level, one number (the paper's "analytic"), or one for each element. The prior knows it:
    shipped and trained ones measure it on validation images, closed-form ones compute it. Exact
    where the true covariance lies in the family.

    Args:
        jacobian: guidance I, through the denoiser's Jacobian; II, ``D + C A^H w``, if false.
        diagonal: a variance for each element, where the prior has one.
        cg_iter: conjugate gradient steps of the solve.

    Example:
        >>> Peng(jacobian=False)
        Peng(jacobian=False, diagonal=False, cg_iter=20)
    """

    jacobian: bool = False
    diagonal: bool = False
    cg_iter: int = 20

    def __post_init__(self) -> None:
        if self.cg_iter < 1:
            raise InputError(f"Peng: expected at least one cg_iter, got {self.cg_iter}")

    @property
    def needs(self) -> frozenset[Need]:
        """The Jacobian, for guidance I."""
        return frozenset({"jacobian"}) if self.jacobian else frozenset()

    def correction(self, at: Estimate) -> Tensor:
        """``sigma^2 J^H A^H w`` or ``C A^H w``."""
        variance: Tensor | float = at.prior.error_variance(at.sigma)
        if self.diagonal:
            variance = at.prior.error_diagonal(at.sigma)

        def covariance(v: Tensor) -> Tensor:
            return v * variance

        w = at.solve(covariance, self.cg_iter)
        return through_jacobian(at, w) if self.jacobian else covariance(at.A.adjoint(w))


def variance_of_learned(learned: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The error of ``D`` from the variance that a DDPM learned for its steps (Peng, eq. 22).

    The reverse step from ``sigma`` to ``sigma'`` has the variance of the ancestral one plus that
    of ``x0``, times the square of its weight ``k = 1 - sigma'^2 / sigma^2``, in the VE coordinate.

    Args:
        learned: variance of the step, in the VE coordinate.
        sigma: the step's first level.
        sigma_next: its second.

    Returns:
        ``Var[x0 | x]``, at least 1e-6.

    Example:
        >>> import torch
        >>> variance_of_learned(torch.tensor(0.5), 2.0, 1.0)  # (0.5 - 0.75) / 0.75^2 is negative
        tensor(1.0000e-06)
    """
    kept = 1 - sigma_next**2 / sigma**2
    return ((learned - sigma_next**2 * kept) / kept**2).clamp(min=1e-6)
