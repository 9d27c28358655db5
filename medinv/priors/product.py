"""Products of priors: volumes whose slices in several planes are each likely."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from medinv.arguments import checked
from medinv.errors import ShapeError
from medinv.priors.base import Prior


class ProductPrior(Prior):
    """``p(x) ~ prod_k p_k(x)^w_k`` through the sum of scores, ``D = x + sum_k w_k (D_k - x)``.

    Two perpendicular 2D priors make a 3D one (TPDM, arXiv:2303.08440, eq. 4). The sum of the
    scores of noisy factors is the score of the noisy product only as sigma goes to 0; above, it
    is that of another, broader density.

    Args:
        priors: the factors, of one dtype, for volumes (`SlicePrior` makes them of 2D priors).
        weights: exponents, positive; equal and of sum 1 if None.

    Example:
        >>> from medinv.priors import GaussianPrior, SlicePrior
        >>> white = GaussianPrior(torch.zeros(2, 2), torch.eye(4))
        >>> prior = ProductPrior([SlicePrior(white, -3), SlicePrior(white, -2)])
        >>> prior(torch.ones(2, 2, 2), 1.0).unique().tolist()
        [0.5]
    """

    @checked
    def __init__(self, priors: Sequence[Prior], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = [1 / max(len(priors), 1)] * len(priors) if weights is None else list(weights)
        if len(priors) < 2 or len(weights) != len(priors) or not all(
                0 < weight < math.inf for weight in weights):
            raise ShapeError(f"ProductPrior: expected two or more priors and a positive weight "
                             f"for each, got {len(priors)} priors and weights {weights}")
        kinds = {(prior.dtype, prior.ndim) for prior in priors}
        if len(kinds) > 1:
            raise ShapeError(f"ProductPrior: expected factors of one kind, got {kinds} (dtype and "
                             "axes of an item); wrap 2D priors in SlicePrior")
        self.priors, self.weights = nn.ModuleList(priors), tuple(weights)
        first = priors[0]
        self.dtype, self.ndim, self.scale = first.dtype, first.ndim, first.scale

    def factors(self) -> list[Prior]:
        """The priors, in their order."""
        return [prior for prior in self.priors if isinstance(prior, Prior)]

    def error_variance(self, sigma: float) -> float:
        """The weighted mean of the factors'."""
        pairs = zip(self.weights, self.factors(), strict=True)
        return sum(w * prior.error_variance(sigma) for w, prior in pairs) / sum(self.weights)

    def of_slices(self, index: Tensor) -> ProductPrior:
        """The product of the factors of these slices, which must be neighbours: a slab.

        Planes across them are cut off there. For single slices of a volume see `at_slices`.
        """
        return ProductPrior([prior.of_slices(index) for prior in self.factors()], self.weights)

    def at_spacing(self, spacing_mm: tuple[float, float]) -> ProductPrior:
        """The product of the factors for this spacing."""
        return ProductPrior([prior.at_spacing(spacing_mm) for prior in self.factors()],
                            self.weights)

    def at_slices(self, x: Tensor, sigma: Tensor | float, index: Tensor) -> Tensor:
        """Slices of ``D(x)``, each factor asked for no more than it needs."""
        return self._sum(x.index_select(-3, index),
                         (prior.at_slices(x, sigma, index) for prior in self.factors()))

    @checked
    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``D`` of volumes ``x`` (*batch, z, y, x)."""
        self.levels(x, sigma)
        return self._sum(x, (prior(x, sigma) for prior in self.factors()))

    def _sum(self, x: Tensor, denoised: Iterable[Tensor]) -> Tensor:
        out = x * (1 - sum(self.weights))
        for weight, D in zip(self.weights, denoised, strict=True):
            out = torch.add(out, D, alpha=weight)
        return out
