"""A solver's weights from the measurement alone: rules where there are, else a short search.

With ``||A|| = 1`` and intensities in the prior's unit, let ``s`` be the noise of a real component
of ``y``, and ``m`` the real components of one item. The rules, each the start of a search:

    noise_aware  true, so that the data step is a posterior mean (see `DDS`)
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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator

from medinv.errors import InputError
from medinv.priors import Prior
from medinv.problem import Problem
from medinv.recipe.measurement import Measured
from medinv.recipe.settings import SolverSettings, needs_prior
from medinv.recipe.slab import prior_of_slab, slab

JUMP = 0.1  # mean difference between neighbours along z, in the prior's unit
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
    problem = measured.problem
    few, part = slab(problem, _SLICES), prior_of_slab(prior, problem, _SLICES)
    seen, unseen = few.hold_out()
    noise = few.backprojected(prior.scale.estimate(few.y, few.A))[2]
    current = dict(settings.fields)
    if "noise_aware" in current and measured.noise_std > 0:
        current["noise_aware"] = True
    scores: dict[str, float] = {}

    def score(trial: Trial, label: str) -> float:
        solver = _shortened(settings, trial).build()
        x = solver(seen, part, rng=Generator().manual_seed(seed))
        scores[label] = unseen.misfit(x)
        return scores[label]

    for name in names:
        trials = {f"{name}={value:.3g}": {**current, **change}
                  for value, change in _trials(name, current, noise, few)}
        if name == "z_weight" and current.get("noise_aware"):
            trials["z_weight=none"] = {**current, "z_weight": None}
        ranking = {label: score(trial, label) for label, trial in trials.items()}
        current = trials[min(ranking, key=lambda label: ranking[label])]
    chosen = _with_fields(settings, current)
    changed = {key: value for key, value in current.items()
               if key in ("noise_aware", "rho", *_FACTORS)}
    return Choice(chosen, changed, scores)


def _trials(name: str, current: Trial, noise: float,
            few: Problem) -> Iterator[tuple[float, Trial]]:
    """Values of one weight around its rule, and what else changes with them."""
    items = few.y.numel() // max(1, math.prod(few.A.codomain.shape))
    m = few.y.numel() / items * (2 if few.y.is_complex() else 1)
    rule = {"gamma": 1.0, "z_weight": noise**2 / JUMP, "zeta": noise * math.sqrt(m)}[name]
    for factor in _FACTORS[name]:
        value = factor * rule
        yield value, {name: value, **({"rho": value / JUMP} if name == "z_weight" else {})}


def _shortened(settings: SolverSettings, trial: Trial) -> SolverSettings:
    """With fewer steps, for a trial."""
    return _with_fields(settings, {**trial, "steps": min(trial["steps"], _STEPS)})


def _with_fields(settings: SolverSettings, fields: Trial) -> SolverSettings:
    return SolverSettings.model_validate(
        {"name": settings.name, "label": settings.label, **fields})
