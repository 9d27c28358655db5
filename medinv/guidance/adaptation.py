"""A prior that adapts itself to one measurement while it is used.

At a noise level, low-rank weights in a copy of the prior take a few optimiser steps on

    mean |A T - y|^2 + tv_weight TV(T)
    T = argmin_x  ||A x - y||^2 / 2 + ||x - D||^2 / (2 gamma)

with ``T`` by a few conjugate gradient steps from the denoised ``D``, through which the gradient
passes. Of a volume, a few random slices are looked at in each step. Sources: Chung and Ye, "Deep
diffusion image prior" (ECCV 2024, arXiv:2407.10641), equations 80 and 81; Barbano et al.,
"Steerable conditional diffusion" (IEEE TMI 2025, arXiv:2308.14409).

With ``loss="estimate"`` the steps are on

    mean |D - T|^2 / sigma^2 + tv_weight TV(D) ,    T held fixed

which is no published loss. Its gradient is that of ``|A D - y|^2``, preconditioned by the data
step, so that fine detail counts as much as coarse; none passes through ``A``.

With a `PatchPrior` this is patch test-time adaptation (Hu, Song, Fessler and Shen, IEEE TCI 2025,
arXiv:2410.11730) as far as its abstract tells: a network of patches is fitted to ``y`` at each
level. Loss, low-rank weights and data step are those above, and may not be theirs. The inner steps
of a level see one shift of the tiling, the one that the denoised image is then made with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from medinv.arguments import checked
from medinv.errors import InputError
from medinv.operators.linalg import cg, finite_difference
from medinv.priors.base import Prior
from medinv.priors.batches import halving
from medinv.priors.lora import adaptable_copy
from medinv.problem import Problem


@checked
@dataclass(frozen=True)
class Adaptation:
    """How a prior adapts.

    Args:
        rank: rank of the added weights.
        biases: adapt the layers' biases too.
        targets: adapt only layers whose name contains one of these; all if empty.
        loss: "residual" of the data-consistent image, as published, or distance of the denoised
            image to that "estimate".
        learning_rate: of AdamW.
        inner_steps: optimiser steps at a level; 0 leaves the prior as it is.
        slices: slices of a volume that one step looks at; memory and time grow with them.
        gamma: weight of the data in ``T``, with ``||A|| = 1``; None drops ``||x - D||^2``.
        cg_iter: conjugate gradient steps to ``T``.
        tv_weight: weight of the total variation of ``T``, summed over its pixels.
        every: adapt at every such level, counted from the first.
        sigma_min: adapt at no lower level; there the noisy image shows its own artefacts to the
            network, which learns to keep them.
        fresh_optimizer: forget the optimiser's averages at each level.
        held_out: share of the views (or columns of k-space) that the loss does not see.
        patience: levels undone in a row after which adaptation ends.

    Raises:
        InputError: a setting out of its range.

    Example:
        >>> Adaptation(rank=8).slices
        3
    """

    rank: int = 4
    biases: bool = True
    targets: tuple[str, ...] = ()
    loss: Literal["residual", "estimate"] = "residual"
    learning_rate: float = 1e-3
    inner_steps: int = 10
    slices: int = 3
    gamma: float | None = None
    cg_iter: int = 1
    tv_weight: float = 0.0
    every: int = 1
    sigma_min: float = 0.0
    fresh_optimizer: bool = True
    held_out: float = 0.0
    patience: int = 2

    def __post_init__(self) -> None:
        limits = {"rank": 1, "inner_steps": 0, "slices": 1, "cg_iter": 1, "every": 1,
                  "patience": 1, "tv_weight": 0, "sigma_min": 0, "held_out": 0}
        for name, least in limits.items():
            value = getattr(self, name)
            if not least <= value < math.inf:
                raise InputError(f"{name}: expected at least {least}, got {value!r}")
        for name, number in (("learning_rate", self.learning_rate), ("gamma", self.gamma)):
            if number is not None and not 0 < number < math.inf:
                raise InputError(f"{name}: expected a positive number, got {number!r}")
        if not self.held_out < 1:
            raise InputError(f"held_out: expected a share below 1, got {self.held_out!r}")


class AdaptedPrior(Prior):
    """``prior`` with low-rank weights that fit ``y``, for one image or volume.

    The first call at every ``settings.every``-th noise level adapts, then denoises. The given
    prior is never changed. With ``held_out``, steps that make the residual of the views (or
    columns of k-space) that the loss does not see worse are undone; ``patience`` such levels in a
    row end the adaptation. The noisy image itself has seen them, through the solver's data steps,
    so this guard notices overfitting late.

    Args:
        prior: the prior to start from, with a network inside.
        problem: what was measured, of an image, of each slice, or of a volume.
        settings: how to adapt.
        seed: of the random factors and of the choice of slices.

    Example:
        >>> from medinv.operators import ParallelBeam
        >>> from medinv.priors import NetworkPrior, UNet
        >>> A = ParallelBeam((8, 8), torch.linspace(0, 3, 4), pixel_mm=1.0)
        >>> prior = NetworkPrior(UNet(1, (16, 32), (1, 1), 16), sigma_data=0.5)
        >>> problem = Problem(A(torch.ones(8, 8)), A)
        >>> adapted = AdaptedPrior(prior, problem, Adaptation(inner_steps=2))
        >>> adapted(torch.randn(8, 8), 0.5).shape
        torch.Size([8, 8])
    """

    def __init__(self, prior: Prior, problem: Problem, settings: Adaptation,
                 seed: int = 0) -> None:
        super().__init__()
        self.dtype, self.ndim, self.scale = prior.dtype, prior.ndim, prior.scale
        self.settings, self.rng = settings, Generator().manual_seed(seed)
        self.prior, self.trainable = adaptable_copy(
            prior, settings.rank, biases=settings.biases, targets=settings.targets, rng=self.rng)
        problem = problem.scaled(prior.scale.estimate(problem.y, problem.A))
        self.y, self.A = problem.y, problem.linear
        self.seen = self._seen()
        self.optimizer = self._optimizer()
        self.calls, self.undone = 0, 0
        self.last_sigma: float | None = None

    def error_variance(self, sigma: float) -> float:
        """That of the prior before adaptation."""
        return self.prior.error_variance(sigma)

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """``D(x)`` of the adapted prior, adapting first where it is due."""
        if float(sigma) != self.last_sigma:
            self.last_sigma = float(sigma)
            if self._is_due(self.last_sigma):
                self._adapt(x.detach(), self.last_sigma)
            self.calls += 1
        return self.prior(x, sigma)  # type: ignore[no-any-return]

    def state(self) -> dict[str, Any]:
        """The adapted weights, the optimiser and all that decides the next steps."""
        return {
            "weights": [parameter.detach() for parameter in self.trainable],
            "optimizer": self.optimizer.state_dict(), "rng": self.rng.get_state(),
            "seen": self.seen, "calls": self.calls, "undone": self.undone,
            "last_sigma": self.last_sigma,
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Take on a state that `state` returned, of the same prior and settings."""
        for parameter, value in zip(self.trainable, state["weights"], strict=True):
            parameter.copy_(value)
        self.optimizer = self._optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.set_state(state["rng"].cpu())
        self.seen = state["seen"].to(self.y.device)
        self.calls, self.undone = state["calls"], state["undone"]
        self.last_sigma = state["last_sigma"]

    def refined(self, x: Tensor, sigma: float) -> Tensor:
        """``T``: the denoised image after its conjugate gradient steps, of all slices."""
        everything = self.seen.new_ones(())
        return self._refine(self(x, sigma), self.y, everything)

    def _is_due(self, sigma: float) -> bool:
        settings = self.settings
        return (self.calls % settings.every == 0 and sigma >= settings.sigma_min
                and self.undone < settings.patience)

    @torch.no_grad()
    def _adapt(self, x: Tensor, sigma: float) -> None:
        """The optimiser steps of one level, undone if held-out measurements say so."""
        if not self.settings.inner_steps:
            return
        if self.settings.fresh_optimizer:
            self.optimizer = self._optimizer()
        watched = self._pick(x)
        before = self._held_out_loss(x, sigma, watched)
        saved = [parameter.clone() for parameter in self.trainable]
        for _ in range(self.settings.inner_steps):
            slices = self._pick(x)
            halving(self.prior, lambda: self._backward(x, sigma, slices))  # noqa: B023
            self.optimizer.step()
        if not self._held_out_loss(x, sigma, watched) <= before:  # NaN is worse too
            for parameter, value in zip(self.trainable, saved, strict=True):
                parameter.copy_(value)
            self.undone += 1
        else:
            self.undone = 0

    def _backward(self, x: Tensor, sigma: float, slices: Tensor) -> None:
        """The gradient of the loss, anew."""
        self.optimizer.zero_grad()
        with torch.enable_grad():
            self._loss(x, sigma, slices).backward()  # type: ignore[no-untyped-call]

    def _loss(self, x: Tensor, sigma: float, slices: Tensor) -> Tensor:
        D, T, y = self._estimate(x, sigma, slices)
        fitted: Tensor = D if self.settings.loss == "estimate" else T
        if fitted is D:
            misfit = (D - T).abs().square().mean() / sigma**2
        else:
            misfit = (self.seen * (self.A(T) - y)).abs().square().mean()
        if self.settings.tv_weight:
            misfit = misfit + self.settings.tv_weight * sum(
                finite_difference(fitted, axis).abs().sum() for axis in (-2, -1))
        return misfit

    def _held_out_loss(self, x: Tensor, sigma: float, slices: Tensor) -> float:
        """Squared residual of what the loss does not see, 0 if that is nothing."""
        if not self.settings.held_out:
            return 0.0
        _, T, y = self._estimate(x, sigma, slices)
        return float(((1 - self.seen) * (self.A(T) - y)).abs().square().sum())

    def _estimate(self, x: Tensor, sigma: float, slices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``D``, ``T`` and its measurement: of the slices, or of the volume that holds them."""
        y = self.y
        if x.ndim < 3:
            D = self.prior(x, sigma)
        else:
            D = self.prior.at_slices(x, sigma, slices)
            if x.ndim > len(self.A.domain.shape):
                y = y.index_select(x.ndim - 3, slices)
            else:
                with torch.no_grad():
                    rest = self.prior(x, sigma)
                D = rest.index_copy(x.ndim - 3, slices, D)
        start = D.detach() if self.settings.loss == "estimate" else D
        return D, self._refine(start, y, self.seen), y

    def _refine(self, D: Tensor, y: Tensor, seen: Tensor) -> Tensor:
        """Conjugate gradient steps from ``D``, item by item, in differentiable form."""
        pull = 0.0 if self.settings.gamma is None else 1 / self.settings.gamma
        normal = self._normal(seen)
        side = self.A.adjoint(seen * y) + pull * D
        return cg(lambda v: normal(v) + pull * v, side, D, max_iter=self.settings.cg_iter,
                  batch_ndim=self.A.domain.batch_ndim(D))

    def _normal(self, seen: Tensor) -> Callable[[Tensor], Tensor]:
        """``A^H M A`` with the mask of what is seen; the fused ``A^H A`` if that is all."""
        if bool(seen.all()):
            return self.A.normal
        return lambda v: self.A.adjoint(seen * self.A(v))

    def _pick(self, x: Tensor) -> Tensor:
        """Random slices, sorted; none for an image."""
        n = x.shape[-3] if x.ndim >= 3 else 0
        order = torch.randperm(n, generator=self.rng)[: self.settings.slices]
        return order.sort().values.to(x.device)

    def _seen(self) -> Tensor:
        """1 where the loss looks: all but a random share of the views, or else of the columns."""
        codomain = self.A.codomain
        axis = codomain.axes.index("view") if "view" in codomain.axes else len(codomain.shape) - 1
        n = codomain.shape[axis]
        hidden = torch.randperm(n, generator=self.rng)[: round(self.settings.held_out * n)]
        seen = torch.ones(n, dtype=self.y.real.dtype)
        seen[hidden] = 0
        shape = [1] * len(codomain.shape)
        shape[axis] = n
        return seen.reshape(shape).to(self.y.device)

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.trainable, lr=self.settings.learning_rate)
