"""Proof of an operator: does it keep the promises that solvers and gradients rely on?

`check` draws random tensors and measures how far an operator is from each of its properties. The
report prints as a table in Markdown, ready for a paper's supplement. Errors are relative to the
size of what is compared, so that they can be held against the rounding of the dtype.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medinv.arguments import checked
from medinv.operators.base import LinearOperator, Operator, Space
from medinv.operators.linalg import standard_normal
from medinv.resources import measure

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
_NORM_TOLERANCE = 5e-3  # what `linalg.spectral_norm` leaves in the worst case seen, and a margin
_REPEATS = 3


@dataclass(frozen=True)
class Property:
    """One property and how well it holds.

    Attributes:
        name: what it is called.
        statement: what must hold, ``A`` a linear operator, ``J`` a nonlinear one's derivative.
        error: distance from the statement, relative; a count of differences where ``tolerance``
            is 0.
        tolerance: the largest error that passes.
    """

    name: str
    statement: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (NaN is not)."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Cost:
    """What one call takes, without batch.

    Attributes:
        call: the method.
        seconds: wall-clock time, the fastest of three.
        peak_bytes: most memory held beyond what was held before the call: what torch allocated
            on a CUDA device, or the resident memory of the process (where the C library is not
            glibc, memory that is used again is not seen).
    """

    call: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Report:
    """What `check` found; ``print`` it for a table, `facts` for JSON.

    Attributes:
        name: the operator's class.
        domain, codomain: its spaces.
        device: where it ran.
        norm: its spectral norm; None for a nonlinear operator.
        properties: in the order of the table.
        costs: in the order of the table.
    """

    name: str
    domain: Space
    codomain: Space
    device: str
    norm: float | None
    properties: tuple[Property, ...]
    costs: tuple[Cost, ...]

    @property
    def passed(self) -> bool:
        """Whether every property holds."""
        return all(item.passed for item in self.properties)

    def __str__(self) -> str:
        """Two Markdown tables under one line that says what was checked."""
        norm = "" if self.norm is None else f", norm {self.norm:.4g}"
        properties = [(item.name, item.statement, f"{item.error:.1e}", f"{item.tolerance:.0e}",
                       "pass" if item.passed else "FAIL") for item in self.properties]
        costs = [(cost.call, f"{1000 * cost.seconds:.3g}", f"{cost.peak_bytes / 2**20:.1f}")
                 for cost in self.costs]
        return "\n\n".join([
            f"{self.name}: {self.domain} {_short(self.domain)} -> {self.codomain} "
            f"{_short(self.codomain)}, on {self.device}{norm}",
            _table([("property", "what must hold", "error", "tolerance", "result"), *properties]),
            _table([("call", "time (ms)", "peak memory (MiB)"), *costs]),
        ])

    def facts(self) -> dict[str, object]:
        """The same as plain data, for JSON; an error that is not finite is None."""
        return {
            "operator": self.name,
            "domain": {"shape": list(self.domain.shape), "dtype": _short(self.domain)},
            "codomain": {"shape": list(self.codomain.shape), "dtype": _short(self.codomain)},
            "device": self.device, "norm": self.norm, "passed": self.passed,
            "properties": {
                item.name: {"error": item.error if math.isfinite(item.error) else None,
                            "tolerance": item.tolerance, "passed": item.passed}
                for item in self.properties
            },
            "costs": {cost.call: {"seconds": cost.seconds, "peak_bytes": cost.peak_bytes}
                      for cost in self.costs},
        }


@checked
def check(A: Operator, *, at: Tensor | None = None, tolerance: float | None = None,
          seed: int = 0) -> Report:
    """Measure whether an operator is what it says: adjoint, gradients, batch, dtype, cost.

    Takes about 40 calls of the operator, and those of `LinearOperator.norm`. An operator whose
    results have another shape, dtype or device than it declares is measured no further.

    Args:
        A: the operator, on the device where it shall run.
        at: where a nonlinear operator is differentiated, ``(*domain.shape,)``; standard normal
            noise if None. Choose an image with sensible values where noise is none, such as
            attenuations for `TransmissionCounts`.
        tolerance: largest relative error that passes; 1e-5 in single and 1e-10 in double
            precision if None.
        seed: of the random tensors.

    Raises:
        ShapeError: ``at`` does not fit the operator.

    Example:
        >>> from medinv.operators import Blur
        >>> report = check(Blur(torch.ones(3, 3) / 9, (16, 16)))
        >>> report.passed, [item.name for item in report.properties][:3]
        (True, ['output', 'adjoint', 'backward'])
    """
    draw = _Draw(A, Generator().manual_seed(seed))
    x = torch.stack([draw.x() if at is None else at, draw.x() if at is None else at])
    limit = TOLERANCE[A.codomain.dtype.to_real()] if tolerance is None else tolerance
    properties, costs = [_output(A, x, draw)], list[Cost]()
    if properties[0].passed:
        properties += _derivative(A, x, draw, limit) + _call(A, x, limit)
        properties += (_linear(A, draw, limit) if isinstance(A, LinearOperator)
                       else [_differences(A, x[0], draw)])
        costs = _costs(A, x[0], draw)
    return Report(
        name=type(A).__name__, domain=A.domain, codomain=A.codomain, device=str(A.device),
        norm=A.norm() if isinstance(A, LinearOperator) else None,
        properties=tuple(properties), costs=tuple(costs),
    )


class _Draw:
    """Random inputs and outputs of an operator."""

    def __init__(self, A: Operator, rng: Generator) -> None:
        self.A, self.rng = A, rng

    def x(self, *batch: int) -> Tensor:
        return self._noise(self.A.domain, batch)

    def y(self, *batch: int) -> Tensor:
        return self._noise(self.A.codomain, batch)

    def _noise(self, space: Space, batch: tuple[int, ...]) -> Tensor:
        like = torch.empty(*batch, *space.shape, dtype=space.dtype, device=self.A.device)
        return standard_normal(like, self.rng)


def _output(A: Operator, x: Tensor, draw: _Draw) -> Property:
    """What comes back from both directions, against the declared spaces."""
    differences = 0
    for result, space in ((A(x), A.codomain), (A.vjp(x, draw.y(2)), A.domain)):
        expected = ((2, *space.shape), space.dtype, x.device)
        found = (tuple(result.shape), result.dtype, result.device)
        differences += sum(a != b for a, b in zip(found, expected, strict=True))
    return Property("output", "shape, dtype and device are as declared", differences, 0)


def _derivative(A: Operator, x: Tensor, draw: _Draw, limit: float) -> list[Property]:
    """The derivative and its adjoint, by hand and by torch; a linear operator is its own."""
    J, name = A.linearize(x), "A" if isinstance(A, LinearOperator) else "J"
    v, noise = draw.x(2), draw.y(2)
    forward = J(v)
    # Noise alone would be nearly orthogonal to J v, and hide an adjoint of the wrong scale.
    w = forward + noise * (_size(forward, forward) ** 0.5 / _size(noise, noise) ** 0.5)
    adjoint = J.adjoint(w)
    difference = _inner(forward, w) - _inner(v, adjoint)
    gap = abs(difference if _is_complex_linear(A) else difference.real)
    by_backward = torch.func.vjp(A, x)[1](w)[0]
    with warnings.catch_warnings():  # torch compiles parts of its first forward mode the old way
        warnings.simplefilter("ignore", DeprecationWarning)
        by_forward = torch.func.jvp(A, (x,), (v,))[1]
    return [
        Property("adjoint", f"<{name} x, y> = <x, {name}^H y>",
                 float(gap) / _size(forward, w), limit),
        Property("backward", f"torch's backward is {name}^H",
                 _error(by_backward, adjoint), limit),
        Property("forward mode", f"torch's forward mode is {name}",
                 _error(by_forward, forward), limit),
    ]


def _is_complex_linear(A: Operator) -> bool:
    """Between real and complex spaces, an operator is linear over the reals only."""
    return (isinstance(A, LinearOperator) and A.domain.dtype.is_complex
            and A.codomain.dtype.is_complex)


def _call(A: Operator, x: Tensor, limit: float) -> list[Property]:
    """What must hold for the call itself."""
    before = x.clone()
    y = A(x)
    alone = torch.stack([A(item) for item in x])
    return [
        Property("batch", "an item's result does not depend on the others", _error(y, alone),
                 limit),
        Property("vmap", "torch.func.vmap is one more batch axis",
                 _error(torch.func.vmap(A)(x), y), limit),
        Property("input", "stays as it was", float((x != before).sum()), 0),
    ]


def _linear(A: LinearOperator, draw: _Draw, limit: float) -> list[Property]:
    x, z = draw.x(), draw.x()
    factor = 2.5 - 1j if _is_complex_linear(A) else 2.5
    direction = x
    for _ in range(5):  # towards the direction of the largest gain
        direction = A.normal(direction)
        direction = direction / torch.linalg.vector_norm(direction).clamp(min=1e-30)
    gain = float(torch.linalg.vector_norm(A(direction)))
    excess = max(0.0, gain / A.norm() - 1) if A.norm() > 0 else gain
    return [
        Property("linear", "A (a x + z) = a A x + A z",
                 _error(A(factor * x + z), factor * A(x) + A(z)), limit),
        Property("normal", "A.normal(x) = A^H A x", _error(A.normal(x), A.adjoint(A(x))), limit),
        Property("norm", "norm(A x) <= norm(A) norm(x)", excess, _NORM_TOLERANCE),
    ]


def _differences(A: Operator, x: Tensor, draw: _Draw) -> Property:
    """The derivative against a central difference, whose errors balance at ``eps^(1/3)``.

    Where the operator has kinks, a part ``step`` of the entries crosses one: an error of its root.
    """
    step = torch.finfo(x.dtype).eps ** (1 / 3)
    v = draw.x()
    difference = (A(x + step * v) - A(x - step * v)) / (2 * step)
    return Property("derivative", "J v is the limit of differences",
                    _error(A.jvp(x, v), difference), 2 * step**0.5)


def _costs(A: Operator, x: Tensor, draw: _Draw) -> list[Cost]:
    y = draw.y()
    if isinstance(A, LinearOperator):
        return [_cost("forward", lambda: A(x), A.device),
                _cost("adjoint", lambda: A.adjoint(y), A.device),
                _cost("normal", lambda: A.normal(x), A.device)]
    return [_cost("forward", lambda: A(x), A.device),
            _cost("jvp", lambda: A.jvp(x, x), A.device),
            _cost("vjp", lambda: A.vjp(x, y), A.device)]


def _cost(name: str, call: Callable[[], Tensor], device: torch.device) -> Cost:
    with measure(device) as run:
        call()
    return Cost(name, min(_seconds(call, device) for _ in range(_REPEATS)), run.peak_bytes)


def _seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _inner(a: Tensor, b: Tensor) -> Tensor:
    dtype = torch.promote_types(a.dtype, b.dtype)
    return torch.vdot(a.flatten().to(dtype), b.flatten().to(dtype))


def _size(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)) or 1.0


def _error(a: Tensor, b: Tensor) -> float:
    """``|a - b| / |b|``; infinite where the shapes differ."""
    if a.shape != b.shape:
        return math.inf
    return float(torch.linalg.vector_norm(a - b)) / (float(torch.linalg.vector_norm(b)) or 1.0)


def _short(space: Space) -> str:
    return str(space.dtype).removeprefix("torch.")


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) + " |"
             for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (n + 2) for n in widths) + "|", *lines[1:]])
