"""The posterior's denoiser from the prior's: ``D(x, sigma | y) = E[x0 | x, y]``.

``p(x0 | x)`` is taken as Gaussian, ``N(D, C)``. With ``r = y - A D`` and noise of variance ``s^2``

    w    = (s^2 + A C A^H)^-1 r
    D_y  = D + sigma^2 J^H A^H w       by the chain rule through the denoiser, ``J = dD/dx``
    D_y  = D + C A^H w                 or without it; the same where C = sigma^2 J, which is exact

and the papers differ in ``C``. A nonlinear ``A`` is linearised at ``D``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medinv.errors import InputError
from medinv.operators.base import LinearOperator
from medinv.operators.linalg import cg
from medinv.priors.base import Prior
from medinv.priors.batches import halving
from medinv.priors.jacobian import linearize
from medinv.problem import Problem

Need = Literal["linear", "noise", "jacobian", "svd", "network", "volume"]
"""A linear operator; its SVD; the noise of y; the denoiser's Jacobian; a network inside the prior;
a volume."""

Returns = Literal["sample", "biased sample", "MAP-like"]
"""A sample of the posterior; one of another, known law; an image near the most likely."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A noisy image denoised, and what a rule may know of it.

    Attributes:
        D: the denoised image.
        sigma: noise level of what was denoised.
        vjp: ``v -> J^H v``; None for rules that take no Jacobian.
        A: the operator, or its derivative at ``D``.
        residual: ``y - A(D)``, in units of ``||A|| = 1``.
        noise_std: ``s``, in the same units.
        prior: what denoised it.
    """

    D: Tensor
    sigma: float
    vjp: Callable[[Tensor], Tensor] | None
    A: LinearOperator
    residual: Tensor
    noise_std: float
    prior: Prior

    def solve(self, covariance: Callable[[Tensor], Tensor], max_iter: int,
              tol: float = 1e-6) -> Tensor:
        """``(s^2 + A C A^H)^-1 r`` by conjugate gradients, item by item."""

        def matvec(v: Tensor) -> Tensor:
            out: Tensor = self.A(covariance(self.A.adjoint(v)))
            return out.add_(v, alpha=self.noise_std**2)

        return cg(matvec, self.residual, max_iter=max_iter, tol=tol,
                  batch_ndim=self.A.codomain.batch_ndim(self.residual))


class Guidance(ABC):
    """A rule for the guided denoiser: subclasses are frozen dataclasses of its settings."""

    @property
    def needs(self) -> frozenset[Need]:
        """What it asks of problem and prior."""
        return frozenset({"jacobian"})

    @property
    def returns(self) -> Returns:
        """What a sampler gives with it."""
        return "biased sample"

    @abstractmethod
    def correction(self, at: Estimate) -> Tensor:
        """``D_y - D``, like ``D``."""


class Guided(Prior):
    """The denoiser of the posterior, for any sampler that takes a prior.

    Args:
        prior: the denoiser of the prior.
        problem: what was measured, in the prior's units (`Problem.scaled`).
        rule: how the measurement moves the denoised image.

    Example:
        >>> from medinv.guidance import MMPS
        >>> from medinv.operators import Identity
        >>> from medinv.priors import GaussianPrior
        >>> white = GaussianPrior(torch.zeros(2), torch.eye(2))
        >>> problem = Problem(torch.ones(2), Identity((2,)), noise_std=1.0)
        >>> Guided(white, problem, MMPS())(torch.ones(2), 1.0)  # of x0 = 0, x = 1 and y = 1
        tensor([0.6667, 0.6667])
    """

    def __init__(self, prior: Prior, problem: Problem, rule: Guidance) -> None:
        super().__init__()
        self.prior, self.problem, self.rule = prior, problem, rule
        self.dtype, self.ndim, self.scale = prior.dtype, prior.ndim, prior.scale

    def error_variance(self, sigma: float) -> float:
        """That of the prior, which is an upper bound."""
        return self.prior.error_variance(sigma)

    def of_slices(self, index: Tensor) -> Guided:
        """Of these slices, with their measurements."""
        return Guided(self.prior.of_slices(index), self.problem.part(index), self.rule)

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``D(x, sigma | y)`` for ``x`` (*batch, *item) and one level.

        Raises:
            InputError: more than one noise level.
        """
        levels = torch.as_tensor(sigma)
        level = float(levels.flatten()[0])
        if bool((levels != level).any()):
            raise InputError(f"Guided: expected one noise level, got {levels.tolist()}")
        return halving(self.prior, lambda: self._guide(x, level))

    @torch.no_grad()
    def _guide(self, x: Tensor, sigma: float) -> Tensor:
        vjp = None
        if "jacobian" in self.rule.needs:
            D, vjp = linearize(self.prior, x, sigma)
        else:
            D = self.prior(x, sigma)
        problem = self.problem
        at = Estimate(D, sigma, vjp, problem.A.linearize(D), problem.y - problem.A(D),
                      float(problem.noise_std), self.prior)
        return D + self.rule.correction(at)


def through_jacobian(at: Estimate, w: Tensor) -> Tensor:
    """``sigma^2 J^H A^H w``."""
    assert at.vjp is not None
    return at.vjp(at.A.adjoint(w)).mul_(at.sigma**2)
