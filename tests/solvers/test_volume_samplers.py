"""DiffusionMBIR and TPDM against their own laws on Gaussian priors, and against dense algebra."""

import pytest
import torch

from medinv.errors import CheckpointError, InputError, ShapeError
from medinv.guidance import denoise_with_residual_gradient
from medinv.priors import GaussianPrior, ProductPrior, SlicePrior
from medinv.problem import Problem
from medinv.solvers import TPDM, DiffusionMBIR
from tests.solvers.matrix_operator import MatrixOperator, random_image, random_operator

DOUBLE = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def white(shape, variance=1.0, dtype=DOUBLE):
    n = shape[0] * shape[1]
    return GaussianPrior(torch.zeros(shape, dtype=dtype), variance * torch.eye(n, dtype=dtype))


def correlated(shape, seed):
    n = shape[0] * shape[1]
    factor = torch.randn(n, n, dtype=DOUBLE, generator=seeded(seed)) / n**0.5
    covariance = factor @ factor.T + 0.3 * torch.eye(n, dtype=DOUBLE)
    return GaussianPrior(torch.zeros(shape, dtype=DOUBLE), covariance)


def nothing_measured(shape):
    A = MatrixOperator(torch.zeros(1, shape[0] * shape[1], dtype=DOUBLE), shape)
    A._norm = 1.0  # ||A|| = 0 has no inverse
    return A


# --- DiffusionMBIR ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128])
def test_mbir_solves_what_is_measured(dtype):
    A = random_operator(8, (2, 3), dtype)  # more rows than pixels: one solution
    volume = random_image((4, 2, 3), dtype)
    # With a small penalty, a sweep does not remember the level before it.
    solver = DiffusionMBIR(steps=8, cg_iter=30, z_weight=1e-9, rho=1e-9)
    x = solver(Problem(A(volume), A), white((2, 3), dtype=dtype), rng=seeded())
    torch.testing.assert_close(x, volume, rtol=0, atol=1e-5)


def unmeasured_variance(levels, p, snr=0.16):
    """Of what nothing is measured of, with a white prior of variance ``p``."""
    variance = levels[0] ** 2
    for sigma, following in zip(levels[:-2], levels[1:-1], strict=True):
        removed = 1 - (following / sigma) ** 2
        gain = 1 - removed * sigma**2 / (p + sigma**2)
        variance = gain**2 * variance + removed * sigma**2
        eps = 2 * snr**2 * (p + following**2) ** 2 / variance
        variance = (1 - eps / (p + following**2)) ** 2 * variance + 2 * eps
    return variance * (p / (p + levels[-2] ** 2)) ** 2


@pytest.mark.parametrize("solver", [DiffusionMBIR, TPDM])
def test_few_levels_start_where_they_can_follow(solver):
    """From the published 378, 10 levels leave 3.7 times the prior's variance, and 30 1.18."""
    assert unmeasured_variance(solver(steps=10, sigma_max=378.0).levels(), 0.5) > 3.5 * 0.5
    for steps, most in ((10, 1.1), (30, 1.05), (60, 1.05), (2000, 1.03)):
        assert unmeasured_variance(solver(steps=steps).levels(), 0.5) < most * 0.5
    assert solver(steps=2000).levels()[0] == 378.0
    assert solver(steps=10, sigma_max=20.0).levels()[0] == pytest.approx(20.0)


def test_mbir_unmeasured_directions_follow_the_law_of_predictor_and_corrector():
    steps, snr, p = 60, 0.16, 0.5
    solver = DiffusionMBIR(steps=steps, snr=snr, sigma_max=20.0, sigma_min=0.02)
    shape = (40, 50)  # so large that ||n|| / ||score|| is close to its expectation

    class White(GaussianPrior):
        def __init__(self):
            super().__init__(torch.zeros(1, 1, dtype=DOUBLE), p * torch.eye(1, dtype=DOUBLE))
            self.ndim = 2

        def forward(self, x, sigma):
            return x * (p / (p + sigma**2))

    y = torch.zeros(20, 1, 1, dtype=DOUBLE)  # volumes of one slice: nothing to couple
    x = solver(Problem(y, nothing_measured(shape)), White(), rng=seeded())
    variance = unmeasured_variance(solver.levels(), p, snr)
    # 40,000 pixels: 0.7 %; the norms of each step fluctuate by as much
    assert x.var().item() == pytest.approx(variance, rel=0.03)
    assert variance == pytest.approx(p, rel=0.15)  # the levels are coarse


