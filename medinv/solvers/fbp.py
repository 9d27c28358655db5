"""Filtered backprojection for parallel beams.

``x(r) = int_0^pi (p_theta * h)(s = r . theta) dtheta`` with the ramp ``h``. The ramp is the
band-limited one sampled in the spatial domain (Ramachandran and Lakshminarayanan, PNAS 68 (1971),
2236; Kak and Slaney, "Principles of computerized tomographic imaging" (1988), equation 3.61): a
ramp sampled in frequency loses its DC part to aliasing and shifts all values. Each view counts
with the angle it stands for. Backprojection is the operator's adjoint; for a projector that
conserves mass its columns sum to ``pixel_mm^2 / col_mm`` per view, which fixes the scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medinv.errors import InputError
from medinv.operators.base import LinearOperator
from medinv.operators.ct import ParallelBeam
from medinv.solvers.base import OnStep, check_measurement, require

_WINDOWS: dict[str, Callable[[Tensor], Tensor]] = {  # of the frequency, 1 at Nyquist
    "ram-lak": torch.ones_like,
    "shepp-logan": lambda f: torch.sinc(f / 2),
    "hann": lambda f: torch.cos(math.pi / 2 * f) ** 2,
}
_ROWS = 4096  # detector rows filtered at a time, which bounds the memory of the padded FFT


def _view_angles(angles: Tensor) -> Tensor:
    """The part of the half circle that each view stands for, in radians; they sum to pi.

    Args:
        angles: view angles in radians, ``(view,)``, in any order.

    Raises:
        InputError: the views leave a gap of more than twice their mean distance.
    """
    directions, order = torch.sort(angles.to(torch.float64).remainder(math.pi))
    gaps = torch.diff(directions, append=directions[:1] + math.pi)
    mean = math.pi / len(angles)
    if gaps.max() > 2 * mean + 1e-6:
        raise InputError(
            f"FBP: expected views over 180 degrees, at most {math.degrees(2 * mean):.3g} degrees "
            f"apart for {len(angles)} views, got a gap of {math.degrees(gaps.max()):.3g} degrees; "
            "use TV, SIRT or CGLS for limited angles"
        )
    weights = torch.empty_like(gaps)
    weights[order] = (gaps + gaps.roll(1)) / 2
    return weights


def _ramp(n_cols: int, col_mm: float, window: str) -> Tensor:
    """Frequency response of the windowed ramp, padded to twice the detector: ``(n_freq,)``, 1/mm.

    It includes the ``col_mm`` of the convolution integral.
    """
    n = 2 ** math.ceil(math.log2(2 * n_cols))
    position = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    odd = position.remainder(2) == 1
    kernel = torch.where(odd, -1 / (math.pi * position) ** 2, 0.0)
    kernel[0] = 1 / 4
    response: Tensor = torch.fft.rfft(kernel).real / col_mm
    return response * _WINDOWS[window](torch.linspace(0, 1, n // 2 + 1, dtype=torch.float64))


def _filter(y: Tensor, response: Tensor) -> Tensor:
    """Convolve the last axis of ``y`` with the filter of this frequency response."""
    n = 2 * (len(response) - 1)
    n_cols = y.shape[-1]
    filtered = torch.empty_like(y, memory_format=torch.contiguous_format)
    rows, outputs = y.reshape(-1, n_cols), filtered.view(-1, n_cols)
    for start in range(0, len(rows), _ROWS):
        spectrum = torch.fft.rfft(rows[start: start + _ROWS], n) * response
        outputs[start: start + _ROWS] = torch.fft.irfft(spectrum, n)[:, :n_cols]
    return filtered


@dataclass(frozen=True)
class FBP:
    """Filtered backprojection, in 1/mm, for parallel-beam views over 180 degrees (or 360).

    Args:
        window: damping of the ramp towards Nyquist: ``"ram-lak"`` (none), ``"shepp-logan"`` or
            ``"hann"`` (least noise, least resolution).

    Example:
        >>> FBP(window="hann")
        FBP(window='hann')
    """

    window: Literal["ram-lak", "shepp-logan", "hann"] = "ram-lak"

    def __post_init__(self) -> None:
        require(self.window in _WINDOWS, "FBP: window", f"one of {', '.join(_WINDOWS)}",
                self.window)

    @torch.no_grad()
    def __call__(self, y: Tensor, A: LinearOperator, *, on_step: OnStep | None = None) -> Tensor:
        """Reconstruct.

        Args:
            y: line integrals, ``(*batch, view, col)``.
            A: a `ParallelBeam`.
            on_step: called once, with the result.

        Returns:
            Attenuation in 1/mm, ``(*batch, y, x)``.

        Raises:
            InputError: ``A`` is no parallel beam or its views leave a gap in 180 degrees; ``y``
                has another shape or dtype than ``A`` gives, or is not finite.
        """
        if not isinstance(A, ParallelBeam):
            raise InputError(f"FBP: expected a ParallelBeam, got {type(A).__name__}; use CGLS, "
                             "SIRT or TV for other operators")
        check_measurement(y, A)
        weights = _view_angles(A.angles) * A.col_mm / A.pixel_mm**2
        filtered = _filter(y, _ramp(A.n_cols, A.col_mm, self.window).to(y))
        x = A.adjoint(filtered.mul_(weights.to(y)[:, None]))
        if on_step is not None:
            on_step(0, x)
        return x
