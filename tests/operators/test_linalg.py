from __future__ import annotations

import math

import pytest
import torch

from medinv.operators import linalg

DTYPES = [torch.float64, torch.complex128]


def hermitian(n, dtype, rng, items=()):
    """Hermitian positive definite matrices with a condition number of about 10."""
    a = torch.randn(*items, n, n, dtype=dtype, generator=rng) / n**0.5
    return a.mH @ a + 0.5 * torch.eye(n, dtype=dtype)


def matvec(matrix):
    return lambda x: (matrix @ x.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cg_solves_a_dense_system(dtype, rng):
    matrix = hermitian(12, dtype, rng)
    b = torch.randn(12, dtype=dtype, generator=rng)
    x = linalg.cg(matvec(matrix), b, max_iter=50, tol=1e-12)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cg_ends_after_as_many_steps_as_unknowns(dtype, rng):
    matrix = hermitian(6, dtype, rng)
    b = torch.randn(6, dtype=dtype, generator=rng)
    x = linalg.cg(matvec(matrix), b, max_iter=6)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tol", [0.0, 1e-3])
def test_cg_items_do_not_influence_each_other(dtype, tol, rng):
    matrix = hermitian(8, dtype, rng, (2, 3))
    b = torch.randn(2, 3, 8, dtype=dtype, generator=rng) * 10.0 ** torch.arange(3)[:, None]
    together = linalg.cg(matvec(matrix), b, max_iter=5, tol=tol, batch_ndim=2)
    for i in range(2):
        for j in range(3):
            alone = linalg.cg(matvec(matrix[i, j]), b[i, j], max_iter=5, tol=tol)
            torch.testing.assert_close(together[i, j], alone, rtol=1e-9, atol=1e-9)


def test_cg_stops_each_item_at_the_tolerance(rng):
    matrix = torch.stack([torch.eye(20, dtype=torch.float64),
                          hermitian(20, torch.float64, rng) * 100])
    b = torch.randn(2, 20, dtype=torch.float64, generator=rng)
    calls = []

    def counted(x):
        calls.append(x)
        return matvec(matrix)(x)

    x = linalg.cg(counted, b, max_iter=100, tol=1e-3, batch_ndim=1)
    residual = (b - matvec(matrix)(x)).norm(dim=1) / b.norm(dim=1)
    assert (residual <= 1e-3).all()
    assert residual[1] > 1e-6  # it did not run on
    assert len(calls) < 20


def test_cg_starts_at_x0(rng):
    matrix = hermitian(8, torch.complex128, rng)
    solution = torch.randn(8, dtype=torch.complex128, generator=rng)
    b = matvec(matrix)(solution)
    torch.testing.assert_close(linalg.cg(matvec(matrix), b, solution, max_iter=0), solution)
    near = linalg.cg(matvec(matrix), b, solution + 0.1, max_iter=3)
    far = linalg.cg(matvec(matrix), b, max_iter=3)
    assert (near - solution).norm() < (far - solution).norm()


def test_cg_leaves_its_arguments_alone(rng):
    matrix = hermitian(8, torch.float64, rng)
    b, x0 = torch.randn(2, 8, dtype=torch.float64, generator=rng)
    before = b.clone(), x0.clone()
    x = linalg.cg(matvec(matrix), b, x0, max_iter=3)
    assert x.data_ptr() != x0.data_ptr()
    assert torch.equal(b, before[0])
    assert torch.equal(x0, before[1])


@pytest.mark.parametrize("x0", [None, torch.ones(2, 4)])
def test_cg_never_gives_nan_for_a_zero_right_hand_side(x0):
    b = torch.tensor([[0.0] * 4, [1.0] * 4])
    x = linalg.cg(lambda v: 2 * v, b, x0, max_iter=10, batch_ndim=1)
    torch.testing.assert_close(x, b / 2)


def test_cg_gives_a_finite_answer_for_a_zero_operator():
    x = linalg.cg(torch.zeros_like, torch.ones(3), max_iter=4)
    assert torch.equal(x, torch.zeros(3))


def test_cg_keeps_nan_to_its_item():
    b = torch.tensor([[math.nan, 1.0], [1.0, 1.0]])
    x = linalg.cg(lambda v: 2 * v, b, max_iter=5, tol=1e-6, batch_ndim=1)
    assert torch.equal(x[1], torch.tensor([0.5, 0.5]))


def test_cg_reports_each_step(rng):
    matrix = hermitian(8, torch.float64, rng)
    b = torch.randn(8, dtype=torch.float64, generator=rng)
    seen = []
    x = linalg.cg(matvec(matrix), b, max_iter=4, on_step=lambda i, v: seen.append((i, v)))
    assert [i for i, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[-1][1], x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_spectral_norm_is_the_largest_singular_value(dtype, rng):
    a = torch.randn(9, 6, dtype=dtype, generator=rng)
    norm = linalg.spectral_norm(matvec(a.mH @ a), (6,), dtype, max_iter=500, tol=1e-10)
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(a, 2)), rel=1e-6)


