"""What was measured, with what, and how noisy it is: ``y = A x + n``.

The noise belongs to the data. A solver takes a `Problem` and asks it; nothing of the noise is a
setting of a solver. Statistical weights are the same thing told otherwise: noise of another
standard deviation in each sample is whitened away, ``W^(1/2) y = W^(1/2) A x + n`` with ``n`` of
standard deviation 1 (see `medinv.operators.weighted`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from medinv.arguments import checked
from medinv.errors import InputError, ShapeError
from medinv.operators.base import LinearOperator, Operator, Space
from medinv.operators.mri import CartesianMRI
from medinv.operators.weighted import Tomographic, Weighted

_EVERY = 6  # one view or column in six is held out


@runtime_checkable
class Noise(Protocol):
    """The noise of a measurement."""

    def std_of(self, y: Tensor) -> float | Tensor:
        """Standard deviation of each real component: one, or one for each sample of ``y``."""


@checked
@dataclass(frozen=True, eq=False)
class Gaussian:
    """White noise, or independent noise with a standard deviation for each sample.

    Args:
        std: of each REAL component, in the units of ``y``; a number, or a tensor that broadcasts
            to ``y``. 0 is no noise, or none that is known.

    Raises:
        InputError: a negative or infinite standard deviation.

    Example:
        >>> Gaussian(0.1).std_of(torch.zeros(3))
        0.1
    """

    std: float | Tensor = 0.0

    def __post_init__(self) -> None:
        std = torch.as_tensor(self.std)
        if std.is_complex() or not bool(((std >= 0) & std.isfinite()).all()):
            raise InputError(f"noise: expected a standard deviation of at least 0, got {self.std}")

    def std_of(self, y: Tensor) -> float | Tensor:  # noqa: ARG002  (the same for all y)
        """As given."""
        return self.std


@checked
@dataclass(frozen=True, eq=False)
class Poisson:
    """Line integrals of photon counts, ``y = -log(N / incident)`` with ``N`` of a Poisson law.

    The variance of ``y`` is ``1 / N`` to first order, which makes a Gaussian with a standard
    deviation for each ray of it (Bouman and Sauer, IEEE Trans. Image Process. 5 (1996), 480).

    Args:
        incident: photons of each ray without an object; a number, or what broadcasts to ``y``.

    Raises:
        InputError: no positive number of photons.

    Example:
        >>> Poisson(100.0).std_of(torch.zeros(1)).tolist()
        [0.10000000149011612]
    """

    incident: float | Tensor

    def __post_init__(self) -> None:
        incident = torch.as_tensor(self.incident)
        if incident.is_complex() or not bool(((incident > 0) & incident.isfinite()).all()):
            raise InputError(f"noise: expected a positive number of photons, got {self.incident}")

    def std_of(self, y: Tensor) -> Tensor:
        """``1 / sqrt(N)``, with ``N`` from ``y``."""
        return (torch.exp(y) / torch.as_tensor(self.incident, device=y.device)).sqrt()


@dataclass(frozen=True, eq=False, init=False)
class Problem:
    """A measurement with its operator and its noise.

    Args:
        y: measurement, ``(*batch, *A.codomain.shape)``, in physical units.
        A: its operator, linear or not.
        noise: none that is known by default.
        noise_std: short for ``noise=Gaussian(noise_std)``.

    Raises:
        InputError: ``y`` does not fit ``A`` or is not finite, or both noises are given.

    Example:
        >>> from medinv.operators import Identity
        >>> problem = Problem(torch.zeros(4), Identity((4,)), noise_std=0.1)
        >>> problem.noise_std
        0.1
    """

    y: Tensor
    A: Operator
    noise: Noise

    @checked
    def __init__(self, y: Tensor, A: Operator, noise: Noise | None = None, *,
                 noise_std: float | Tensor | None = None) -> None:
        if noise is not None and noise_std is not None:
            raise InputError("Problem: expected noise or noise_std, got both; drop one")
        A.codomain.check(y, "y")
        finite = y.isfinite()
        if not bool(finite.all()):
            raise InputError(f"y: expected finite samples, got {int((~finite).sum())} NaN or Inf "
                             f"of {y.numel()}; remove them from the file or leave them out of "
                             "the mask")
        if noise is None:
            noise = Gaussian(0.0 if noise_std is None else noise_std)
        if isinstance(noise, Gaussian):
            _check_shape(noise.std, y)
        for name, value in (("y", y), ("A", A), ("noise", noise)):
            object.__setattr__(self, name, value)

    @property
    def noise_std(self) -> float | Tensor:
        """Of each real component: one, or one for each sample."""
        return self.noise.std_of(self.y)

    @property
    def linear(self) -> LinearOperator:
        """The operator, for methods that need a linear one.

        Raises:
            InputError: it is not linear.
        """
        if not isinstance(self.A, LinearOperator):
            raise InputError(f"expected a linear operator, got {type(self.A).__name__}; choose a "
                             "method for nonlinear ones, as DPS (`medinv solvers` lists them)")
        return self.A

    @property
    def batch_ndim(self) -> int:
        """Number of axes before those of the operator."""
        return self.A.codomain.batch_ndim(self.y)

    def empty_image(self) -> Tensor:
        """An image that may have been measured, ``(*batch, *A.domain.shape)``, without values."""
        batch, domain = self.y.shape[: self.batch_ndim], self.A.domain
        return self.y.new_empty(*batch, *domain.shape, dtype=domain.dtype)

    def to(self, device: torch.device) -> Problem:
        """On a device; the operator itself is moved."""
        return replace(self, y=self.y.to(device), A=self.A.to(device))

    def whitened(self) -> Problem:
        """The same with noise of one standard deviation: weighted where samples differ.

        Raises:
            InputError: samples differ and some have no noise, or the operator is not linear.
        """
        std = self.noise_std
        if not isinstance(std, Tensor) or std.numel() == 1:
            return replace(self, noise=Gaussian(float(std)))
        if not bool((std > 0).all()):
            raise InputError("noise: expected a positive standard deviation in each sample, or 0 "
                             "in all; give samples that count for nothing a large one")
        A = self.linear
        root = (1 / std).to(self.y.real.dtype).expand(self.y.shape)
        whitened = Weighted(A, root.square())
        return Problem(root * self.y, whitened, Gaussian(1.0))

    def scaled(self, intensity: float) -> Problem:
        """The same in other units: ``||A|| = 1``, and images divided by ``intensity``.

        A nonlinear operator has no norm and keeps its units but for the intensity.
        """
        problem = self.whitened()
        if not isinstance(problem.A, LinearOperator):
            return replace(problem, A=_Intensities(problem.A, intensity))
        unit = intensity * problem.A.norm()
        return Problem(problem.y / unit, problem.A.normalized(),
                       noise_std=float(problem.noise_std) / unit)

    def backprojected(self, intensity: float) -> tuple[LinearOperator, Tensor, float]:
        """``A``, ``A^H y`` and the noise's standard deviation in the units of `scaled`.

        No copy of ``y`` is made, which of many coils is larger than an image.
        """
        problem = self.whitened()
        A, norm = problem.linear, problem.linear.norm()
        return (A.normalized(), A.adjoint(problem.y) / (intensity * norm**2),
                float(problem.noise_std) / (intensity * norm))

    def part(self, index: slice | Tensor) -> Problem:
        """Some slices: of the batch axis next to the operator, or of maps for each slice.

        Raises:
            InputError: the operator acts on the whole volume, so it has no slices.
        """
        std, A = self.noise_std, self.A
        if isinstance(std, Tensor) and std.ndim == self.y.ndim and len(std) > 1:
            std = std[index]
        noise = Gaussian(std)
        if self.batch_ndim == 1:
            return Problem(self.y[index], A, noise)
        if isinstance(A, CartesianMRI) and A.codomain.axes[0] == "slice" and self.batch_ndim == 0:
            of_slices = A.mask.ndim == 3 and len(A.mask) == len(A.maps)
            mask = A.mask[index] if of_slices else A.mask
            return Problem(self.y[index], CartesianMRI(A.maps[index], mask), noise)
        raise InputError(f"expected a stack of slices, got {tuple(self.y.shape)} of "
                         f"{type(A).__name__}, which acts on the whole volume")

    @property
    def n_slices(self) -> int:
        """Slices that it can be cut into by `part`; 1 if its operator needs all of the volume."""
        A = self.A
        of_maps = (isinstance(A, CartesianMRI) and self.batch_ndim == 0
                   and A.codomain.axes == ("slice", "coil", "ky", "kx"))
        return int(self.y.shape[0]) if self.batch_ndim == 1 or of_maps else 1

    def hold_out(self, rng: Generator | None = None) -> tuple[Problem, Problem]:
        """Without every sixth view or column of k-space, and those alone.

        Of k-space, the fully sampled columns at the centre stay: they carry most of the energy.

        Args:
            rng: chooses the first of them; the fourth by default.

        Raises:
            InputError: of this measurement nothing can be held out.
        """
        first = _EVERY // 2 if rng is None else int(torch.randint(_EVERY, (), generator=rng))
        A, y, noise = self.A, self.y, self.noise
        if isinstance(A, CartesianMRI):
            hidden = _hidden_columns(A, first)
            with_it, without = (CartesianMRI(A.maps, mask, ndim=A.ndim, sets=A.sets)
                                for mask in (A.mask & hidden, A.mask & ~hidden))
            return Problem(y * ~hidden, without, noise), Problem(y * hidden, with_it, noise)
        if isinstance(A, Tomographic) and "view" in A.codomain.axes:
            axis = A.codomain.axes.index("view") - len(A.codomain.shape)
            held = torch.arange(y.shape[axis], device=y.device) % _EVERY == first
            if held.any() and not held.all():
                seen, unseen = (self._of_views(axis, part.nonzero()[:, 0])
                                for part in (~held, held))
                return seen, unseen
        raise InputError(f"auto: nothing can be held out of {type(A).__name__} with "
                         f"{A.codomain}; set the weights in the recipe")

    def _of_views(self, axis: int, index: Tensor) -> Problem:
        assert isinstance(self.A, Tomographic)
        std = self.noise_std
        if isinstance(std, Tensor) and std.numel() > 1:
            std = std.expand(self.y.shape).index_select(axis, index)
        return Problem(self.y.index_select(axis, index), self.A.views(index), Gaussian(std))

    def measured(self) -> float:
        """Real components of ``y`` that were measured."""
        if isinstance(self.A, CartesianMRI):
            return max(1.0, 2 * self.y.numel() * float(self.A.mask.float().mean()))
        return float(self.y.numel() * (2 if self.y.is_complex() else 1))

    def misfit(self, x: Tensor) -> float:
        """Rms of ``A x - y`` per real component, over the noise's std; 1 is noise alone."""
        std = self.noise_std
        difference = self.A(x) - self.y
        if isinstance(std, Tensor) and std.numel() > 1:
            difference, std = difference / std, 1.0
        rms = float(torch.linalg.vector_norm(difference)) / math.sqrt(self.measured())
        return rms / float(std) if std > 0 else rms


