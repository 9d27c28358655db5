"""DiffusionMBIR: a 2D prior on the slices of a volume, total variation between them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medinv.errors import ShapeError
from medinv.guidance.guided import Need
from medinv.priors.base import Prior
from medinv.priors.schedule import geometric_sigmas, geometric_start
from medinv.problem import Problem
from medinv.samplers import Run, descend, langevin, reverse_diffusion
from medinv.solvers.base import require
from medinv.solvers.coupling import SplitTV
from medinv.solvers.diffusion import Diffusion


@dataclass(frozen=True)
class DiffusionMBIR(Diffusion):
    """DiffusionMBIR (Chung et al., CVPR 2023, arXiv:2211.10655), algorithms 1 and 2.

    Predictor-corrector sampling slice by slice; after each level the volume takes ADMM sweeps of

        min_x  ||A x - y||^2 / 2 + z_weight ||D_z x||_1

    from the noisy ``x_t``. With ``sharing`` (the fast variant, algorithm 2) the split and the dual
    variable pass from level to level, one sweep with one conjugate gradient step each; without
    it, every level starts them anew. The improved form, which acts on the denoised image and
    needs 20 to 100 levels, is `DDS` with ``gamma=None`` and ``z_weight``.

    Weights are in units of an operator with ``||A|| = 1`` and of the prior's intensity. The
    published ``lambda = 0.04, rho = 10`` (CT, 256 pixels) belong to a normal operator of norm
    about 400, so divided by it they are the defaults here. The published code returns the last
    noisy iterate, wraps the volume's last slice to its first, and takes the corrector's norms
    over the batch; here the result is denoised, ``periodic`` is a choice, and norms are of a
    slice.

    Args:
        steps: noise levels, N in the paper; the network is called ``2 steps - 1`` times.
        z_weight: lambda, weight of the total variation.
        rho: penalty of the ADMM split.
        sharing: keep split and dual variable from one level to the next.
        sweeps: ADMM sweeps per level.
        cg_iter: conjugate gradient steps per sweep.
        axes: axes of the total variation: along z, or ``(-3, -2, -1)``.
        periodic: whether the total variation wraps around.
        snr: signal-to-noise ratio of the Langevin corrector, r in the paper.
        sigma_max: highest noise level, in prior units; None for the published 378, or less where
            there are fewer than about 60 steps (`geometric_start`).
        sigma_min: lowest noise level.

    Example:
        >>> import torch
        >>> from medinv.operators import CartesianMRI
        >>> from medinv.priors import GaussianPrior
        >>> A = CartesianMRI(torch.ones(1, 4, 4) + 0j, torch.ones(4, 4))
        >>> prior = GaussianPrior(torch.zeros(4, 4) + 0j, torch.eye(16))
        >>> volume = torch.full((3, 4, 4), 2.0 + 0j)
        >>> rng = torch.Generator().manual_seed(0)
        >>> x = DiffusionMBIR(steps=10)(Problem(A(volume), A), prior, rng=rng)
        >>> torch.allclose(x, volume, atol=0.01)
        True
    """

    steps: int = 2000
    z_weight: float = 1e-4
    rho: float = 0.025
    sharing: bool = True
    sweeps: int = 1
    cg_iter: int = 1
    axes: tuple[int, ...] = (-3,)
    periodic: bool = False
    snr: float = 0.16
    sigma_max: float | None = None
    sigma_min: float = 0.01

    def __post_init__(self) -> None:
        self.levels()  # checks them
        for name in ("sweeps", "cg_iter"):
            value = getattr(self, name)
            require(value >= 1, f"DiffusionMBIR: {name}", "at least 1", value)
        for name in ("z_weight", "rho", "snr"):
            value = getattr(self, name)
            require(value > 0, f"DiffusionMBIR: {name}", "a positive number", value)
        distinct = len(set(self.axes)) == len(self.axes) > 0
        require(distinct and set(self.axes) <= {-3, -2, -1}, "DiffusionMBIR: axes",
                "different axes of -3, -2, -1", self.axes)

    @property
    def needs(self) -> frozenset[Need]:
        """A linear operator and a volume."""
        return frozenset({"linear", "volume"})

    def solve(self, problem: Problem, prior: Prior, run: Run) -> Tensor:
        """``x`` (..., z, y, x) in the prior's units.

        Raises:
            ShapeError: ``x`` is an image, not a volume.
        """
        A, Ahy, _ = problem.backprojected(run.unit)
        if Ahy.ndim < 3:
            raise ShapeError(f"DiffusionMBIR: expected a volume (..., z, y, x), but x is "
                             f"{tuple(Ahy.shape)}; use DDS for one image")
        shared = self._split()

        def step(i: int, x_t: Tensor, sigma: float, sigma_next: float) -> tuple[Tensor, None]:
            D = prior(x_t, sigma)
            run.report(i, D)
            x_t = reverse_diffusion(x_t, D, sigma, sigma_next, run.noise)
            if sigma_next:
                D = prior(x_t, sigma_next)
                x_t = langevin(x_t, D, sigma_next, self.snr, prior.ndim, run.noise)
            del D  # the sweeps take its memory
            tv = shared if self.sharing else self._split()
            for _ in range(self.sweeps):
                x_t = tv.sweep(x_t, Ahy.clone(), A.normal, self.cg_iter)
            return x_t, None

        levels = self.levels()
        return descend(levels, levels[0] * run.noise(Ahy), step, run, shared)

    def levels(self) -> list[float]:
        """Noise levels, from the highest to 0."""
        start = self.sigma_max
        if start is None:
            start = geometric_start(self.steps, self.sigma_min, 378.0)
        return geometric_sigmas(self.steps, self.sigma_min, start).tolist()

    def _split(self) -> SplitTV:
        return SplitTV(self.z_weight, self.rho, self.axes, periodic=self.periodic)
