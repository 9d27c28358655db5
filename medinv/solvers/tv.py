"""Total variation by a primal-dual method.

``min_x 0.5 ||A x - y||^2 + weight unit TV(x)`` with ``||A|| = 1``, over any axes of ``x``.
Chambolle and Pock's algorithm keeps a dual variable ``q`` for the data and ``v`` for the
differences, ``K = [A; D]``. The data term's proximal step is affine in ``q`` and only
``s = A^H q`` enters the image step, so ``s`` is carried in place of ``q``: one normal operator per
iteration (fused where ``A`` has it) and no memory of the measurement's size. With the dual steps
``sigma / ||A||^2`` and ``sigma / ||D||^2``, the method converges for ``tau = 1 / (2 sigma)``. All
elementwise work is done in place, through slabs that stay in cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.operators import linalg
from medinv.problem import Problem
from medinv.samplers import OnStep
from medinv.solvers.base import (
    Stopping,
    intensity_unit,
    item_ndim,
    require,
)

_SLAB = 2**17  # elements per slab; a few buffers of this size fit the L2 cache
_RELAXATION = 1.8  # any value in (0, 2) converges (Condat 2013, theorem 3.3)


def _axis_factors(n_axes: int, spacing: tuple[float, ...] | None) -> tuple[float, ...]:
    """Weight of each axis' difference: 1 for the finest axis, ``finest / spacing`` for others."""
    return (1.0,) * n_axes if spacing is None else tuple(min(spacing) / h for h in spacing)


def total_variation(x: Tensor, axes: tuple[int, ...] = (-2, -1), *,
                    spacing: tuple[float, ...] | None = None, isotropic: bool = True,
                    items: int = 0) -> Tensor:
    """Total variation with forward differences and Neumann borders, summed over each item.

    Args:
        x: real or complex, ``(*items, ...)``.
        axes: negative axes to difference.
        spacing: voxel size along each of ``axes``; differences are weighted by
            ``min(spacing) / spacing``.
        isotropic: sum the Euclidean norm of the differences at a voxel, or their magnitudes.
        items: number of leading axes that count items.

    Returns:
        A real tensor ``(*items,)``.

    Example:
        >>> total_variation(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), isotropic=False).item()
        2.0
    """
    factors = _axis_factors(len(axes), spacing)
    differences = torch.stack([w * linalg.finite_difference(x, axis)
                               for w, axis in zip(factors, axes, strict=True)])
    order = 2 if isotropic else 1
    magnitude: Tensor = torch.linalg.vector_norm(differences, ord=order, dim=0)
    return magnitude.sum(dim=tuple(range(items, x.ndim)))


def _euclidean_norm(v: Tensor) -> Tensor:
    """``(sum_i |v_i|^2)^(1/2)`` over axis 0; `torch.linalg.vector_norm` takes ten times longer."""
    components = torch.view_as_real(v).unbind(-1) if v.is_complex() else (v,)
    squares = torch.zeros_like(components[0][0])
    for part in components:
        for component in part:
            squares.addcmul_(component, component)
    return squares.sqrt_()


