"""Decomposed diffusion sampling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medinv.errors import ShapeError
from medinv.operators.base import LinearOperator
from medinv.operators.linalg import cg
from medinv.priors.base import Prior
from medinv.priors.schedule import karras_sigmas
from medinv.problem import Problem
from medinv.samplers import Run, ddim_split, descend, fixed_split
from medinv.solvers.base import require
from medinv.solvers.coupling import SplitTV
from medinv.solvers.diffusion import Diffusion
from medinv.solvers.tv import TV


@dataclass(frozen=True)
class DDS(Diffusion):
    """DDS (Chung, Lee and Ye, ICLR 2024, arXiv:2303.05754) in the VE coordinate.

    At each level the denoised image ``D`` is the start of a few conjugate gradient steps on the
    measurement, and the result is renoised with the predicted noise ``eps = (x_t - D) / sigma``:

        noiseless         x0 = CG(A^H A, A^H y, start D)
        noisy             x0 = CG(I + gamma A^H A, D + gamma A^H y, start D)
        volumes           one ADMM sweep with lambda ||D_z x||_1 added (z_weight), state kept
        next level        x_t = x0 + sigma' (sqrt(1 - eta^2) eps + eta n)     or the DDIM split

    The published code differs by mistake in four places, where this follows the paper: inner
    products conjugate, the adjoint is exact, the right-hand side of the noisy step is
    ``D + gamma A^H y`` for complex images too, and slices that are not coupled don't share step
    sizes.

    With ``noise_aware`` the data step is a Gaussian posterior mean instead of a fixed trade-off:
    ``gamma = v / s^2`` with ``s`` the noise of the measurement and ``v`` the prior's error
    variance at this level; ``eps`` is recomputed from ``x0``, and ``gamma`` is a factor on that
    weight. For a Gaussian prior with equal variances this is exact (with ``ddim``, as steps grow).

    Data-consistency weights are in units of an operator with ``||A|| = 1`` and of the prior's
    intensity; both are set here. ``x`` may be an image, a stack of slices or a volume.

    Args:
        steps: network evaluations.
        gamma: weight of the data in the noisy step (1 in the paper); None for the noiseless one.
        noise_aware: weigh the data by the problem's noise; noise of 0 is the noiseless step.
        cg_iter: conjugate gradient steps per level, M in the paper.
        eta: share of fresh noise.
        ddim: renoise by DDIM's rule instead of the paper's fixed share (see `medinv.samplers`).
        z_weight: lambda, total variation along the axis -3; None leaves slices independent.
        rho: penalty of the ADMM split.
        shared_noise: draw the same noise for all slices, which keeps neighbours alike.
        sigma_max: highest noise level, in prior units.
        sigma_min: lowest noise level.
        start_tv: weight of a total variation image (`TV`, in 3D where slices are coupled) that the
            first level's noise is added to, in place of 0 (Chung, Sim and Ye, CVPR 2022,
            arXiv:2112.05146): with a low ``sigma_max``, fewer steps do.

    Example:
        >>> import torch
        >>> from medinv.operators import CartesianMRI
        >>> from medinv.priors import GaussianPrior
        >>> A = CartesianMRI(torch.ones(1, 4, 4) + 0j, torch.ones(4, 4))
        >>> prior = GaussianPrior(torch.zeros(4, 4) + 0j, torch.eye(16))
        >>> x = DDS(steps=5, gamma=None)(Problem(A(prior.mean + 3), A), prior)
        >>> torch.allclose(x, prior.mean + 3, atol=1e-4)
        True
    """

    steps: int = 50
    gamma: float | None = None
    noise_aware: bool = False
    cg_iter: int = 5
    eta: float = 0.85
    ddim: bool = False
    z_weight: float | None = None
    rho: float = 1.0
    shared_noise: bool = False
    sigma_max: float = 10.0
    sigma_min: float = 0.01
    start_tv: float | None = None

    def __post_init__(self) -> None:
        karras_sigmas(self.steps, self.sigma_min, self.sigma_max)  # checks them
        require(0 <= self.eta <= 1, "DDS: eta", "0 <= eta <= 1", self.eta)
        require(self.cg_iter >= 1, "DDS: cg_iter", "at least 1", self.cg_iter)
        for name in ("gamma", "z_weight", "rho", "start_tv"):
            value = getattr(self, name)
            require(value is None or value > 0, f"DDS: {name}", "a positive number", value)

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` in the prior's units.

        Raises:
            ShapeError: slices are to be coupled, but ``x`` is one image.
        """
        A, Ahy, s = problem.backprojected(run.unit)
        if self.z_weight is not None and Ahy.ndim < 3:
            raise ShapeError(f"DDS: z_weight couples slices, but x is an image {Ahy.shape}")
        coupling = None if self.z_weight is None else SplitTV(self.z_weight, self.rho)
        items = 0 if coupling else Ahy.ndim - len(A.domain.shape)
        split = ddim_split if self.ddim else fixed_split
        shared = -3 if self.shared_noise else None

        def step(_: int, x_t: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, Tensor]:
            D = prior(x_t, sigma)
            if not self.noise_aware:
                eps = x_t.sub_(D).div_(sigma)
            pull = self._pull(prior, sigma, s)
            x0 = self._data_step(D, Ahy, A, pull, coupling, items)  # in the memory of D
            if self.noise_aware:
                eps = x_t.sub_(x0).div_(sigma)
            c_eps, c_noise = split(self.eta, sigma, sigma_next)
            x_t = eps.mul_(c_eps).add_(x0)
            if c_noise:
                x_t.add_(run.noise(x_t, shared_axis=shared), alpha=c_noise)
            return x_t, x0

        levels = karras_sigmas(self.steps, self.sigma_min, self.sigma_max).tolist()
        x_t = levels[0] * run.noise(Ahy, shared_axis=shared)
        if self.start_tv is not None:
            axes = (-2, -1) if self.z_weight is None else (-3, -2, -1)
            x_t.add_(TV(self.start_tv, axes=axes)(problem).div_(run.unit))
        return descend(levels, x_t, step, run, coupling)  # the last level is 0, so this is x0

    def _pull(self, prior: Prior, sigma: float, noise: float) -> float:
        """Weight ``1 / gamma`` of ``||x - D||^2 / 2`` against ``||A x - y||^2 / 2``."""
        if not self.noise_aware:
            return 0.0 if self.gamma is None else 1 / self.gamma
        return noise**2 / (prior.error_variance(sigma) * (self.gamma or 1.0))

    def _data_step(self, D: Tensor, Ahy: Tensor, A: LinearOperator, pull: float,
                   coupling: SplitTV | None, items: int) -> Tensor:
        """``argmin ||A x - y||^2 / 2 + pull ||x - D||^2 / 2 (+ lambda ||D_z x||_1)``, from D."""

        def matvec(v: Tensor) -> Tensor:
            out = A.normal(v)
            return out.add_(v, alpha=pull) if pull else out

        b = Ahy.add(D, alpha=pull)
        if coupling is not None:
            return coupling.sweep(D, b, matvec, self.cg_iter)
        return cg(matvec, b, D, max_iter=self.cg_iter, batch_ndim=items, overwrite=True)
