"""Guided denoisers on Gaussians: exact where theory says so, else their own known laws."""

import math

import pytest
import torch

from medinv.errors import InputError
from medinv.guidance import MMPS, Guided, Jensen, Peng, PiGDM
from medinv.guidance.peng import variance_of_learned
from medinv.operators import Magnitude
from medinv.priors import GaussianPrior, SlicePrior
from medinv.problem import Problem
from medinv.solvers.ddim import DDIM
from medinv.solvers.heun import Heun
from tests.solvers.laws import correlated, law, measured_and_null, pair
from tests.solvers.matrix_operator import random_image, random_operator

DOUBLE = torch.float64


def relative(a, b):
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def dense(dtype, variances=None):
    factor = random_image((6, 6), dtype)
    covariance = factor @ factor.mH if variances is None else torch.diag(variances).to(dtype)
    prior = GaussianPrior(random_image((2, 3), dtype), covariance)
    A = random_operator(4, (2, 3), dtype)
    return prior, Problem(A(random_image((5, 2, 3), dtype, seed=7)), A, noise_std=0.3), covariance


def joint_mean(prior, problem, covariance, x, sigma):
    """``E[x0 | x, y]``, dense."""
    n, A = 6, problem.A.matrix
    precision = (torch.linalg.inv(covariance) + torch.eye(n) / sigma**2
                 + A.mH @ A / problem.noise_std**2)
    b = (torch.linalg.inv(covariance) @ prior.mean.flatten() + x.flatten(1) / sigma**2
         + problem.y @ A.conj() / problem.noise_std**2)
    return torch.linalg.solve(precision, b.mT).mT.reshape(x.shape)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128])
def test_moment_matching_is_the_posterior_s_denoiser(dtype):
    prior, problem, covariance = dense(dtype)
    x = random_image((5, 2, 3), dtype, seed=9)
    got = Guided(prior, problem, MMPS(cg_iter=20, tol=1e-12))(x, 0.7)
    torch.testing.assert_close(got, joint_mean(prior, problem, covariance, x, 0.7))


@pytest.mark.parametrize("rule", [
    PiGDM(data_variance=2.0), Peng(), Peng(jacobian=True), Peng(diagonal=True, jacobian=True)])
def test_with_equal_variances_every_covariance_is_right(rule):
    prior, problem, covariance = dense(DOUBLE, torch.full((6,), 2.0))
    x = random_image((5, 2, 3), seed=9)
    torch.testing.assert_close(Guided(prior, problem, rule)(x, 0.7),
                               joint_mean(prior, problem, covariance, x, 0.7))


@pytest.mark.parametrize("jacobian", [False, True])
def test_a_diagonal_covariance_is_right_for_independent_elements(jacobian):
    prior, problem, covariance = dense(DOUBLE, torch.linspace(0.2, 2, 6))
    x = random_image((5, 2, 3), seed=9)
    expected = joint_mean(prior, problem, covariance, x, 0.7)
    got = Guided(prior, problem, Peng(jacobian=jacobian, diagonal=True))(x, 0.7)
    torch.testing.assert_close(got, expected)
    assert relative(Guided(prior, problem, Peng(jacobian=jacobian))(x, 0.7), expected) > 0.01


