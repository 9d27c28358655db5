"""DDS against dense algebra, its own laws on Gaussian priors, and the slice-by-slice result."""

import pytest
import torch

from medinv.errors import CheckpointError, InputError, ShapeError
from medinv.operators.base import LinearOperator, Space
from medinv.operators.linalg import finite_difference
from medinv.priors import GaussianPrior, IntensityScale, karras_sigmas
from medinv.problem import Problem
from medinv.solvers import DDS, TV


class Matrix(LinearOperator):
    """A dense matrix on flattened items."""

    def __init__(self, matrix, shape):
        super().__init__(Space(shape, matrix.dtype), Space((len(matrix),), matrix.dtype))
        self.register_buffer("matrix", matrix)

    def _forward(self, x):
        return x.flatten(-len(self.domain.shape)) @ self.matrix.T

    def _adjoint(self, y):
        return (y @ self.matrix.conj()).reshape(*y.shape[:-1], *self.domain.shape)


def problem(dtype, rows=5, shape=(2, 4), seed=0):
    """A wide random operator of norm 1, an image and its noiseless measurement."""
    rng = torch.Generator().manual_seed(seed)
    n = shape[0] * shape[1]
    matrix = torch.randn(rows, n, dtype=dtype, generator=rng)
    A = Matrix(matrix / torch.linalg.matrix_norm(matrix, 2), shape)
    x = torch.randn(shape, dtype=dtype, generator=rng)
    return A, x, A(x)


def white(shape, dtype, variance=1.0):
    n = shape[0] * shape[1]
    return GaussianPrior(torch.zeros(shape, dtype=dtype), variance * torch.eye(n, dtype=dtype))


