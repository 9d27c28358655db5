"""A few slices of a measurement, for trying things out."""

from __future__ import annotations

from dataclasses import replace

import torch

from medinv.operators.base import LinearOperator
from medinv.operators.mri import CartesianMRI
from medinv.priors import Prior
from medinv.recipe.measurement import Measured


def n_slices(measured: Measured) -> int:
    """Slices that the measurement can be cut into; 1 if its operator needs the whole volume."""
    A, y = measured.A, measured.y
    if y.ndim == len(A.codomain.shape) + 1 or _has_slice_maps(A):
        return int(y.shape[0])
    return 1


def slab(measured: Measured, n: int) -> Measured:
    """The ``n`` slices in the middle, without the reference, or all if they can't be cut."""
    total = n_slices(measured)
    if total <= n:
        return replace(measured, reference=None)
    part = _middle(total, n)
    A = measured.A
    if isinstance(A, CartesianMRI) and _has_slice_maps(A):
        mask = A.mask[part] if A.mask.ndim == 3 and len(A.mask) == total else A.mask
        A = CartesianMRI(A.maps[part], mask)
    return replace(measured, y=measured.y[part], A=A, reference=None)


def prior_of_slab(prior: Prior, measured: Measured, n: int) -> Prior:
    """The prior of the slices that `slab` takes."""
    total = n_slices(measured)
    if total <= n:
        return prior
    return prior.of_slices(torch.arange(total)[_middle(total, n)])


def _middle(total: int, n: int) -> slice:
    first = (total - n) // 2
    return slice(first, first + n)


def _has_slice_maps(A: LinearOperator) -> bool:
    return isinstance(A, CartesianMRI) and A.codomain.axes == ("slice", "coil", "ky", "kx")
