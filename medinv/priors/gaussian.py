"""Priors with denoiser and posterior in closed form: what every solver is tested against.

For ``x ~ N(m, C)`` and ``x_t = x + sigma n``, ``E[x | x_t] = m + C (C + sigma^2 I)^-1 (x_t - m)``;
a mixture weighs its components by their evidence. For complex items the covariance is that of each
real component, ``C = E[(x - m)(x - m)^H] / 2``, in line with sigma.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from medinv.arguments import checked
from medinv.errors import ShapeError
from medinv.operators.base import LinearOperator
from medinv.priors.base import IntensityScale, Prior


class GaussianPrior(Prior):
    """``N(mean, covariance)`` on items of any shape, dense: for up to a few thousand elements.

    Args:
        mean: the mean item, real or complex.
        covariance: Hermitian (n, n) over the flattened item, of each real component.

    Example:
        >>> prior = GaussianPrior(torch.zeros(2), torch.diag(torch.tensor([1.0, 3.0])))
        >>> prior(torch.ones(2), sigma=1.0)
        tensor([0.5000, 0.7500])
    """

    @checked
    def __init__(self, mean: Tensor, covariance: Shaped[Tensor, "n n"]) -> None:
        super().__init__()
        if covariance.shape != (mean.numel(), mean.numel()):
            raise ShapeError(
                f"GaussianPrior: mean has {mean.numel()} elements but the covariance is "
                f"{tuple(covariance.shape)}; expected ({mean.numel()}, {mean.numel()})"
            )
        if not bool(covariance.isfinite().all() and mean.isfinite().all()):
            raise ShapeError("GaussianPrior: the mean or the covariance holds NaN or infinity")
        values, vectors = torch.linalg.eigh(covariance.to(mean.dtype))
        self.mean: Tensor
        self.variances: Tensor
        self.vectors: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("variances", values.clamp(min=0))
        self.register_buffer("vectors", vectors)
        self.dtype, self.ndim, self.scale = mean.dtype, mean.ndim, IntensityScale()

    def centred(self, x: Tensor) -> Tensor:
        """Coordinates of ``x - mean`` in the eigenvectors, (*batch, n)."""
        return (x - self.mean).flatten(-self.ndim) @ self.vectors.conj()

    @checked
    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``E[x0 | x]`` for ``x`` (*batch, *item)."""
        level = self.levels(x, sigma).to(self.variances.dtype)
        gain = self.variances / (self.variances + level[..., None].square())
        return self.mean + ((gain * self.centred(x)) @ self.vectors.mT).reshape(x.shape)

    def error_variance(self, sigma: float) -> float:
        """Mean over elements of ``Cov[x0 | x]``."""
        return float((self.variances * sigma**2 / (self.variances + sigma**2)).mean())

    def error_diagonal(self, sigma: float) -> Tensor:
        """The diagonal of ``Cov[x0 | x]``."""
        gain = self.variances * sigma**2 / (self.variances + sigma**2)
        return (self.vectors.abs().square() @ gain).reshape(self.mean.shape)

    def posterior(self, y: Tensor, A: LinearOperator, sigma: float) -> tuple[Tensor, Tensor]:
        """Mean (item) and covariance (n, n) of ``x`` given ``y = A x + sigma n``, dense."""
        identity = torch.eye(self.mean.numel(), dtype=self.dtype, device=y.device)
        matrix = A(identity.reshape(-1, *self.mean.shape)).flatten(1).T
        covariance = (self.vectors * self.variances) @ self.vectors.mH
        gain = covariance @ matrix.mH @ torch.linalg.inv(
            matrix @ covariance @ matrix.mH
            + sigma**2 * torch.eye(len(matrix), dtype=self.dtype, device=y.device)
        )
        residual = y.flatten() - matrix @ self.mean.flatten()
        mean = self.mean.flatten() + gain @ residual
        return mean.reshape(self.mean.shape), covariance - gain @ matrix @ covariance

    def sample(self, n: int, rng: torch.Generator) -> Tensor:
        """``n`` draws (n, *item)."""
        noise = torch.randn(n, self.mean.numel(), dtype=self.dtype, generator=rng)
        if self.dtype.is_complex:
            noise = noise * 2**0.5
        draws = (noise * self.variances.sqrt()) @ self.vectors.mT
        return self.mean + draws.reshape(n, *self.mean.shape)


class GaussianMixturePrior(Prior):
    """``sum_k w_k N(mean_k, covariance_k)``.

    Args:
        weights: (k,), positive, summing to one.
        components: one `GaussianPrior` each, of one item shape and dtype.

    Example:
        >>> spikes = [GaussianPrior(torch.tensor([m]), torch.zeros(1, 1)) for m in (-1.0, 1.0)]
        >>> GaussianMixturePrior(torch.tensor([0.5, 0.5]), spikes)(torch.tensor([0.3]), 0.1)
        tensor([1.])
    """

    @checked
    def __init__(self, weights: Float[Tensor, " k"], components: list[GaussianPrior]) -> None:
        super().__init__()
        if weights.ndim != 1 or weights.is_complex():
            raise ShapeError("GaussianMixturePrior: expected real weights (k,), got "
                             f"{weights.dtype} {tuple(weights.shape)}")
        total = float(weights.sum())
        if len(weights) != len(components) or abs(total - 1) > 1e-5:
            raise ShapeError(
                f"GaussianMixturePrior: {len(weights)} weights with sum {total:g} for "
                f"{len(components)} components; expected as many weights, with sum 1"
            )
        self.weights: Tensor
        self.register_buffer("weights", weights)
        self.components = torch.nn.ModuleList(components)
        first = components[0]
        self.dtype, self.ndim, self.scale = first.dtype, first.ndim, IntensityScale()

    def log_evidence(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``log w_k N(x; mean_k, covariance_k + sigma^2 I)`` up to one constant, (*batch, k)."""
        parts = []
        for weight, component in zip(self.weights, self.components, strict=True):
            assert isinstance(component, GaussianPrior)
            level = torch.as_tensor(sigma, dtype=component.variances.dtype)[..., None].square()
            total = component.variances + level
            half = 1.0 if self.dtype.is_complex else 0.5
            quadratic = component.centred(x).abs().square() / total / 2 + half * total.log()
            parts.append(weight.log() - quadratic.sum(-1))
        return torch.stack(parts, dim=-1)

    @checked
    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``E[x0 | x]`` for ``x`` (*batch, *item)."""
        self.levels(x, sigma)
        shares = self.log_evidence(x, sigma).softmax(-1)
        shares = shares.reshape(*shares.shape[:-1], *[1] * self.ndim, len(self.components))
        means = torch.stack([component(x, sigma) for component in self.components], dim=-1)
        return (shares * means).sum(-1)