def one_data_step(solver, A, y, D):
    """The estimate of a single-level run whose denoiser returns ``D``."""

    class Constant(GaussianPrior):
        def forward(self, x, sigma):
            return D.expand(x.shape).clone()

    n = D.numel()
    prior = Constant(torch.zeros_like(D), torch.eye(n, dtype=D.dtype))
    return solver(Problem(y, A), prior)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_noisy_step_is_the_dense_solution(dtype):
    """(I + gamma A^H A)^-1 (D + gamma A^H y); the published complex code has another side."""
    A, x, y = problem(dtype)
    D = torch.randn(x.shape, dtype=dtype, generator=torch.Generator().manual_seed(3))
    got = one_data_step(DDS(steps=1, gamma=5.0, cg_iter=20), A, y, D)
    gamma = 5 / A.norm() ** 2  # weights are in units of ||A|| = 1
    normal = torch.eye(8, dtype=dtype) + gamma * A.matrix.mH @ A.matrix
    expected = torch.linalg.solve(normal, D.flatten() + gamma * A.adjoint(y).flatten())
    torch.testing.assert_close(got.flatten(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_noiseless_step_stays_in_the_krylov_space_and_keeps_the_null_space(dtype):
    A, x, y = problem(dtype)
    D = torch.randn(x.shape, dtype=dtype, generator=torch.Generator().manual_seed(3))
    got = one_data_step(DDS(steps=1, gamma=None, cg_iter=3), A, y, D)
    g = A.adjoint(y - A(D)).flatten()
    H = A.matrix.mH @ A.matrix
    krylov = torch.stack([g, H @ g, H @ H @ g], dim=1)
    krylov = krylov / torch.linalg.vector_norm(krylov, dim=0)
    step = (got - D).flatten()
    residual = step - krylov @ torch.linalg.lstsq(krylov, step[:, None]).solution[:, 0]
    assert torch.linalg.vector_norm(residual) < 1e-8
    null = torch.eye(8, dtype=dtype) - torch.linalg.pinv(A.matrix) @ A.matrix
    assert torch.linalg.vector_norm(null @ step) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_first_level_is_the_start_with_the_noise_of_that_level(dtype):
    A, _, y = problem(dtype)
    seen = []

    class Noting(GaussianPrior):
        def forward(self, x, sigma):
            seen.append(x.clone())
            return super().forward(x, sigma)

    prior = Noting(torch.zeros(2, 4, dtype=dtype), torch.eye(8, dtype=dtype))
    prior.scale = IntensityScale(value=2.0)
    for start in (None, 0.01):
        DDS(steps=1, sigma_max=0.1, start_tv=start)(
            Problem(y, A), prior, rng=torch.Generator().manual_seed(0))
    from_zero, from_image = seen
    torch.testing.assert_close(from_image - from_zero, TV(0.01)(Problem(y, A)) / 2)
    assert float((from_image - from_zero).norm()) > 0.1


def test_noiseless_result_satisfies_the_measurement():
    A, _, y = problem(torch.complex128)
    prior = GaussianPrior(torch.ones(2, 4, dtype=torch.complex128),
                          torch.diag(torch.linspace(0.2, 2, 8)).to(torch.complex128))
    x = DDS(steps=20, gamma=None, cg_iter=12)(Problem(y, A), prior,
                                              rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(A(x), y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5, 0.85, 1.0])
def test_unmeasured_directions_follow_the_fixed_share_law(eta):
    """Noise of a fixed share under-disperses: the variance of each step's affine law, exactly."""
    A = Matrix(torch.zeros(1, 4, dtype=torch.float64), (2, 2))
    A._norm = 1.0  # nothing is measured, so ||A|| = 0 has no inverse
    solver = DDS(steps=40, eta=eta, sigma_max=20.0, sigma_min=1e-3)
    y = torch.zeros(20_000, 1, dtype=torch.float64)
    x = solver(Problem(y, A), white((2, 2), torch.float64), rng=torch.Generator().manual_seed(0))
    levels = karras_sigmas(40, 1e-3, 20.0).tolist()
    variance = levels[0] ** 2
    for sigma, sigma_next in zip(levels[:-2], levels[1:-1], strict=True):
        gain = (1 + (1 - eta**2) ** 0.5 * sigma * sigma_next) / (1 + sigma**2)
        variance = gain**2 * variance + (eta * sigma_next) ** 2
    variance *= (1 / (1 + levels[-2] ** 2)) ** 2
    assert x.var().item() == pytest.approx(variance, rel=0.02)  # 80,000 draws: 0.5 %
    assert variance == pytest.approx((1 + (1 - eta**2) ** 0.5) / 2, abs=0.12)  # its limit


def test_the_noise_aware_form_samples_the_posterior_of_a_white_gaussian():
    """With gamma = v / s^2, eps recomputed and ancestral steps, the law is exact in the limit."""
    A, x, _ = problem(torch.float64)
    y = A(x) + 0.2
    prior = white((2, 4), torch.float64, variance=0.5)
    mean, covariance = prior.posterior(y, A, 0.2)
    # 5 measurements: the data step has 6 distinct eigenvalues, so 6 iterations solve it
    solver = DDS(steps=200, noise_aware=True, cg_iter=6, eta=1.0, ddim=True, sigma_min=1e-3)
    draws = solver(Problem(y.expand(2000, -1), A, noise_std=0.2), prior,
                   rng=torch.Generator().manual_seed(0))
    # variances up to 0.36, 2000 draws: standard error 0.013 of the mean, 0.011 of the covariance,
    # plus a bias of O(1/steps), about 0.02
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(torch.cov(draws.flatten(1).T), covariance, rtol=0, atol=0.05)


def test_slices_of_a_stack_equal_slices_alone():
    A, x, _ = problem(torch.float64)
    stack = torch.stack([x, 2 * x - 1, x.flip(0)])
    prior = GaussianPrior(torch.zeros(2, 4, dtype=torch.float64),
                          torch.diag(torch.linspace(0.2, 2, 8, dtype=torch.float64)))
    solver = DDS(steps=6, gamma=None, cg_iter=2, shared_noise=True)
    together = solver(Problem(A(stack), A), prior, rng=torch.Generator().manual_seed(1))
    for slice_, expected in zip(together, stack, strict=True):
        alone = solver(Problem(A(expected[None]), A), prior,
                       rng=torch.Generator().manual_seed(1))[0]
        torch.testing.assert_close(slice_, alone)


def test_the_result_follows_the_units_of_the_measurement():
    """Scaling A leaves x as it is: weights are in units of ||A|| = 1."""
    A, _, y = problem(torch.float64)
    prior = white((2, 4), torch.float64)
    solver = DDS(steps=8, gamma=3.0)
    x = solver(Problem(y, A), prior, rng=torch.Generator().manual_seed(0))
    again = solver(Problem(7 * y, 7 * A), prior, rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again, x, rtol=1e-5, atol=1e-6)  # the norms are power iterations


def test_a_volume_constant_along_z_is_not_touched_by_total_variation():
    A, x, _ = problem(torch.float64)
    y = A(x.expand(4, 2, 4))
    prior = white((2, 4), torch.float64)
    plain = DDS(steps=8, gamma=None, shared_noise=True)
    coupled = DDS(steps=8, gamma=None, shared_noise=True, z_weight=0.1)
    got, expected = (
        solver(Problem(y, A), prior, rng=torch.Generator().manual_seed(0)) for solver in (coupled,
                                                                                          plain)
    )
    torch.testing.assert_close(got, expected)


def test_coupling_draws_neighbours_together():
    A, x, _ = problem(torch.float64, rows=3)
    y = A(x.expand(6, 2, 4))
    prior = white((2, 4), torch.float64)
    rough, smooth = (
        DDS(steps=20, gamma=None, z_weight=w)(Problem(y, A), prior,
                                              rng=torch.Generator().manual_seed(0))
        for w in (1e-6, 0.3)
    )
    rough, smooth = (finite_difference(x, -3).abs().sum() for x in (rough, smooth))
    assert smooth < 0.5 * rough


def test_same_seed_same_result_and_other_seed_another():
    A, _, y = problem(torch.complex128)
    prior = white((2, 4), torch.complex128)
    runs = [DDS(steps=5)(Problem(y, A), prior,
                         rng=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])


def test_every_step_is_reported():
    A, _, y = problem(torch.float64)
    seen = []
    x = DDS(steps=4)(Problem(y, A), white((2, 4), torch.float64),
                     on_step=lambda i, x0: seen.append((i, x0)))
    assert [i for i, _ in seen] == [0, 1, 2, 3]
    torch.testing.assert_close(seen[-1][1], x)


def test_wrong_arguments():
    A, _, y = problem(torch.complex128)
    with pytest.raises(CheckpointError, match="real images"):
        DDS()(Problem(y, A), white((2, 4), torch.float64))
    with pytest.raises(InputError, match="0 <= eta <= 1"):
        DDS(eta=1.2)
    for field in ("gamma", "z_weight", "rho"):
        with pytest.raises(InputError, match=f"{field}: expected a positive number"):
            DDS(**{field: 0.0})
    with pytest.raises(InputError, match="sigma_min = 2"):
        DDS(sigma_min=2.0, sigma_max=1.0)
    with pytest.raises(ShapeError, match="couples slices"):
        DDS(z_weight=0.1)(Problem(y, A), white((2, 4), torch.complex128))
    with pytest.raises(InputError, match="NaN"):
        DDS()(Problem(y * float("nan"), A), white((2, 4), torch.complex128))