def test_mbir_draws_neighbours_together_and_keeps_its_state():
    A = random_operator(3, (2, 4))
    y = A(random_image((2, 4)).expand(6, 2, 4))
    rough = []
    for fields in ({"z_weight": 1e-9}, {"z_weight": 0.3, "rho": 0.3},
                   {"z_weight": 0.3, "rho": 0.3, "sharing": False, "sweeps": 5}):
        x = DiffusionMBIR(steps=40, sigma_max=10, cg_iter=3, **fields)(
            Problem(y, A), white((2, 4)), rng=seeded())
        rough.append(float(x.diff(dim=0).abs().sum()))
    assert rough[1] < 0.5 * rough[0]
    assert rough[2] < 0.5 * rough[0]
    assert rough[1] != rough[2]


def test_mbir_is_reproducible_and_follows_the_units():
    A = random_operator(5, (2, 3))
    y = A(random_image((3, 2, 3)))
    solver = DiffusionMBIR(steps=6)
    x = solver(Problem(y, A), white((2, 3)), rng=seeded())
    assert torch.equal(x, solver(Problem(y, A), white((2, 3)), rng=seeded()))
    again = solver(Problem(7 * y, 7 * A), white((2, 3)), rng=seeded())
    torch.testing.assert_close(again, x, rtol=1e-4, atol=1e-5)  # norms are power iterations


def test_mbir_reports_every_level():
    A, seen = random_operator(5, (2, 3)), []
    DiffusionMBIR(steps=4)(Problem(A(random_image((3, 2, 3))), A), white((2, 3)),
                           on_step=lambda i, x: seen.append((i, x.shape)))
    assert seen == [(i, (3, 2, 3)) for i in range(4)]


@pytest.mark.parametrize(("fields", "message"), [
    ({"sweeps": 0}, "sweeps: expected at least 1"),
    ({"z_weight": 0.0}, "z_weight: expected a positive number"),
    ({"axes": (-3, -3)}, "different axes"),
    ({"sigma_min": 400.0}, "sigma_min"),
])
def test_mbir_refuses_wrong_settings(fields, message):
    with pytest.raises(InputError, match=message):
        DiffusionMBIR(**fields)


def test_mbir_refuses_an_image():
    A = random_operator(5, (2, 3))
    with pytest.raises(ShapeError, match="use DDS for one image"):
        DiffusionMBIR()(Problem(A(random_image((2, 3))), A), white((2, 3)))


# --- products --------------------------------------------------------------------------------


def test_the_product_s_score_has_the_precision_of_both_factors():
    """As sigma goes to 0: alpha (I_z x C_yx^-1) + beta (C_zx^-1 x I_y), on a non-cubic volume."""
    nz, ny, nx = 2, 3, 4
    primary, auxiliary = correlated((ny, nx), 1), correlated((nz, nx), 2)
    prior = ProductPrior([SlicePrior(primary, -3), SlicePrior(auxiliary, -2)], (0.7, 0.4))
    x, sigma = torch.randn(nz, ny, nx, dtype=DOUBLE, generator=seeded(3)), 1e-4

    def precision(p):
        return torch.linalg.inv((p.vectors * p.variances) @ p.vectors.mH)

    first = torch.einsum("ij,zj->zi", precision(primary), x.flatten(1)).reshape(x.shape)
    turned = x.movedim(-2, 0)
    second = torch.einsum("ij,yj->yi", precision(auxiliary), turned.flatten(1))
    second = second.reshape(turned.shape).movedim(0, -2)
    score = (prior(x, sigma) - x) / sigma**2
    torch.testing.assert_close(score, -(0.7 * first + 0.4 * second), rtol=1e-5, atol=1e-5)


def test_a_product_is_what_every_solver_takes():
    """DDS with a product of one prior with itself is DDS with that prior."""
    from medinv.solvers import DDS

    A = random_operator(5, (2, 3))
    y = A(random_image((4, 2, 3)))
    single = SlicePrior(correlated((2, 3), 1))
    double = ProductPrior([single, single])
    runs = [DDS(steps=6)(Problem(y, A), prior, rng=seeded()) for prior in (single, double)]
    torch.testing.assert_close(runs[0], runs[1])


