"""Gaussians with a measured and an unmeasured coordinate, whose laws are known."""

import torch

from medinv.evaluation.laws import affine_law
from medinv.priors import GaussianPrior
from medinv.problem import Problem
from tests.solvers.matrix_operator import MatrixOperator, random_image

DOUBLE = torch.float64


def pair(p=1.0, s=0.5, y=1.0, a=1.0):
    """Variances p and p; the first coordinate measured, ``y = a x + s n``."""
    A = MatrixOperator(torch.tensor([[a, 0.0]], dtype=DOUBLE), (2,))
    A._norm = 1.0  # laws are stated with a as it is
    prior = GaussianPrior(torch.zeros(2, dtype=DOUBLE), p * torch.eye(2, dtype=DOUBLE))
    return Problem(torch.full((1,), y, dtype=DOUBLE), A, noise_std=s), prior


def correlated(n=16, m=8, s=0.1):
    """The reference's vector case: eigenvalues 4 ... 0.02, half as many measurements."""
    basis, _ = torch.linalg.qr(random_image((n, n), seed=3))
    variances = torch.logspace(0.602, -1.699, n, dtype=DOUBLE)
    prior = GaussianPrior(torch.zeros(n, dtype=DOUBLE), (basis * variances) @ basis.mT)
    A = MatrixOperator(random_image((m, n), seed=4) / n**0.5, (n,))
    A._norm = 1.0
    x = prior.sample(1, torch.Generator().manual_seed(5))[0]
    return Problem(A(x) + s * random_image((m,), seed=6), A, noise_std=s), prior


def law(solver, problem, prior, draws=3):
    """Mean and covariance."""
    exact = affine_law(solver, problem, prior, draws)
    return exact.mean, exact.covariance


def measured_and_null(solver, draws=3, **case):
    """``(mean / y, variance)`` of the measured coordinate, and the variance of the other."""
    mean, covariance = law(solver, *pair(**case), draws)
    return float(mean[0]), float(covariance[0, 0]), float(covariance[1, 1])


def recursion(step, levels, start):
    """``(mean, variance)`` of one coordinate: ``step(sigma, sigma_next)`` gives ``m, b, v`` of
    ``x' = m x + b + sqrt(v) n``."""
    mean, variance = start
    for sigma, sigma_next in zip(levels[:-1], levels[1:], strict=True):
        m, b, v = step(sigma, sigma_next)
        mean, variance = m * mean + b, m**2 * variance + v
    return mean, variance
