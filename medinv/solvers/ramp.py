"""The ramp filter of filtered backprojection.

It is the band-limited ramp sampled in the spatial domain (Ramachandran and Lakshminarayanan, PNAS
68 (1971), 2236; Kak and Slaney, "Principles of computerized tomographic imaging" (1988), equation
3.61): a ramp sampled in frequency loses its DC part to aliasing and shifts all values.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

WINDOWS: dict[str, Callable[[Tensor], Tensor]] = {  # of the frequency, 1 at Nyquist
    "ram-lak": torch.ones_like,
    "shepp-logan": lambda f: torch.sinc(f / 2),
    "hann": lambda f: torch.cos(math.pi / 2 * f) ** 2,
}
_ROWS = 4096  # detector rows filtered at a time, which bounds the memory of the padded FFT


def ramp(n_cols: int, step: float, window: str, *, equiangular: bool = False) -> Tensor:
    """Frequency response of the windowed ramp, padded to twice the detector: ``(n_freq,)``.

    It includes the ``step`` of the convolution integral.

    Args:
        n_cols: detector columns.
        step: their distance, in mm, or radians if ``equiangular``.
        window: a key of `WINDOWS`.
        equiangular: multiply the kernel by ``(g / sin g)^2``, ``g`` the angle between columns:
            the ramp of a detector that is bent around the source (Kak and Slaney, 3.4.1).

    Example:
        >>> ramp(4, 1.0, "ram-lak").shape
        torch.Size([5])
    """
    n = 2 ** math.ceil(math.log2(2 * n_cols))
    position = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    odd = position.remainder(2) == 1
    kernel = torch.where(odd, -1 / (math.pi * position) ** 2, 0.0)
    kernel[0] = 1 / 4
    if equiangular:
        within = position.abs() < n_cols  # other distances do not occur
        kernel = torch.where(within, kernel / torch.sinc(position * step / math.pi) ** 2, 0.0)
    response: Tensor = torch.fft.rfft(kernel).real / step
    return response * WINDOWS[window](torch.linspace(0, 1, n // 2 + 1, dtype=torch.float64))


def filter_columns(y: Tensor, response: Tensor) -> Tensor:
    """Convolve the last axis of ``y`` with the filter of this frequency response.

    Example:
        >>> filter_columns(torch.ones(2, 4), ramp(4, 1.0, "hann")).shape
        torch.Size([2, 4])
    """
    n = 2 * (len(response) - 1)
    n_cols = y.shape[-1]
    filtered = torch.empty_like(y, memory_format=torch.contiguous_format)
    rows, outputs = y.reshape(-1, n_cols), filtered.view(-1, n_cols)
    for start in range(0, len(rows), _ROWS):
        spectrum = torch.fft.rfft(rows[start: start + _ROWS], n) * response
        outputs[start: start + _ROWS] = torch.fft.irfft(spectrum, n)[:, :n_cols]
    return filtered