def test_spectral_norm_of_zero_is_zero():
    assert linalg.spectral_norm(torch.zeros_like, (3,), torch.float32) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_standard_normal_has_unit_variance_per_real_component(dtype, rng):
    noise = linalg.standard_normal(torch.empty(100_000, dtype=dtype), rng)
    parts = torch.view_as_real(noise) if noise.is_complex() else noise
    # The standard error of a variance over n samples is sqrt(2 / n) = 0.0032 to 0.0045.
    assert float(parts.var()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gaussian_draw_has_the_posterior_mean_and_covariance(dtype, rng):
    n_draws, sigma, rho = 40_000, 0.5, 0.8
    a = torch.randn(3, 4, dtype=dtype, generator=rng)  # one direction is not measured
    y = torch.randn(3, dtype=dtype, generator=rng)
    prior_mean = torch.randn(4, dtype=dtype, generator=rng)
    draws = linalg.gaussian_draw(matvec(a.mH @ a), matvec(a.mH), y.expand(n_draws, 3),
                                 prior_mean.expand(n_draws, 4), sigma=sigma, rho=rho, rng=rng,
                                 batch_ndim=1)
    eye = torch.eye(4, dtype=dtype)
    covariance = torch.linalg.inv(a.mH @ a / sigma**2 + eye / rho**2)
    mean = covariance @ (a.mH @ y / sigma**2 + prior_mean / rho**2)
    per_component = 2 if dtype.is_complex else 1
    # Five standard errors, sqrt(per_component rho^2 / n_draws) each.
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.03)
    centred = draws - draws.mean(0)
    empirical = centred.T @ centred.conj() / n_draws / per_component
    torch.testing.assert_close(empirical, covariance, rtol=0, atol=0.03)


def test_gaussian_draw_repeats_with_the_seed():
    def draw():
        rng = torch.Generator().manual_seed(7)
        return linalg.gaussian_draw(lambda x: x, lambda y: y, torch.ones(5), torch.zeros(5),
                                    sigma=0.1, rho=1.0, rng=rng)

    assert torch.equal(draw(), draw())


@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_threshold_is_the_proximal_map_of_the_magnitude(dtype, rng):
    x = torch.randn(50, dtype=dtype, generator=rng)
    shrunk = linalg.soft_threshold(x, 0.7)
    # Optimality: x - p is 0.7 times the sign of p, or at most 0.7 long where p = 0.
    rest = x - shrunk
    moved = shrunk.abs() > 0
    torch.testing.assert_close(rest[moved], 0.7 * torch.sgn(shrunk[moved]))
    assert (rest[~moved].abs() <= 0.7).all()
    assert moved.any()
    assert (~moved).any()


def test_soft_threshold_of_zero_is_zero():
    assert torch.equal(linalg.soft_threshold(torch.zeros(2), 0.0), torch.zeros(2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_finite_difference_adjoint(dtype, periodic, axis, n, rng):
    shape = [4, 4, 4]
    shape[axis] = n
    x, v = torch.randn(2, *shape, dtype=dtype, generator=rng)
    forward = linalg.finite_difference(x, axis, periodic)
    adjoint = linalg.finite_difference_adjoint(v, axis, periodic)
    assert forward.shape == adjoint.shape == x.shape
    torch.testing.assert_close(torch.vdot(forward.flatten(), v.flatten()),
                               torch.vdot(x.flatten(), adjoint.flatten()))


def test_finite_difference_of_a_ramp():
    ramp = torch.arange(4.0).expand(2, 4)
    assert linalg.finite_difference(ramp, -1)[0].tolist() == [1, 1, 1, 0]
    assert linalg.finite_difference(ramp, -1, periodic=True)[0].tolist() == [1, 1, 1, -3]
    assert torch.equal(linalg.finite_difference(ramp, 0), torch.zeros(2, 4))


@pytest.mark.parametrize("started", [False, True])
def test_cg_in_the_memory_of_its_arguments_gives_the_same(rng, started):
    root = torch.randn(6, 6, dtype=torch.complex128, generator=rng)
    matrix = root @ root.mH + torch.eye(6)
    b, x0 = torch.randn(2, 6, dtype=torch.complex128, generator=rng)
    start = x0.clone() if started else None
    expected = linalg.cg(lambda v: matrix @ v, b, start, max_iter=4)
    got = linalg.cg(lambda v: matrix @ v, b.clone(), start, max_iter=4, overwrite=True)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_passes_through_every_step(dtype, rng):
    """Of a converged solve from a start: x = M^-1 b, whose gradient the start does not have."""
    matrix = hermitian(6, dtype, rng, items=(2,))
    b, x0, v = torch.randn(3, 2, 6, dtype=dtype, generator=rng)
    b, x0 = b.requires_grad_(), x0.requires_grad_()
    x = linalg.cg(matvec(matrix), b, x0, max_iter=20, batch_ndim=1)
    to_b, to_x0 = torch.autograd.grad(x, (b, x0), v)
    torch.testing.assert_close(to_b, torch.linalg.solve(matrix, v), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(to_x0, torch.zeros_like(v), rtol=0, atol=1e-6)


def test_the_gradient_of_a_few_steps_is_that_of_the_steps(rng):
    matrix = hermitian(6, torch.float64, rng, items=(2,))
    b = torch.randn(2, 6, dtype=torch.float64, generator=rng).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda b: linalg.cg(matvec(matrix), b, 0.3 * b, max_iter=2, batch_ndim=1), b)


def test_steps_below_rounding_are_not_taken(rng):
    """A projection is solved in one step; what follows would divide rounding by rounding."""
    mask = torch.arange(64) % 2 == 0
    mask[28:36] = True

    def project(v):
        spectrum = torch.fft.fft(v, norm="ortho")
        return 1.0000001 * torch.fft.ifft(spectrum * mask, norm="ortho")

    truth, x0 = torch.randn(2, 64, 64, dtype=torch.complex64, generator=rng)
    b, start = project(truth), x0.clone().requires_grad_()
    solved = b + x0 - project(x0)
    for x in (linalg.cg(project, b, x0, max_iter=5), linalg.cg(project, b, start, max_iter=5)):
        torch.testing.assert_close(x.detach(), solved, rtol=0, atol=1e-4)
    gradient, = torch.autograd.grad(x.abs().square().sum(), start)
    torch.testing.assert_close(gradient, 2 * (x0 - project(x0)), rtol=0, atol=1e-2)
