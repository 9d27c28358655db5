"""Zero filling: the adjoint image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.problem import Problem
from medinv.samplers import OnStep


@dataclass(frozen=True)
class ZeroFilled:
    """``x = A^H y``: samples that were not measured count as zero, coils are combined by the maps.

    Example:
        >>> ZeroFilled()
        ZeroFilled()
    """

    @torch.no_grad()
    def __call__(self, problem: Problem, *, on_step: OnStep | None = None) -> Tensor:
        """Reconstruct.

        Args:
            problem: y, measurement, ``(*batch, *A.codomain.shape)``; its operator.
            on_step: called once, with the result.

        Returns:
            ``(*batch, *A.domain.shape)``.

        Raises:
            InputError: ``y`` has another shape or dtype than ``A`` gives, or is not finite.
        """
        y, A = problem.y, problem.linear
        x = A.adjoint(y)
        if on_step is not None:
            on_step(0, x)
        return x