@dataclass(frozen=True)
class _Slabs:
    """The image and the dual step of the primal-dual iteration, slab by slab."""

    axes: tuple[int, ...]
    factors: tuple[float, ...]
    isotropic: bool
    nonnegative: bool

    def _ranges(self, x: Tensor) -> Iterator[tuple[int, int]]:
        n = x.shape[self.axes[0]]
        rows = max(1, _SLAB * n // max(x.numel(), 1))
        return ((start, min(start + rows, n)) for start in range(0, n, rows))

    def descend(self, x: Tensor, s: Tensor, v: Tensor, tau: float, x_new: Tensor,
                x_bar: Tensor) -> None:
        """``x_new = prox(x - tau (s + D^T v))``, ``x_bar = 2 x_new - x``, and ``x`` relaxed."""
        first = self.axes[0]
        for start, stop in self._ranges(x):
            old, new, bar = (t.narrow(first, start, stop - start) for t in (x, x_new, x_bar))
            torch.sub(old, s.narrow(first, start, stop - start), alpha=tau, out=new)
            self._add_divergence(new, v, start, tau)
            if self.nonnegative:
                new.clamp_min_(0)
            torch.sub(new, old, alpha=0.5, out=bar).mul_(2)
            old.lerp_(new, _RELAXATION)

    def _add_divergence(self, new: Tensor, v: Tensor, start: int, tau: float) -> None:
        """``new -= tau D^T v`` for the slab that begins at ``start``."""
        rows = new.shape[self.axes[0]]
        for component, axis, factor in zip(v, self.axes, self.factors, strict=True):
            if axis == self.axes[0]:
                new.add_(component.narrow(axis, start, rows), alpha=tau * factor)
                skip = int(start == 0)
                before = component.narrow(axis, start + skip - 1, rows - skip)
                new.narrow(axis, skip, rows - skip).sub_(before, alpha=tau * factor)
                continue
            slab = component.narrow(self.axes[0], start, rows)
            new.add_(slab, alpha=tau * factor)
            n = new.shape[axis] - 1
            new.narrow(axis, 1, n).sub_(slab.narrow(axis, 0, n), alpha=tau * factor)

    def ascend(self, v: Tensor, x_bar: Tensor, sigma: float, limit: Tensor) -> None:
        """``v`` relaxed towards the projection of ``v + sigma D x_bar`` on ``|v| <= limit``."""
        for start, stop in self._ranges(x_bar):
            slab = v.narrow(self.axes[0], start, stop - start)
            step = slab.clone()
            self._add_gradient(step, x_bar, start, sigma)
            step.mul_(self._shrinkage(step, limit))
            slab.lerp_(step, _RELAXATION)

    def _add_gradient(self, step: Tensor, x_bar: Tensor, start: int, sigma: float) -> None:
        """``step += sigma D x_bar`` for the slab that begins at ``start``."""
        first = self.axes[0]
        rows = step.shape[first]
        for component, axis, factor in zip(step, self.axes, self.factors, strict=True):
            if axis == first:
                n = min(rows, x_bar.shape[first] - 1 - start)
                slab = x_bar.narrow(first, start, n + 1)
            else:
                n = x_bar.shape[axis] - 1
                slab = x_bar.narrow(first, start, rows)
            inner = component.narrow(axis, 0, n)
            inner.add_(slab.narrow(axis, 1, n), alpha=sigma * factor)
            inner.sub_(slab.narrow(axis, 0, n), alpha=sigma * factor)

    def _shrinkage(self, step: Tensor, limit: Tensor) -> Tensor:
        """``min(1, limit / |step|)``, for each voxel or for each component."""
        magnitude = _euclidean_norm(step) if self.isotropic else step.abs()
        floor = limit.clamp_min(torch.finfo(magnitude.dtype).tiny)
        return torch.reciprocal(torch.maximum(magnitude, floor, out=magnitude)).mul_(limit)


@dataclass(frozen=True)
class TV:
    """Total-variation reconstruction in 1D, 2D or 3D, for real and complex images.

    Rudin, Osher and Fatemi, Physica D 60 (1992), 259; the algorithm is Chambolle and Pock, J.
    Math. Imaging Vis. 40 (2011), 120, algorithm 1, over-relaxed as in Condat, J. Optim. Theory
    Appl. 158 (2013), 460. A zero ``weight`` gives (nonnegative) least squares.

    Axes in ``axes`` that ``A`` has as batch axes are coupled, so ``axes=(-3, -2, -1)`` is 3D TV of
    slices that were measured one by one. Memory: eight images for 2D and nine for 3D, plus what
    one normal operator needs.

    Args:
        weight: weight of the total variation, with ``||A|| = 1`` and ``y`` scaled so that
            ``max |A^H y| = 1`` for each item (`intensity_unit`).
        max_iter: largest number of iterations.
        tol: an item stops when a step changes it by at most this, relative to its norm.
        axes: axes to difference, counted from the end: ``(-2, -1)`` or ``(-3, -2, -1)``.
        spacing: voxel size along each of ``axes``, in any unit: a difference along an axis counts
            ``min(spacing) / spacing``. None for equal sizes.
        isotropic: penalise the Euclidean norm of the differences, or the sum of magnitudes.
        nonnegative: keep ``x >= 0`` (real images only).
        sigma: dual step; the smaller, the longer the image step. Every positive value converges.

    Example:
        >>> TV(weight=1e-3, axes=(-3, -2, -1), spacing=(2.5, 0.7, 0.7), nonnegative=True).axes
        (-3, -2, -1)
    """

    weight: float
    max_iter: int = 100
    tol: float = 0.0
    axes: tuple[int, ...] = (-2, -1)
    spacing: tuple[float, ...] | None = None
    isotropic: bool = True
    nonnegative: bool = False
    sigma: float = 0.1

    def __post_init__(self) -> None:
        require(self.weight >= 0, "TV: weight", "a number >= 0", self.weight)
        require(self.max_iter >= 1, "TV: max_iter", "at least 1", self.max_iter)
        require(self.tol >= 0, "TV: tol", "a number >= 0", self.tol)
        require(self.sigma > 0, "TV: sigma", "a number > 0", self.sigma)
        distinct = len(set(self.axes)) == len(self.axes) > 0
        require(distinct and max(self.axes) < 0, "TV: axes",
                "different axes counted from the end, as (-3, -2, -1)", self.axes)
        if self.spacing is not None:
            require(len(self.spacing) == len(self.axes) and min(self.spacing) > 0, "TV: spacing",
                    f"{len(self.axes)} positive voxel sizes, one per axis", self.spacing)

    @torch.no_grad()
    def __call__(self, problem: Problem, *, on_step: OnStep | None = None) -> Tensor:
        """Reconstruct.

        Args:
            problem: y, measurement, ``(*batch, *A.codomain.shape)``; its operator.
            on_step: called with every iterate.

        Returns:
            ``(*batch, *A.domain.shape)``.

        Raises:
            InputError: ``y`` has another shape or dtype than ``A`` gives, or is not finite; its
                image lacks one of ``axes``, or is complex and ``nonnegative`` is set.
        """
        problem = problem.whitened()
        y, A = problem.y, problem.linear
        squared_norm = A.norm() ** 2
        b = A.adjoint(y) / squared_norm
        self._check_image(b)
        items = item_ndim(b, A, -min(self.axes))
        limit = self.weight * intensity_unit(b, items)
        factors = _axis_factors(len(self.axes), self.spacing)
        slabs = _Slabs(self.axes, factors, self.isotropic, self.nonnegative)
        tau = 1 / (2 * self.sigma)
        sigma_v = self.sigma / (4 * sum(w**2 for w in factors))  # sigma / bound of ||D||^2
        blend = _RELAXATION * self.sigma / (1 + self.sigma)

        x, x_bar, s = b.clone(), torch.empty_like(b), torch.zeros_like(b)
        v = b.new_zeros(len(self.axes), *b.shape)
        stopping = Stopping(self.tol, items)
        for i in range(self.max_iter):
            x_new = torch.empty_like(x)
            slabs.descend(x, s, v, tau, x_new, x_bar)
            s.mul_(1 - blend).sub_(b, alpha=blend)
            s.add_(A.normal(x_bar), alpha=blend / squared_norm)
            slabs.ascend(v, x_bar, sigma_v, limit)
            result = stopping.update(x_new)
            if on_step is not None:
                on_step(i, result)
            if stopping.finished:
                break
        return result

    def _check_image(self, x: Tensor) -> None:
        require(-min(self.axes) <= x.ndim, "TV: axes", f"axes of an image {tuple(x.shape)}",
                self.axes)
        require(not (self.nonnegative and x.is_complex()), "TV: nonnegative",
                "False for complex images", self.nonnegative)