def _check_shape(std: float | Tensor, y: Tensor) -> None:
    try:
        torch.as_tensor(std).expand(y.shape)
    except RuntimeError as error:
        raise ShapeError("noise: expected a standard deviation, or one for each sample of "
                         f"{tuple(y.shape)}, got {tuple(torch.as_tensor(std).shape)}") from error


class _Intensities(Operator):
    """A nonlinear operator of images in units of ``intensity``."""

    def __init__(self, A: Operator, intensity: float) -> None:
        super().__init__(Space(A.domain.shape, A.domain.dtype), A.codomain)
        self.A, self.intensity = A, intensity

    def _forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.A(self.intensity * x)
        return y

    def linearize(self, x: Tensor) -> LinearOperator:
        """The derivative, by the chain rule."""
        return self.intensity * self.A.linearize(self.intensity * x)


def _hidden_columns(A: CartesianMRI, first: int) -> Tensor:
    """Every sixth measured column outside of the middle eighth, (kx,)."""
    n = A.mask.shape[-1]
    measured = A.mask.flatten(0, -2).any(0)
    outside = (torch.arange(n, device=A.mask.device) - n // 2).abs() > n // 16
    index = (measured & outside).nonzero()[:, 0][first::_EVERY]
    if not len(index):
        raise InputError("auto: too few columns of k-space to hold some out; set the weights in "
                         "the recipe")
    hidden = torch.zeros(n, dtype=torch.bool, device=A.mask.device)
    hidden[index] = True
    return hidden