def test_more_solver_steps_come_closer():
    prior, problem, covariance = dense(DOUBLE)
    x = random_image((5, 2, 3), seed=9)
    expected = joint_mean(prior, problem, covariance, x, 0.7)
    errors = [relative(Guided(prior, problem, MMPS(cg_iter=k, tol=0))(x, 0.7), expected)
              for k in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.01
    assert errors[-1] < 1e-6  # four measurements: four eigenvalues


def test_a_nonlinear_operator_is_linearised():
    """``r / s^2`` through denoiser and operator is the gradient of the log-likelihood."""
    prior, problem, _ = dense(torch.complex128)
    A = Magnitude(problem.A)
    problem = Problem(problem.y.abs(), A, noise_std=0.3)
    x, v = random_image((5, 2, 3), torch.complex128), random_image((5, 2, 3), torch.complex128, 2)
    correction = Guided(prior, problem, Jensen())(x, 0.7) - prior(x, 0.7)

    def log_likelihood(z):
        return -(A(prior(z, 0.7)) - problem.y).square().sum(-1) / (2 * 0.3**2)

    h = 1e-6
    slope = (log_likelihood(x + h * v) - log_likelihood(x - h * v)) / (2 * h)
    along = (correction.conj() * v).sum((-2, -1)).real / 0.49
    torch.testing.assert_close(along, slope, rtol=1e-6, atol=1e-8)


def test_slices_of_a_volume_equal_slices_alone():
    prior, problem, _ = dense(DOUBLE)
    x = random_image((5, 2, 3), seed=9)
    expected = Guided(prior, problem, MMPS(cg_iter=4))(x, 0.7)
    got = Guided(SlicePrior(prior, chunk=2), problem, MMPS(cg_iter=4))(x, 0.7)
    torch.testing.assert_close(got, expected)
    some = Guided(prior, problem, MMPS(cg_iter=4)).of_slices(torch.tensor([1, 3]))
    torch.testing.assert_close(some(x[[1, 3]], 0.7), expected[[1, 3]])


# --- laws of samplers ------------------------------------------------------------------------


def test_moment_matching_samples_the_posterior_of_a_correlated_gaussian():
    problem, prior = correlated()
    solver = DDIM(MMPS(cg_iter=16, tol=1e-10), steps=100, sigma_min=1e-3)
    mean, covariance = law(solver, problem, prior)
    exact_mean, exact_covariance = prior.posterior(problem.y, problem.A, 0.1)
    assert relative(mean, exact_mean) < 1e-3
    assert relative(covariance, exact_covariance) < 0.13  # O(1 / steps): 11 % at 100


def test_other_covariances_are_biased_in_their_order():
    """Relative errors of the covariance: the nearer the family, the smaller."""
    problem, prior = correlated()
    exact = prior.posterior(problem.y, problem.A, 0.1)[1]
    errors = [relative(law(DDIM(rule, steps=150, sigma_min=1e-3), problem, prior)[1], exact)
              for rule in (MMPS(cg_iter=16, tol=1e-10), Peng(jacobian=True), PiGDM(), Peng())]
    assert errors == sorted(errors)
    assert errors[0] < 0.7 * errors[1]


def test_jensen_s_law_is_known():
    """R = 4: the mean has too little shrinkage and the variance is too small (L3)."""
    steps = {"steps": 800, "sigma_max": 100.0, "sigma_min": 1e-3}
    mean, variance, null = measured_and_null(DDIM(Jensen(), **steps), s=0.5)
    assert mean == pytest.approx(1 - math.exp(-4), rel=2e-3)
    assert variance == pytest.approx(0.125 * (1 - math.exp(-8)), rel=0.025)  # 2 % at 800 steps
    assert null == pytest.approx(1, rel=0.02)
    mean, variance, _ = measured_and_null(DDIM(Jensen(), eta=0.0, **steps), s=0.5)
    assert mean == pytest.approx(1.280, rel=0.01)  # Dawson's integral; 0.4 % start bias
    assert variance == pytest.approx(math.exp(-4), rel=0.03)


def test_jensen_diverges_where_its_steps_are_too_long():
    """R = 100: (1 - sigma'^2 / sigma^2) R is 21 at 100 steps, 5.6 at 400."""
    _, variance, _ = measured_and_null(DDIM(Jensen(), steps=100, sigma_min=1e-3), s=0.1)
    assert variance > 1e4
    mean, variance, _ = measured_and_null(DDIM(Jensen(), steps=400, sigma_min=1e-3), s=0.1)
    assert mean == pytest.approx(1, abs=0.01)
    assert variance == pytest.approx(0.005, rel=0.06)


@pytest.mark.parametrize(("p", "a", "s", "mean", "variance"), [
    (1.0, 1.0, 0.5, 0.8, 0.2), (0.25, 1.0, 0.5, 0.435, 0.131), (4.0, 0.5, 1.0, 1.145, 1.87)])
def test_pseudoinverse_guidance_is_exact_for_unit_variance_only(p, a, s, mean, variance):
    got = measured_and_null(DDIM(PiGDM(), steps=400, sigma_min=1e-3), p=p, a=a, s=s)
    assert got[0] == pytest.approx(mean, rel=0.01)
    assert got[1] == pytest.approx(variance, rel=0.04)  # 3 % at 400 steps
    assert got[2] == pytest.approx(p, rel=0.04)


def test_heun_converges_with_its_second_order():
    def error(steps):
        mean, covariance = law(Heun(MMPS(cg_iter=2), steps=steps, sigma_max=100), *pair())
        return abs(float(covariance[0, 0]) - 0.2), float(mean[0])

    (coarse, _), (fine, mean) = error(20), error(40)
    assert fine < coarse / 3
    assert mean == pytest.approx(0.8, abs=0.01)


def test_a_learned_variance_becomes_the_error_of_the_denoiser():
    sigma, sigma_next, error = 2.0, 1.0, 0.8
    kept = 1 - sigma_next**2 / sigma**2
    learned = torch.tensor(sigma_next**2 * kept + kept**2 * error)
    assert float(variance_of_learned(learned, sigma, sigma_next)) == pytest.approx(error)


def test_wrong_arguments():
    prior, problem, _ = dense(DOUBLE)
    x = random_image((5, 2, 3))
    with pytest.raises(InputError, match="expected one noise level"):
        Guided(prior, problem, MMPS())(x, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    with pytest.raises(InputError, match="expected the noise of y, got 0"):
        Guided(prior, Problem(problem.y, problem.A), Jensen())(x, 0.7)
    with pytest.raises(InputError, match="DDIM: expected the noise of y"):
        DDIM(Jensen())(Problem(problem.y, problem.A), prior)
    for make in (lambda: PiGDM(data_variance=0.0), lambda: MMPS(cg_iter=0),
                 lambda: Peng(cg_iter=0), lambda: DDIM(eta=1.2), lambda: Heun(steps=0)):
        with pytest.raises(InputError):
            make()
