"""Zero filling: the adjoint image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.operators.base import LinearOperator
from medinv.solvers.base import OnStep, check_measurement


@dataclass(frozen=True)
class ZeroFilled:
    """``x = A^H y``: samples that were not measured count as zero, coils are combined by the maps.

    Example:
        >>> ZeroFilled()
        ZeroFilled()
    """

    @torch.no_grad()
    def __call__(self, y: Tensor, A: LinearOperator, *, on_step: OnStep | None = None) -> Tensor:
        """Reconstruct.

        Args:
            y: measurement, ``(*batch, *A.codomain.shape)``.
            A: its operator.
            on_step: called once, with the result.

        Returns:
            ``(*batch, *A.domain.shape)``.

        Raises:
            InputError: ``y`` has another shape or dtype than ``A`` gives, or is not finite.
        """
        check_measurement(y, A)
        x = A.adjoint(y)
        if on_step is not None:
            on_step(0, x)
        return x
