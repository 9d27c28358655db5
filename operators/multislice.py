"""Simultaneous multi-slice (SMS): slices that are excited together arrive as one sum.

A CAIPI phase, different for each line and slice, shifts the slices against each other so that the
coils can tell them apart. Nothing but the sum over slices is new, so it is a small operator after
any multi-slice one: ``SliceSum(A.codomain, phase) @ A``.

Source: Breuer et al., "CAIPIRINHA for accelerated multi-slice imaging", Magn. Reson. Med. 53
(2005), 684; Setsompop et al., "Blipped-CAIPI", Magn. Reson. Med. 67 (2012), 1210.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex
from torch import Tensor

from medinv.arguments import checked
from medinv.errors import ShapeError
from medinv.operators.base import LinearOperator, Space


class SliceSum(LinearOperator):
    """``y_c(k) = sum_z phase_z(k) y_zc(k)``: k-space of slices to that of their sum.

    With ``n`` slices the norm is up to ``sqrt(n)``; see `LinearOperator.normalized`.

    Args:
        slices: codomain of a 2D `CartesianMRI` whose maps have a slice axis,
            ``(..., slice, coil, ky, kx)``.
        phase: complex factors; broadcasts against ``(slice, ky, kx)`` (see `caipi_phase`).

    Attributes:
        domain: ``slices``.
        codomain: ``(..., coil, ky, kx)``.

    Raises:
        ShapeError: k-space without a slice axis, or a phase that doesn't fit it.

    Example:
        >>> from medinv.operators.mri import CartesianMRI
        >>> maps = torch.ones(3, 4, 8, 6, dtype=torch.complex64) / 2  # slice, coil, y, x
        >>> A = CartesianMRI(maps, torch.ones(8, 6))
        >>> SMS = SliceSum(A.codomain, caipi_phase(3, 8, shift=1 / 3)) @ A
        >>> SMS.domain.shape, SMS.codomain.shape
        ((3, 8, 6), (4, 8, 6))
    """

    phase: Tensor

    @checked
    def __init__(self, slices: Space, phase: Tensor) -> None:
        if len(slices.shape) < 4:
            raise ShapeError(f"SliceSum: k-space is {slices}; it needs (slice, coil, ky, kx), so "
                             "give the maps a slice axis.")
        *groups, n_slices, n_coils, n_ky, n_kx = slices.shape
        try:
            fitted = phase.to(slices.dtype).expand(n_slices, n_ky, n_kx)
        except RuntimeError:
            raise ShapeError(
                f"SliceSum: phase is {tuple(phase.shape)} but k-space is {slices}; pass factors "
                f"for slice, ky, kx = {n_slices}, {n_ky}, {n_kx}."
            ) from None
        axes = (*slices.axes[:-4], *slices.axes[-3:])
        super().__init__(slices, Space((*groups, n_coils, n_ky, n_kx), slices.dtype, axes))
        self.register_buffer("phase", fitted.unsqueeze(1).contiguous())

    def _forward(self, x: Tensor) -> Tensor:
        return (self.phase * x).sum(-4)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.phase.conj() * y.unsqueeze(-4)


def caipi_phase(n_slices: int, n_ky: int, *, shift: float) -> Complex[Tensor, "slice ky 1"]:
    """The phase that moves slice ``z`` by ``z * shift`` fields of view along y.

    Args:
        n_slices: number of slices excited together.
        n_ky: number of lines of the full grid.
        shift: fraction of the field of view between neighbours, ``1 / 2`` or ``1 / 3`` usually.

    Returns:
        ``exp(-2 pi i z shift (ky - n_ky // 2))``, double precision.

    Example:
        >>> caipi_phase(2, 4, shift=0.5)[1, :, 0].real.round().tolist()
        [1.0, -1.0, 1.0, -1.0]
    """
    ky = torch.arange(n_ky, dtype=torch.float64) - n_ky // 2
    z = torch.arange(n_slices, dtype=torch.float64)
    angle = -2 * math.pi * shift * z[:, None, None] * ky[:, None]
    return torch.polar(torch.ones_like(angle), angle)
