"""DDIM and ancestral sampling of a guided prior."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from medinv.guidance import MMPS, Guidance, Guided
from medinv.guidance.guided import Need, Returns
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, ddim_split, descend
from medinv.solvers.base import require
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class DDIM(Diffusion):
    """DDIM (Song, Meng and Ermon, ICLR 2021, arXiv:2010.02502) with the posterior's denoiser.

        x_t = D + c_eps eps + c_noise n        D = D(x_t, sigma | y), eps = (x_t - D) / sigma

    ``eta = 1`` is ancestral sampling (DDPM), ``eta = 0`` the Euler step of the probability-flow
    ODE, in the VE coordinate, where schedules of VP and flow networks are lists of levels. What
    the result is, a sample of the posterior or not, depends on ``guidance`` alone.

    Args:
        guidance: the posterior's denoiser from the prior's.
        steps: noise levels; the network is called once at each.
        eta: share of fresh noise.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.

    Example:
        >>> DDIM(MMPS(cg_iter=5), steps=64).eta
        1.0
    """

    guidance: Guidance = field(default_factory=MMPS)
    steps: int = 100
    eta: float = 1.0
    sigma_max: float = 100.0
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        geometric_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(0 <= self.eta <= 1, "DDIM: eta", "0 <= eta <= 1", self.eta)

    @property
    def needs(self) -> frozenset[Need]:
        """What its guidance needs."""
        return self.guidance.needs

    @property
    def returns(self) -> Returns:
        """What its guidance makes of it."""
        return self.guidance.returns

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units."""
        problem = problem.scaled(run.unit)
        posterior = Guided(prior, problem, self.guidance)

        def step(_: int, x: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D = posterior(x, sigma)
            c_eps, c_noise = ddim_split(self.eta, sigma, sigma_next)
            x = x.sub_(D).mul_(c_eps / sigma).add_(D)
            return (x.add_(run.noise(x), alpha=c_noise) if c_noise else x), D

        levels = geometric_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        return descend(levels, levels[0] * run.noise(problem.empty_image()), step, run)
