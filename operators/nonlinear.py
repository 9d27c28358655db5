"""Nonlinear measurements with exact derivatives: magnitudes and transmission counts.

Each applies a pointwise function ``f`` to ``u = A x``, so its derivative at ``x`` is
``J v = Re(conj(w) A v)`` and ``J^H r = A^H (w r)``, with a weight ``w`` that `linearize` computes
once. Torch differentiates ``forward`` itself, in both modes and any number of times.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medinv.arguments import checked
from medinv.errors import ShapeError
from medinv.operators.base import LinearOperator, Operator, Space


class Magnitude(Operator):
    """``y = sqrt(|A x|^2 + smoothing^2)``: measurements without their phase (phase retrieval).

    With ``smoothing = 0`` it is ``|A x|``, whose derivative where ``A x = 0`` does not exist; 0 is
    taken there, the middle of all slopes. A positive ``smoothing`` makes it differentiable
    everywhere and lifts values far below it.

    Args:
        A: real or complex linear operator.
        smoothing: in the units of ``A x``, at least 0.

    Attributes:
        domain: that of ``A``.
        codomain: that of ``A``, real.
        A: as given.
        smoothing: as given.

    Raises:
        ShapeError: ``smoothing`` is negative or not finite.

    Source:
        Fienup, "Phase retrieval algorithms: a comparison", Appl. Opt. 21 (1982), 2758.

    Example:
        >>> from medinv.operators import Identity
        >>> F = Magnitude(Identity((1, 2), torch.complex64))
        >>> x = torch.tensor([[3 + 4j, 0j]])
        >>> F(x).tolist(), F.jvp(x, torch.ones_like(x)).round(decimals=4).tolist()
        ([[5.0, 0.0]], [[0.6000000238418579, 0.0]])
    """

    @checked
    def __init__(self, A: LinearOperator, smoothing: float = 0.0) -> None:
        if not 0 <= smoothing < math.inf:
            raise ShapeError(f"Magnitude: smoothing is {smoothing}; pass a number of at least 0.")
        y = A.codomain
        super().__init__(A.domain, Space(y.shape, y.dtype.to_real(), y.axes))
        self.A, self.smoothing = A, smoothing

    def _forward(self, x: Tensor) -> Tensor:
        return self._smooth(self.A(x).abs())

    @checked
    def linearize(self, x: Tensor) -> LinearOperator:
        """``J v = Re(conj(w) A v)`` with ``w = A x / F(x)``, the phase of ``A x``."""
        self._check(self.domain, x, ".linearize")
        with torch.no_grad():
            u = self.A(x)
            y = self._smooth(u.abs())
            return _RealPart(self.A.codomain, u / torch.where(y > 0, y, 1)) @ self.A

    def _smooth(self, magnitude: Tensor) -> Tensor:
        """Without smoothing, `torch.abs` alone: its derivative at 0 is 0, `torch.hypot`'s NaN."""
        if self.smoothing == 0:
            return magnitude
        return torch.hypot(magnitude, magnitude.new_tensor(self.smoothing))


class TransmissionCounts(Operator):
    """``y = I0 exp(-A x) + b``: mean photon counts behind an object (Beer and Lambert).

    Args:
        A: line integrals, real; with ``x`` in 1/mm and lengths in mm, ``A x`` has no unit.
        incident: ``I0``, photons per detector element without the object, positive; a number or
            what broadcasts to the codomain.
        background: ``b``, mean counts that did not come through the object (scatter, dark
            current), at least 0; a number or what broadcasts to the codomain.

    Attributes:
        domain: that of ``A``.
        codomain: that of ``A``, in photons.
        A: as given.
        incident: ``I0``, broadcasts to the codomain.
        background: ``b``, broadcasts to the codomain.

    Raises:
        ShapeError: ``A`` is complex, or counts that do not fit it, are not finite or have the
            wrong sign.

    Source:
        Erdogan and Fessler, "Monotonic algorithms for transmission tomography", IEEE Trans. Med.
        Imaging 18 (1999), 801.

    Example:
        >>> from medinv.operators import Identity
        >>> F = TransmissionCounts(Identity((1, 2)), incident=100.0, background=5.0)
        >>> F(torch.tensor([[0.0, 0.6931]])).round().tolist()
        [[105.0, 55.0]]
    """

    incident: Tensor
    background: Tensor

    @checked
    def __init__(self, A: LinearOperator, incident: Tensor | float,
                 background: Tensor | float = 0.0) -> None:
        if A.codomain.dtype.is_complex:
            raise ShapeError(f"TransmissionCounts: A gives {A.codomain.dtype}; pass an operator "
                             "with real line integrals, as ParallelBeam.")
        super().__init__(A.domain, A.codomain)
        self.A = A
        self.register_buffer("incident", _counts("incident", incident, A))
        self.register_buffer("background", _counts("background", background, A))
        if not bool((self.incident > 0).all()) or not bool((self.background >= 0).all()):
            raise ShapeError("TransmissionCounts: incident must be positive and background at "
                             "least 0; mask dead detector elements instead.")

    def _forward(self, x: Tensor) -> Tensor:
        return self.incident * torch.exp(-self.A(x)) + self.background

    @checked
    def linearize(self, x: Tensor) -> LinearOperator:
        """``J v = -I0 exp(-A x) A v``."""
        self._check(self.domain, x, ".linearize")
        with torch.no_grad():
            return _RealPart(self.A.codomain, -self.incident * torch.exp(-self.A(x))) @ self.A


class _RealPart(LinearOperator):
    """``v -> Re(conj(w) v)`` for weights ``w``, which may have batch axes."""

    weights: Tensor

    def __init__(self, space: Space, weights: Tensor) -> None:
        super().__init__(space, Space(space.shape, space.dtype.to_real(), space.axes))
        self.register_buffer("weights", weights)

    def _forward(self, x: Tensor) -> Tensor:
        return (self.weights.conj() * x).real

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.weights * y


def _counts(name: str, value: Tensor | float, A: LinearOperator) -> Tensor:
    counts = torch.as_tensor(value, device=A.device).to(A.codomain.dtype)
    try:
        counts.expand(A.codomain.shape)
    except RuntimeError:
        raise ShapeError(f"TransmissionCounts: {name} is {tuple(counts.shape)} but A gives "
                         f"{A.codomain}; pass one number, or one per detector element.") from None
    if not bool(counts.isfinite().all()):
        raise ShapeError(f"TransmissionCounts: {name} has NaN or infinite values; replace them.")
    return counts