def test_a_product_refuses_what_it_cannot_multiply():
    single = SlicePrior(white((2, 3)))
    with pytest.raises(ShapeError, match="two or more priors"):
        ProductPrior([single])
    with pytest.raises(ShapeError, match="positive weight"):
        ProductPrior([single, single], (1.0, 0.0))
    with pytest.raises(ShapeError, match="one kind"):
        ProductPrior([single, white((2, 3))])


# --- TPDM ------------------------------------------------------------------------------------


def product(shape=(2, 3, 4), dtype=DOUBLE):
    nz, ny, nx = shape
    return ProductPrior([SlicePrior(white((ny, nx), dtype=dtype), -3),
                         SlicePrior(white((nz, nx), dtype=dtype), -2)])


def test_zeta_belongs_to_one_slice_of_a_volume():
    """An operator on the volume has one norm for its slices, whose gradient is sqrt(n) smaller."""
    nz, ny, nx, sigma, zeta = 5, 2, 3, 4.0, 0.7
    prior = product((nz, ny, nx))
    A = random_operator(9, (nz, ny, nx))
    y = A(random_image((nz, ny, nx)))
    got = TPDM(steps=1, K=3, zeta=zeta, snr=1e-9, sigma_max=sigma)(
        Problem(y, A), prior, rng=seeded())
    x = sigma * torch.randn(nz, ny, nx, dtype=DOUBLE, generator=seeded())
    for data_only in (True, False):  # the corrector hardly moves; the predictor takes D
        D, gradient = denoise_with_residual_gradient(
            prior.factors()[0], x, sigma, y / A.norm(), A.normalized())
        x = (x if data_only else D) - zeta * nz**0.5 * gradient
    torch.testing.assert_close(got, x, rtol=1e-6, atol=1e-6)


def test_turns_follow_the_schedule():
    turns = [TPDM(K=3).is_auxiliary(i, None) for i in range(9)]
    assert turns == [False, False, True] * 3
    rng = seeded()
    share = sum(TPDM(K=2.7).is_auxiliary(i, rng) for i in range(4000)) / 4000
    assert share == pytest.approx(1 / 2.7, abs=0.025)  # three standard errors


@pytest.mark.parametrize("chunk", [1, 8])
def test_the_data_gradient_is_that_of_finite_differences(chunk):
    A = random_operator(5, (3, 4))
    prior = SlicePrior(correlated((3, 4), 1), chunk=chunk)
    y, x = A(random_image((2, 3, 4), seed=1)), random_image((2, 3, 4), seed=2)
    v, h, sigma = random_image((2, 3, 4), seed=3), 1e-6, 0.7
    D, gradient = denoise_with_residual_gradient(prior, x, sigma, y, A)
    torch.testing.assert_close(D, prior(x, sigma))

    def residuals(z):
        return torch.linalg.vector_norm(A(prior(z, sigma)) - y, dim=-1)

    slope = (residuals(x + h * v) - residuals(x - h * v)) / (2 * h)
    torch.testing.assert_close((gradient * v).sum((-2, -1)), slope, rtol=1e-6, atol=1e-8)


def test_tpdm_approaches_the_measurement():
    A = random_operator(6, (3, 4))
    volume = random_image((2, 3, 4))
    y = A(volume)

    def residual(zeta):
        solver = TPDM(steps=200, zeta=zeta, sigma_max=10)
        x = solver(Problem(y, A), product(), rng=seeded())
        return float(torch.linalg.vector_norm(A(x) - y) / torch.linalg.vector_norm(y))

    assert residual(1.0) < 0.3 * residual(1e-9)


def test_slices_measured_alone_equal_slices_measured_as_a_volume_of_one():
    """zeta belongs to a slice: an operator on a volume of one slice gives the same."""
    flat = random_operator(6, (3, 4))
    deep = MatrixOperator(flat.matrix, (1, 3, 4))
    y = flat(random_image((1, 3, 4)))
    solver = TPDM(steps=5)
    x = solver(Problem(y, flat), product((1, 3, 4)), rng=seeded())
    torch.testing.assert_close(solver(Problem(y[0], deep), product((1, 3, 4)), rng=seeded()), x)


def test_tpdm_refuses_other_priors_and_settings():
    A = random_operator(5, (2, 3))
    with pytest.raises(CheckpointError, match="primary and an auxiliary"):
        TPDM()(Problem(A(random_image((2, 2, 3))), A), white((2, 3)))
    with pytest.raises(InputError, match="K: expected a number above 1"):
        TPDM(K=1)
    with pytest.raises(InputError, match="zeta: expected a positive number"):
        TPDM(zeta=0.0)
