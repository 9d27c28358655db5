"""The truth table: what each method returns on Gaussians, beside the posterior in closed form.

Two cases. A pair of independent coordinates of variance 1, one measured as ``y = x + s n`` with
``s = 0.5`` and ``y = 1``, so that the posterior is ``N(0.8, 0.2)`` there and the prior elsewhere;
and sixteen correlated ones (eigenvalues 4 to 0.02), half as many measured with ``s = 0.1``.
Methods that are affine in their random numbers are propagated exactly
(`medinv.evaluation.laws`), others are sampled. That each follows its own known law is tested; this
tells how far that law is from the posterior.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from medinv.evaluation.laws import Law, affine_law
from medinv.guidance import MMPS, Jensen, Peng, PiGDM
from medinv.operators.base import LinearOperator, Space
from medinv.priors import GaussianPrior, Prior
from medinv.problem import Problem
from medinv.solvers import (
    DDIM,
    DDNM,
    DDRM,
    DDS,
    DMAP,
    DPPS,
    DPS,
    DSG,
    MCG,
    MPGD,
    SNIPS,
    DiffPIR,
    Diffusion,
    FlowChef,
    FlowDPS,
    Heun,
    PaDIS,
    PnPDM,
    ScoreALD,
    ScoreSDE,
)

_DRAWS = 2000
_NORMS = (DMAP, DPPS, DPS, DSG, MCG, PaDIS)
"""Methods that divide by norms, so that they are not affine."""

METHODS: dict[str, Diffusion] = {
    "DDIM, MMPS": DDIM(MMPS(cg_iter=16, tol=1e-9)),
    "DDIM, MMPS, 1 step of CG": DDIM(MMPS(cg_iter=1)),
    "DDIM, PiGDM": DDIM(PiGDM()),
    "DDIM, Peng I": DDIM(Peng(jacobian=True)),
    "DDIM, Peng II": DDIM(Peng()),
    "DDIM, Jensen": DDIM(Jensen(), steps=400),
    "Heun, MMPS": Heun(MMPS(cg_iter=16, tol=1e-9)),
    "DDRM": DDRM(),
    "DDNM": DDNM(),
    "DDNM+": DDNM(plus=True),
    "DDS": DDS(gamma=1.0, cg_iter=20),
    "DDS, noise_aware": DDS(noise_aware=True, cg_iter=20, ddim=True, eta=1.0, steps=100),
    "DiffPIR": DiffPIR(cg_iter=20),
    "DMAP": DMAP(),
    "DPPS": DPPS(steps=200, most=10),
    "DPS": DPS(steps=200),
    "DSG": DSG(),
    "FlowChef": FlowChef(),
    "FlowDPS": FlowDPS(cg_iter=20),
    "MCG": MCG(steps=200, w=0.05),
    "MPGD": MPGD(squared=True, c=0.5),
    "PaDIS": PaDIS(steps=50),
    "PnPDM": PnPDM(steps=40),
    "ScoreALD": ScoreALD(),
    "ScoreSDE": ScoreSDE(steps=200, correctors=0),
    "SNIPS": SNIPS(steps=200, step=0.3),
}


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        needs: what it declares.
        returns: what it declares.
        calls: of the denoiser.
        mean: of the measured coordinate; the posterior's is 0.8.
        measured: its variance over the posterior's.
        null: variance of the coordinate that is not measured, over the prior's.
        correlated: relative error of the covariance in the correlated case.
    """

    needs: str
    returns: str
    calls: int
    mean: float
    measured: float
    null: float
    correlated: float


def rows(names: list[str] | None = None) -> Iterator[tuple[str, Row]]:
    """The table, row by row; all methods if ``names`` is None."""
    for name in names or METHODS:
        solver = METHODS[name]
        problem, prior = pair()
        counting = _Counting(prior)
        law = law_of(solver, problem, counting)
        needs = ", ".join(sorted(solver.needs)) or "nothing"
        other, its_prior = correlated()
        truth = its_prior.posterior(other.y, other.linear, 0.1)[1]
        got = law_of(solver, other, its_prior).covariance
        error = torch.linalg.matrix_norm(got - truth) / torch.linalg.matrix_norm(truth)
        yield name, Row(needs, solver.returns, counting.calls, float(law.mean[0]),
                        float(law.covariance[0, 0]) / 0.2, float(law.covariance[1, 1]),
                        float(error))


def law_of(solver: Diffusion, problem: Problem, prior: Prior) -> Law:
    """Exact, or of 2,000 draws."""
    if not isinstance(solver, _NORMS):
        inner = solver.steps if isinstance(solver, PnPDM) else 1
        if isinstance(solver, SNIPS | ScoreALD):
            inner = solver.inner_steps
        return affine_law(solver, problem, prior, draws=2 + inner)
    batch = Problem(problem.y.expand(_DRAWS, *problem.y.shape), problem.A, problem.noise)
    x = solver(batch, prior, rng=Generator().manual_seed(0)).flatten(1)
    return Law(x.mean(0), torch.cov(x.mT))


class _Matrix(LinearOperator):
    """A dense matrix that is not scaled: laws are stated with its singular values."""

    def __init__(self, matrix: Tensor) -> None:
        m, n = matrix.shape
        super().__init__(Space((n,), matrix.dtype), Space((m,), matrix.dtype))
        self.register_buffer("matrix", matrix)
        self.matrix: Tensor
        self._norm = 1.0

    def _forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix.mT

    def _adjoint(self, y: Tensor) -> Tensor:
        return y @ self.matrix


def pair() -> tuple[Problem, GaussianPrior]:
    """Two independent coordinates of variance 1, the first measured."""
    A = _Matrix(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    prior = GaussianPrior(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    return Problem(torch.ones(1, dtype=torch.float64), A, noise_std=0.5), prior


def correlated(n: int = 16) -> tuple[Problem, GaussianPrior]:
    """Sixteen correlated coordinates, eight measurements."""
    rng = Generator().manual_seed(0)
    draw = torch.randn(3 * n, n, dtype=torch.float64, generator=rng)
    basis, _ = torch.linalg.qr(draw[:n])
    variances = torch.logspace(0.602, -1.699, n, dtype=torch.float64)
    prior = GaussianPrior(torch.zeros(n, dtype=torch.float64), (basis * variances) @ basis.mT)
    matrix = draw[n : n + n // 2]
    A = _Matrix(matrix / torch.linalg.matrix_norm(matrix, 2))
    y = A(prior.sample(1, rng)[0]) + 0.1 * draw[2 * n, : n // 2]
    return Problem(y, A, noise_std=0.1), prior


class _Counting(Prior):
    """A prior that counts how often it is called."""

    def __init__(self, prior: GaussianPrior) -> None:
        super().__init__()
        self.prior, self.calls = prior, 0
        self.dtype, self.ndim, self.scale = prior.dtype, prior.ndim, prior.scale

    def error_variance(self, sigma: float) -> float:
        """That of the prior."""
        return self.prior.error_variance(sigma)

    def error_diagonal(self, sigma: float) -> Tensor:
        """That of the prior."""
        return self.prior.error_diagonal(sigma)

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The prior's."""
        self.calls += 1
        denoised: Tensor = self.prior(x, sigma)
        return denoised
