"""The likelihood of the denoised image (diffusion posterior sampling)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medinv.errors import InputError
from medinv.guidance.guided import Estimate, Guidance, Need, through_jacobian


@dataclass(frozen=True)
class Jensen(Guidance):
    """``C = 0``: ``log p(y | x) = log p(y | x0 = D)`` (Chung et al., ICLR 2023, arXiv:2209.14687).

    The approximation that `DPS` makes, with the weight ``1 / s^2`` that the noise gives it. It
    ignores that ``x0`` is uncertain, so it pulls too hard: of a Gaussian with ``R = p / s^2``,
    ancestral sampling has the mean ``y (1 - exp(-R))`` and the variance ``s^2 (1 - exp(-2 R)) /
    2``. Steps that are too long diverge: ``(1 - sigma'^2 / sigma^2) R`` must stay below about 8.

    Example:
        >>> Jensen()
        Jensen()
    """

    @property
    def needs(self) -> frozenset[Need]:
        """The noise, too."""
        return frozenset({"jacobian", "noise"})

    def correction(self, at: Estimate) -> Tensor:
        """``sigma^2 J^H A^H r / s^2``.

        Raises:
            InputError: the noise is 0.
        """
        if at.noise_std == 0:
            raise InputError("Jensen: expected the noise of y, got 0; pass "
                             "Problem(y, A, noise_std=...), or take PiGDM or MMPS")
        return through_jacobian(at, at.residual / at.noise_std**2)
