"""Off-resonance: what an inhomogeneous main field does to an acquisition.

While a sample at time ``t`` is taken, a spin that is ``f`` Hz off resonance has gathered the
phase ``exp(-2 pi i f t)``, so ``y(t) = sum_r E(t, r) exp(-2 pi i f(r) t) x(r)``, which is no
Fourier transform. The time-segmented approximation
``exp(-2 pi i f t) = sum_l b_l(t) exp(-2 pi i f t_l)`` makes it a sum of a few: ``sum_l B_l A C_l``
with diagonal ``B_l`` and ``C_l``. The ``b_l`` are the least-squares fit over the map's range of
frequencies.

Source: Noll et al., IEEE Trans. Med. Imaging 10 (1991), 629; interpolators by least squares:
Sutton, Noll and Fessler, IEEE Trans. Med. Imaging 22 (2003), 178.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from medinv.arguments import checked
from medinv.errors import InputError, ShapeError
from medinv.operators.base import LinearOperator

_MOST_SEGMENTS = 128
_CHUNK = 4096  # times whose weights are computed at once


class OffResonance(LinearOperator):
    """An MRI operator in an inhomogeneous field, by time segments.

    Args:
        op: the operator on resonance (`CartesianMRI`, or a non-Cartesian one).
        field_hz: how far each voxel is off resonance, in Hz; broadcasts against ``op.domain``.
        times_ms: when each sample is taken, in ms after the excitation; broadcasts against
            ``op.codomain`` (see `readout_times`).
        tolerance: largest error of ``exp(-2 pi i f t)`` over the map's frequencies and all times;
            as many segments are taken as it needs.

    Attributes:
        error: that largest error, as measured on a finer grid of frequencies than was fitted.
        n_segments: number of segments; an application costs as many of ``op``.

    Raises:
        ShapeError: a field map or times that don't fit the operator, are complex or not finite.
        InputError: a tolerance that many segments don't reach.

    Example:
        >>> from medinv.operators.mri import CartesianMRI
        >>> A = CartesianMRI(torch.ones(1, 8, 8, dtype=torch.complex64), torch.ones(8, 8))
        >>> B = OffResonance(A, torch.linspace(-50, 50, 8), readout_times((8, 8), 5.0, 0.1))
        >>> B.error < 1e-3, B.n_segments < 5
        (True, True)
    """

    field_hz: Tensor
    weights: Tensor
    segment_times_ms: Tensor

    @checked
    def __init__(self, op: LinearOperator, field_hz: Tensor, times_ms: Tensor, *,
                 tolerance: float = 1e-3) -> None:
        if not op.domain.dtype.is_complex:
            raise ShapeError(f"OffResonance: op acts on {op.domain.dtype}; pass an operator of "
                             "complex images, as CartesianMRI.")
        _check("field_hz", field_hz, op.domain.shape)
        _check("times_ms", times_ms, op.codomain.shape)
        if not tolerance > 0:
            raise InputError(f"OffResonance: tolerance is {tolerance}; pass a positive number.")
        super().__init__(op.domain, op.codomain)
        self.op = op
        times, where = torch.unique(times_ms.double(), return_inverse=True)
        low, high = float(field_hz.min()), float(field_hz.max())
        segment_times, weights, self.error = _segments(low, high, times, tolerance)
        real = op.domain.dtype.to_real()
        self.register_buffer("field_hz", field_hz.to(real))
        self.register_buffer("weights", weights[:, where].to(op.codomain.dtype))
        self.register_buffer("segment_times_ms", segment_times.to(real))

    @property
    def n_segments(self) -> int:
        """Number of time segments."""
        return len(self.segment_times_ms)

    def _phasor(self, time_ms: Tensor) -> Tensor:
        """``exp(-2 pi i f t_l)``, as `field_hz`."""
        angle = (-2e-3 * math.pi * time_ms) * self.field_hz
        return torch.polar(torch.ones_like(angle), angle)

    def _forward(self, x: Tensor) -> Tensor:
        y = x.new_zeros(*x.shape[: self.domain.batch_ndim(x)], *self.codomain.shape)
        for weights, time_ms in zip(self.weights, self.segment_times_ms, strict=True):
            y += weights * self.op._forward(self._phasor(time_ms) * x)
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(*y.shape[: self.codomain.batch_ndim(y)], *self.domain.shape)
        for weights, time_ms in zip(self.weights, self.segment_times_ms, strict=True):
            x += self._phasor(time_ms).conj() * self.op._adjoint(weights.conj() * y)
        return x


def readout_times(shape: tuple[int, int], echo_ms: float, dwell_ms: float,
                  echo_spacing_ms: float = 0.0) -> Float[Tensor, "ky kx"]:
    """When each sample of a Cartesian k-space is taken.

    Args:
        shape: ``(ky, kx)``; the readout runs along ``kx``, upwards.
        echo_ms: time of the centre of k-space (echo time), after the excitation.
        dwell_ms: time between two samples of a readout.
        echo_spacing_ms: time between two lines; 0 for one line per excitation, else echo-planar.

    Returns:
        Times in ms, ``(ky, kx)``, double precision.

    Example:
        >>> readout_times((2, 4), 5.0, 0.5)[0].tolist()
        [4.0, 4.5, 5.0, 5.5]
    """
    ky, kx = (torch.arange(n, dtype=torch.float64) - n // 2 for n in shape)
    return echo_ms + echo_spacing_ms * ky[:, None] + dwell_ms * kx


def _check(name: str, values: Tensor, shape: tuple[int, ...]) -> None:
    fits = values.ndim <= len(shape) and all(
        n in (1, size) for n, size in zip(values.shape[::-1], shape[::-1], strict=False))
    if not fits or not values.is_floating_point():
        raise ShapeError(f"OffResonance: {name} is {values.dtype} {tuple(values.shape)}; pass "
                         f"real values that broadcast against {shape}.")
    if not bool(torch.isfinite(values).all()):
        raise ShapeError(f"OffResonance: {name} holds NaN or infinite values; set them to a "
                         "number, 0 Hz where there is no signal.")


def _segments(low: float, high: float, times: Float[Tensor, " time"], tolerance: float) -> tuple[
        Float[Tensor, " segment"], Complex[Tensor, "segment time"], float]:
    """Segment times, their weights at ``times`` and the largest error of the phasor."""
    span = float(times[-1] - times[0])
    turns = (high - low) * span * 1e-3
    most = min(_MOST_SEGMENTS, len(times))
    if turns > _MOST_SEGMENTS:  # a segment covers one turn at most
        raise _unreached(high - low, span, tolerance, most)
    n_fitted = 64 + 8 * math.ceil(turns)
    device = times.device
    fitted = torch.linspace(low, high, n_fitted, dtype=torch.float64, device=device)
    finer = torch.linspace(low, high, 4 * n_fitted - 3, dtype=torch.float64, device=device)
    probes = times[torch.linspace(0, len(times) - 1, min(len(times), 256)).long()]
    for n in range(min(1 + math.floor(turns), most), most + 1):
        middles = (torch.arange(n, dtype=torch.float64, device=device) + 0.5) / n
        centres = times if n == len(times) else times[0] + span * middles
        _, error = _fit(fitted, finer, centres, probes)
        if error <= tolerance:
            weights, error = _fit(fitted, finer, centres, times)
            if error <= tolerance:
                return centres, weights, error
    raise _unreached(high - low, span, tolerance, most)


def _unreached(bandwidth_hz: float, span_ms: float, tolerance: float, n: int) -> InputError:
    return InputError(
        f"OffResonance: tolerance {tolerance:g} is not reached with {n} segments: the field spans "
        f"{bandwidth_hz:.4g} Hz and the samples {span_ms:.4g} ms; raise the tolerance, or clip "
        "the field map where there is no signal."
    )


def _fit(fitted: Tensor, finer: Tensor, centres: Tensor, times: Tensor) -> tuple[
        Complex[Tensor, "segment time"], float]:
    """Least-squares weights and their largest error over the ``finer`` frequencies."""
    inverse = torch.linalg.pinv(_phasors(fitted, centres), rtol=1e-10)
    parts, error = [], 0.0
    for start in range(0, len(times), _CHUNK):
        chunk = times[start: start + _CHUNK]
        weights = inverse @ _phasors(fitted, chunk)
        misfit = _phasors(finer, centres) @ weights - _phasors(finer, chunk)
        parts.append(weights)
        error = max(error, float(misfit.abs().max()))
    return torch.cat(parts, 1), error


def _phasors(field_hz: Tensor, times_ms: Tensor) -> Complex[Tensor, "frequency time"]:
    angle = -2e-3 * math.pi * field_hz[:, None] * times_ms
    return torch.polar(torch.ones_like(angle), angle)
