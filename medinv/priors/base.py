"""The prior interface: a denoiser in the VE coordinate, and the intensity scale it was made for.

A prior p(x) is known through ``D(x_t, sigma) = E[x | x_t]`` for ``x_t = x + sigma n``, where
``sigma`` is the standard deviation of each real component of the noise. Networks of other
parametrisations (VP, EDM, flow) are adapted to this form inside `medinv.priors` and nowhere else.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medinv.errors import CheckpointError, InputError, ShapeError
from medinv.operators.base import LinearOperator, Operator


@dataclass(frozen=True)
class IntensityScale:
    """How one unit of the prior relates to physical intensity.

    Args:
        value: the physical intensity of one prior unit, where the domain has a unit (CT: the
            attenuation of water in 1/mm).
        percentile: where it has none (MR), the percentile of the magnitude image that is one prior
            unit; the scale is then estimated from the measurement. ``value`` is ignored.

    Example:
        >>> IntensityScale(value=0.02)  # CT: one prior unit is water, 0.02 / mm
        IntensityScale(value=0.02, percentile=None)

    Raises:
        InputError: no positive number, or no percentile above 0 and up to 100.
    """

    value: float = 1.0
    percentile: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.value < math.inf:
            raise InputError(f"IntensityScale: expected a positive value, got {self.value}")
        if self.percentile is not None and not 0 < self.percentile <= 100:
            raise InputError("IntensityScale: expected a percentile above 0 and up to 100, got "
                             f"{self.percentile}")

    @torch.no_grad()
    def estimate(self, y: Tensor, A: Operator) -> float:
        """Physical intensity of one prior unit for this measurement, from ``y`` alone.

        Uses a short least-squares reconstruction (10 CG iterations, early stopping regularises).

        Args:
            y: measurement, ``(*batch, *A.codomain.shape)``; one subject, one scale.
            A: its operator.

        Raises:
            ShapeError: the measurement is zero everywhere, so no scale can be told from it.
        """
        if self.percentile is None:
            return self.value
        if not isinstance(A, LinearOperator):
            raise ShapeError(f"the intensity of {type(A).__name__}'s images cannot be told from "
                             "y; pass a prior whose scale has a value")
        magnitude = A.normalized().solve(y / A.norm(), max_iter=10).abs()
        scale = float(_quantile(magnitude, self.percentile / 100))
        if not scale > 0:
            raise ShapeError(
                f"the {self.percentile}th percentile of the least-squares image is {scale}: the "
                "measurement is empty; check the k-space and its mask"
            )
        return scale


def _quantile(x: Tensor, q: float) -> Tensor:
    """Quantile of all elements (torch.quantile refuses more than 16 M of them)."""
    flat = x.flatten()
    return flat.kthvalue(max(1, round(q * flat.numel()))).values


class Prior(nn.Module, ABC):
    """A diffusion prior, known through its denoiser.

    Attributes:
        dtype: dtype of an item, float32 for real and complex64 for complex images.
        ndim: number of axes of one item, 2 for images and 3 for volumes.
        scale: how the prior's units relate to physical intensity.

    Example:
        >>> class White(Prior):
        ...     dtype, ndim, scale = torch.float32, 2, IntensityScale()
        ...     def forward(self, x, sigma):
        ...         return x / (1 + sigma**2)
        >>> White()(torch.ones(1, 2), 1.0)
        tensor([[0.5000, 0.5000]])
    """

    dtype: torch.dtype
    ndim: int
    scale: IntensityScale

    @abstractmethod
    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``E[x0 | x]`` of ``x`` (*batch, *item); ``sigma`` a number or one per batch item.

        The result is a new tensor, which a solver may overwrite.
        """

    def levels(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``sigma`` for each image of ``x`` (*batch, *item), as (*batch).

        Raises:
            ShapeError: ``x`` holds no images of this prior's kind, or ``sigma`` has another shape
                than its batch.
            InputError: a negative or infinite ``sigma``.
        """
        name, kind = type(self).__name__, "complex" if self.dtype.is_complex else "real"
        n_batch = x.ndim - self.ndim
        fits = x.is_complex() if self.dtype.is_complex else x.is_floating_point()
        if n_batch < 0 or not x.numel() or not fits:
            raise ShapeError(f"{name}: expected {kind} images (*batch, {self.ndim} axes), got "
                             f"{x.dtype} {tuple(x.shape)}")
        if isinstance(sigma, float | int) and not 0 <= sigma < math.inf:
            raise InputError(f"{name}: expected sigma of at least 0, got {sigma}")
        levels = torch.as_tensor(sigma, device=x.device)
        try:
            return levels.to(x.real.dtype).expand(x.shape[:n_batch])
        except RuntimeError as error:
            raise ShapeError(f"{name}: expected sigma as a number or {tuple(x.shape[:n_batch])}, "
                             f"got {tuple(levels.shape)}") from error

    def error_variance(self, sigma: float) -> float:
        """Expected squared error of each real component of ``D`` at this level, in prior units.

        The default is that of a Gaussian of unit variance; a prior that knows better overrides it.
        """
        return sigma**2 / (1 + sigma**2)

    def error_diagonal(self, sigma: float) -> Tensor:
        """The same for each element of an item (real), or one number that stands for all."""
        return torch.tensor(self.error_variance(sigma))

    def of_slices(self, index: Tensor) -> Prior:  # noqa: ARG002  (the same for all)
        """The prior of the slices ``index``, (n,), of the stacks that this one is a prior of.

        It is this prior itself, unless it knows something of each slice.
        """
        return self

    def at_spacing(self, spacing_mm: tuple[float, float]) -> Prior:  # noqa: ARG002  (the same)
        """The prior of volumes with this spacing, from pixel to pixel and from slice to slice.

        It is this prior itself, unless it is told the spacing.
        """
        return self

    def at_slices(self, x: Tensor, sigma: Tensor | float, index: Tensor) -> Tensor:
        """The slices ``index``, (n,), of ``D(x)`` for stacks or volumes ``x`` (*batch, z, y, x).

        A prior of images is asked for those slices alone, one of volumes for all that it sees.
        """
        if self.ndim == 2:
            denoised: Tensor = self.of_slices(index)(x.index_select(-3, index), sigma)
            return denoised
        return self(x, sigma).index_select(-3, index)  # type: ignore[no-any-return]

    def check(self, A: Operator) -> None:
        """Raise `CheckpointError` if this prior cannot describe the images of ``A``.

        Only real or complex is told from the operator: slices may be its batch axis or its own.
        """
        if self.dtype.is_complex != A.domain.dtype.is_complex:
            mine, theirs = (
                "complex" if dtype.is_complex else "real" for dtype in (self.dtype, A.domain.dtype)
            )
            raise CheckpointError(
                f"the prior describes {mine} images but the operator acts on {theirs} ones; "
                f"choose a prior of {'MR' if theirs == 'complex' else 'CT'} images "
                "(`medinv priors` lists them)"
            )
