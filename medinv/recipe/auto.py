"""A solver's weights from the measurement alone: rules where there are, else a short search.

With ``||A|| = 1`` and intensities in the prior's unit, let ``s`` be the noise of a real component
of ``y``, and ``m`` the real components of one item. The rules, each the start of a search:

    noise_std  that of the measurement, so that the data step is a posterior mean (see `DDS`)
    gamma      1, the posterior mean of a Gaussian prior
    lambda     s^2 / b: ||A x - y||^2 / (2 s^2) + |D_z x| / b, a Laplace law of mean jump b = 0.1
    rho        lambda / b: one sweep flattens jumps below b; it sets the speed, not the solution
    zeta       s sqrt(m), the norm of the residual that noise alone leaves: no longer step than it

Gaussian priors and Laplace laws are simplifications, so multiples are tried on a slab. A part of
the views, or of the columns of k-space, is taken from ``y`` and from the operator; the score is
the residual on that part, in units of the noise. The truth, even where it is known, is not looked
at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from medinv.errors import InputError
from medinv.operators.base import LinearOperator
from medinv.operators.mri import CartesianMRI
from medinv.operators.weighted import Tomographic
from medinv.priors import Prior
from medinv.recipe.measurement import Measured
from medinv.recipe.settings import MEASUREMENT, SolverSettings, needs_prior
from medinv.recipe.slab import prior_of_slab, slab

JUMP = 0.1  # mean difference between neighbours along z, in the prior's unit
_EVERY = 6  # one view or column in six is held out
_SLICES, _STEPS = 12, 15  # of a trial
_FACTORS = {"gamma": (1, 3, 10, 30, 100), "z_weight": (0.3, 1, 3, 10), "zeta": (0.1, 0.3, 1, 3)}

Trial = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """The settings that were chosen, and what each trial scored.

    Attributes:
        solver: the settings, complete.
        weights: those that were chosen.
        scores: of the trials, by what was changed: the rms residual on what was held out, over the
            noise's standard deviation.
    """

    solver: SolverSettings
    weights: dict[str, float | str | None]
    scores: dict[str, float]

    def __str__(self) -> str:
        """One line."""
        values = (f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                  for name, value in self.weights.items())
        return f"automatic weights: {', '.join(values)}"


@torch.no_grad()
def choose(settings: SolverSettings, measured: Measured, prior: Prior | None, seed: int) -> Choice:
    """Choose the weights that ``settings`` has: gamma, z_weight with rho, zeta.

    Raises:
        InputError: the solver has no such weight, or nothing can be held out of the measurement.
    """
    names = [name for name in _FACTORS if name in settings.fields]
    if not names or not needs_prior(settings) or prior is None:
        raise InputError(f"auto: {settings.name} has none of the weights {', '.join(_FACTORS)}; "
                         "set its weights in the recipe")
    few, part = slab(measured, _SLICES), prior_of_slab(prior, measured, _SLICES)
    seen, unseen = hold_out(few)
    noise = few.noise_std / (prior.scale.estimate(few.y, few.A) * few.A.norm())
    current = dict(settings.fields)
    if "noise_std" in current and measured.noise_std > 0:
        current["noise_std"] = MEASUREMENT
    scores: dict[str, float] = {}

    def score(trial: Trial, label: str) -> float:
        solver = _shortened(settings, trial).build(few.noise_std)
        x = solver(seen.y, seen.A, part, rng=Generator().manual_seed(seed))
        scores[label] = residual(x, unseen)
        return scores[label]

    for name in names:
        trials = {f"{name}={value:.3g}": {**current, **change}
                  for value, change in _trials(name, current, noise, few)}
        if name == "z_weight" and "noise_std" in current:
            trials["z_weight=none"] = {**current, "z_weight": None}
        ranking = {label: score(trial, label) for label, trial in trials.items()}
        current = trials[min(ranking, key=lambda label: ranking[label])]
    chosen = _with_fields(settings, current)
    changed = {key: value for key, value in current.items()
               if key in ("noise_std", "rho", *_FACTORS)}
    return Choice(chosen, changed, scores)


def _trials(name: str, current: Trial, noise: float,
            few: Measured) -> Iterator[tuple[float, Trial]]:
    """Values of one weight around its rule, and what else changes with them."""
    items = few.y.numel() // max(1, math.prod(few.A.codomain.shape))
    m = few.y.numel() / items * (2 if few.y.is_complex() else 1)
    rule = {"gamma": 1.0, "z_weight": noise**2 / JUMP, "zeta": noise * math.sqrt(m)}[name]
    for factor in _FACTORS[name]:
        value = factor * rule
        yield value, {name: value, **({"rho": value / JUMP} if name == "z_weight" else {})}


def hold_out(measured: Measured) -> tuple[Measured, Measured]:
    """The measurement without every sixth view or column, and those alone.

    Of k-space, the fully sampled columns at the centre stay: they carry most of the energy, and an
    image without them is no trial of a weight.

    Raises:
        InputError: of this measurement nothing can be held out.
    """
    A, y = measured.A, measured.y
    if isinstance(A, CartesianMRI):
        hidden = _hidden_columns(A)
        seen, unseen = (CartesianMRI(A.maps, mask, ndim=A.ndim, sets=A.sets)
                        for mask in (A.mask & ~hidden, A.mask & hidden))
        return (replace(measured, A=seen, y=y * ~hidden),
                replace(measured, A=unseen, y=y * hidden))
    if isinstance(A, Tomographic) and "view" in A.codomain.axes:
        axis = A.codomain.axes.index("view") - len(A.codomain.shape)
        n = y.shape[axis]
        held = torch.arange(n, device=y.device) % _EVERY == _EVERY // 2
        if held.any() and not held.all():
            return tuple(  # type: ignore[return-value]
                replace(measured, A=A.views(index), y=y.index_select(axis, index))
                for index in ((~held).nonzero()[:, 0], held.nonzero()[:, 0]))
    raise InputError(f"auto: nothing can be held out of {type(A).__name__} with "
                     f"{A.codomain}; set the weights in the recipe")


def _hidden_columns(A: CartesianMRI) -> Tensor:
    """Every sixth measured column outside of the middle eighth, (kx,)."""
    n = A.mask.shape[-1]
    measured = A.mask.flatten(0, -2).any(0)
    outside = (torch.arange(n, device=A.mask.device) - n // 2).abs() > n // 16
    index = (measured & outside).nonzero()[:, 0][_EVERY // 2 :: _EVERY]
    if not len(index):
        raise InputError("auto: too few columns of k-space to hold some out; set the weights in "
                         "the recipe")
    hidden = torch.zeros(n, dtype=torch.bool, device=A.mask.device)
    hidden[index] = True
    return hidden


def residual(x: Tensor, unseen: Measured) -> float:
    """Rms of ``A x - y`` per real component, over the noise's std; 1 is noise alone."""
    difference = unseen.A(x) - unseen.y
    count = _measured_count(unseen.A, difference)
    rms = float(torch.linalg.vector_norm(difference)) / math.sqrt(count)
    return rms / unseen.noise_std if unseen.noise_std > 0 else rms


def _measured_count(A: LinearOperator, y: Tensor) -> float:
    """Real components of ``y`` that were measured."""
    if isinstance(A, CartesianMRI):
        share = float(A.mask.float().mean())
        return max(1.0, 2 * y.numel() * share)
    return float(y.numel())


def _shortened(settings: SolverSettings, trial: Trial) -> SolverSettings:
    """With fewer steps, for a trial."""
    return _with_fields(settings, {**trial, "steps": min(trial["steps"], _STEPS)})


def _with_fields(settings: SolverSettings, fields: Trial) -> SolverSettings:
    return SolverSettings.model_validate(
        {"name": settings.name, "label": settings.label, **fields})
