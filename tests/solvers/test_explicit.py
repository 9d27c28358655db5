"""The explicit methods on Gaussians: each against its own law, coordinate by coordinate.

The laws are written once more as scalar recursions of the papers' steps, or in closed form; they
are those of the methods, which mostly are not the posterior's.
"""

import math

import pytest
import torch

from medinv.errors import InputError
from medinv.guidance import denoise_with_residual_gradient
from medinv.operators import CartesianMRI
from medinv.operators.spectral import spectrum
from medinv.priors import GaussianPrior, geometric_sigmas
from medinv.problem import Problem
from medinv.samplers import ddim_split, fixed_split
from medinv.solvers import (
    DDIM,
    DDNM,
    DDRM,
    DMAP,
    DPPS,
    DPS,
    DSG,
    MCG,
    MPGD,
    SNIPS,
    DiffPIR,
    FlowChef,
    FlowDPS,
    PnPDM,
    ScoreALD,
    ScoreSDE,
)
from medinv.solvers.dps import vp_factor
from medinv.solvers.dsg import on_sphere
from tests.solvers.laws import DOUBLE, law, measured_and_null, pair, recursion
from tests.solvers.matrix_operator import MatrixOperator, random_image, random_operator

RANGE = {"sigma_max": 100.0, "sigma_min": 0.01}


def levels(steps, sigma_max=100.0, sigma_min=0.01):
    return geometric_sigmas(steps, sigma_min, sigma_max).tolist()


def shrink(sigma, p=1.0):
    return p / (p + sigma**2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# --- DDRM ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "eta"), [(20, 0.85), (200, 0.85), (200, 1.0)])
def test_ddrm_s_law(steps, eta):
    s, kept = 0.1, (1 - eta**2) ** 0.5

    def measured(sigma, sigma_next):
        d = shrink(sigma)
        if sigma_next >= s:
            return 0.0, 1.0, sigma_next**2 - s**2  # eta_b = 1
        return d - kept * sigma_next * d / s, kept * sigma_next / s, (eta * sigma_next) ** 2

    def null(sigma, sigma_next):
        d = shrink(sigma)
        return d + kept * sigma_next * (1 - d) / sigma, 0.0, (eta * sigma_next) ** 2

    mean, variance = recursion(measured, levels(steps), (1.0, 100.0**2 - s**2))
    _, free = recursion(null, levels(steps), (0.0, 100.0**2))
    got = measured_and_null(DDRM(steps=steps, eta=eta, **RANGE), s=s)
    assert got == pytest.approx((mean, variance, free), rel=1e-6)


def test_ddrm_forgets_or_copies_y_as_steps_grow():
    """Its limit is y with no variance, or at eta = 1 the prior's half: 20 steps are tuned."""
    errors = [abs(measured_and_null(DDRM(steps=n, eta=1.0), s=0.1)[0] - 1 / 1.01)
              for n in (50, 1000)]
    assert errors[1] > 3 * errors[0]
    few, many = (measured_and_null(DDRM(steps=n), s=0.1)[1] for n in (20, 1000))
    assert many < few / 2 < 0.0099 / 2
    assert measured_and_null(DDRM(steps=20), s=0.0)[:2] == pytest.approx((1, 0), abs=1e-9)


def test_one_coil_has_a_fast_decomposition_that_equals_the_dense_one():
    phase = torch.exp(1j * random_image((1, 6, 8), DOUBLE))
    A = CartesianMRI(phase, torch.arange(8) % 2 == 0)
    dense = MatrixOperator(A(torch.eye(48, dtype=phase.dtype).reshape(48, 6, 8)).flatten(1).mT,
                           (6, 8))
    x = random_image((3, 6, 8), phase.dtype)
    y = A(x)
    prior = GaussianPrior(0 * x[0], torch.eye(48, dtype=phase.dtype))
    solver = DDRM(steps=4, eta=0.0)  # no fresh noise: the bases of null spaces are free
    noisy = [Problem(y, A, noise_std=0.1), Problem(y.flatten(1), dense, noise_std=0.1)]
    got, expected = (solver(problem, prior, rng=seeded()) for problem in noisy)
    torch.testing.assert_close(got, expected)
    large = CartesianMRI(torch.ones(1, 80, 80) + 0j, torch.arange(80) % 2 == 0)
    assert spectrum(large).values.sum() == 40 * 80  # none of 6400 pixels is dense
    for operator in (2.0 * A, dense):
        svd = spectrum(operator)
        torch.testing.assert_close(svd.image(svd.coordinates(x)), x)
        data = operator(x)
        torch.testing.assert_close(svd.image(svd.values * svd.data(data)), operator.adjoint(data))


def test_what_has_no_cheap_decomposition_is_told_what_to_take():
    maps = torch.full((2, 80, 80), 0.5**0.5, dtype=torch.complex64)
    A = CartesianMRI(maps, torch.ones(80, dtype=torch.bool))
    x = torch.zeros(80, 80, dtype=torch.complex64)
    prior = GaussianPrior(x[:1, :1], torch.eye(1, dtype=torch.complex64))
    with pytest.raises(InputError, match="no fast singular value decomposition; take .* DiffPIR"):
        DDRM()(Problem(A(x), A), prior)


# --- SNIPS -----------------------------------------------------------------------------------


def test_snips_ends_with_its_last_level_s_law():
    """Prior variance p + sigma^2, noise s^2 - a^2 sigma^2, and the Langevin step's inflation."""
    s, sigma, step = 0.5, 0.2, 0.5
    solver = SNIPS(steps=30, inner_steps=60, step=step, sigma_max=10.0, sigma_min=sigma)
    mean, variance, null = measured_and_null(solver, draws=60, s=s)
    precision = 1 / (1 + sigma**2) + 1 / (s**2 - sigma**2)
    h = step * sigma**2 * (1 - sigma**2 / s**2)
    assert variance == pytest.approx(1 / precision / (1 - h * precision / 2), rel=0.02)
    assert mean == pytest.approx(1 / (s**2 - sigma**2) / precision, rel=0.02)
    assert null == pytest.approx(1 + sigma**2, rel=0.05)


# --- DPS -------------------------------------------------------------------------------------


def test_dps_is_its_published_step():
    """In variance-preserving coordinates, where the paper states it."""
    A = random_operator(3, (2, 2))
    A._norm = 1.0
    problem = Problem(A(random_image((2, 2))), A, noise_std=0.1)
    prior = GaussianPrior(random_image((2, 2), seed=3), torch.eye(4, dtype=DOUBLE))
    got = DPS(steps=5, zeta=0.3 / 200, sigma_max=10.0)(problem, prior, rng=seeded())
    noise = seeded()
    x = 10.0 * torch.randn(2, 2, dtype=DOUBLE, generator=noise)
    for sigma, sigma_next in zip(levels(5, 10.0)[:-1], levels(5, 10.0)[1:], strict=True):
        s, s_next = (1 + sigma**2) ** -0.5, (1 + sigma_next**2) ** -0.5
        D, g = denoise_with_residual_gradient(prior, x, sigma, problem.y, A)
        c_eps, c_noise = ddim_split(1.0, sigma, sigma_next)
        step = D + c_eps * (x - D) / sigma
        if c_noise:
            step = step + c_noise * torch.randn(2, 2, dtype=DOUBLE, generator=noise)
        x = (s_next * step - 0.3 * g / s) / s_next  # the gradient in x_t = s x is g / s
    torch.testing.assert_close(got, x)
    assert vp_factor(2.0, 1.0) == pytest.approx(10**0.5)


def test_dps_without_a_step_is_unconditional_and_its_residual_is_its_step():
    """The gradient has a constant length, so the image settles at half a step or so from y."""
    problem, prior = pair()
    assert measured_and_null(DPS(steps=50, zeta=0.0))[0] == pytest.approx(0, abs=1e-12)
    batch = Problem(problem.y.expand(4000, 1), problem.A, problem.noise)

    def residual(steps):
        x = DPS(steps=steps, zeta=0.02)(batch, prior, rng=seeded())
        return float((x[:, 0] - 1).abs().mean())

    assert residual(100) == pytest.approx(residual(50) / 2, rel=0.2)


# --- DiffPIR and DDNM ------------------------------------------------------------------------


@pytest.mark.parametrize(("lambda_", "zeta"), [(1.0, 0.1), (7.0, 0.3), (1.0, 1.0)])
def test_diffpir_s_law(lambda_, zeta):
    s = 0.5

    def coordinate(a):
        def step(sigma, sigma_next):
            d, variance = shrink(sigma), sigma**2 / lambda_
            gain = variance * a / (s**2 + a * variance)
            c_eps, c_noise = fixed_split(zeta**0.5, sigma, sigma_next)
            m, b = d * (1 - gain), gain  # x0 = d x + gain (y - d x)
            return m + c_eps * (1 - m) / sigma, b - c_eps * b / sigma, c_noise**2
        return step

    expected = recursion(coordinate(1), levels(60), (0.0, 1e4))
    _, null = recursion(coordinate(0), levels(60), (0.0, 1e4))
    got = measured_and_null(DiffPIR(steps=60, lambda_=lambda_, zeta=zeta, **RANGE), s=s)
    assert got == pytest.approx((*expected, null), rel=1e-6)


def test_ddnm_copies_y_and_keeps_its_null_space_s_law():
    eta = 0.85

    def null(sigma, sigma_next):
        d = shrink(sigma)
        return d + (1 - eta**2) ** 0.5 * sigma_next * (1 - d) / sigma, 0.0, (eta * sigma_next) ** 2

    _, free = recursion(null, levels(60), (0.0, 1e4))
    for plus in (False, True):
        got = measured_and_null(DDNM(steps=60, plus=plus, **RANGE), s=0.0)
        assert got == pytest.approx((1, 0, free), abs=1e-6)


def test_ddnm_plus_weighs_the_noise():
    """Range: D + l (y - D) + sqrt(sigma'^2 - l^2 s^2) n with l = min(1, sigma' / s)."""
    s = 0.5

    def step(sigma, sigma_next):
        share = min(1.0, sigma_next / s)
        return (1 - share) * shrink(sigma), share, max(sigma_next**2 - (share * s) ** 2, 0.0)

    expected = recursion(step, levels(60), (0.0, 1e4))
    got = measured_and_null(DDNM(steps=60, plus=True, **RANGE), s=s)
    assert got[:2] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert got[0] < 0.99  # noisier than one step of plain DDNM, which copies y


def test_the_pseudoinverse_of_ddnm_needs_no_decomposition():
    A = random_operator(4, (2, 3))
    y = A(random_image((2, 3)))
    prior = GaussianPrior(random_image((2, 3), seed=3), torch.eye(6, dtype=DOUBLE))
    x = DDNM(steps=10)(Problem(y, A), prior, rng=seeded())
    torch.testing.assert_close(A(x), y, rtol=0, atol=1e-6)


# --- MPGD and DSG ----------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.0, 0.5])
def test_mpgd_s_law_with_the_squared_residual(c):
    def coordinate(a):
        def step(sigma, sigma_next):
            d = shrink(sigma)
            c_eps, c_noise = ddim_split(0.5, sigma, sigma_next)
            return d * (1 - c * a) + c_eps * (1 - d) / sigma, c * a, c_noise**2
        return step

    expected = recursion(coordinate(1), levels(60), (0.0, 1e4))
    _, null = recursion(coordinate(0), levels(60), (0.0, 1e4))
    got = measured_and_null(MPGD(steps=60, c=c, squared=True, **RANGE), s=0.5)
    assert got == pytest.approx((*expected, null), rel=1e-6, abs=1e-9)


def test_mpgd_s_published_step_has_a_constant_length():
    problem, prior = pair(y=50.0)
    batch = Problem(problem.y.expand(3, 1) * torch.tensor([[1.0], [2.0], [-3.0]]), problem.A)
    images = []
    MPGD(steps=1, c=0.002, sigma_max=0.1)(batch, prior, on_step=lambda i, x: images.append(x),
                                          rng=seeded())
    plain = MPGD(steps=1, c=0.0, sigma_max=0.1)(batch, prior, rng=seeded())
    torch.testing.assert_close(images[0][:, 0] - plain[:, 0],
                               torch.tensor([2.0, 2.0, -2.0], dtype=DOUBLE))


@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128])
def test_dsg_stays_on_the_sphere(dtype):
    n, direction = random_image((3, 4, 5), dtype), random_image((3, 4, 5), dtype, seed=2)
    norm = torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True)
    m = 20 * (2 if dtype.is_complex else 1)
    for w in (0.0, 0.3, 1.0):
        turned = on_sphere(n, direction / norm, w, 1)
        length = torch.linalg.vector_norm(turned, dim=(1, 2))
        torch.testing.assert_close(length, torch.full_like(length, m**0.5))
    torch.testing.assert_close(turned, m**0.5 * direction / norm)  # w = 1: all guided


def test_dsg_approaches_the_measurement_as_its_weight_grows():
    A = random_operator(20, (6, 6))
    y = A(random_image((3, 6, 6)))
    prior = GaussianPrior(torch.zeros(6, 6, dtype=DOUBLE), torch.eye(36, dtype=DOUBLE))

    def residual(w):
        x = DSG(steps=60, w=w)(Problem(y, A), prior, rng=seeded())
        return float((A(x) - y).norm() / y.norm())

    errors = [residual(w) for w in (0.0, 0.1, 0.5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]
    unguided = DDIM.__dataclass_fields__["eta"].default
    assert DSG().eta == unguided == 1.0


# --- projections -----------------------------------------------------------------------------


def coupled(r):
    """Two coordinates of variance 1 and correlation r; the first measured without noise."""
    A = MatrixOperator(torch.tensor([[1.0, 0.0]], dtype=DOUBLE), (2,))
    A._norm = 1.0
    prior = GaussianPrior(torch.zeros(2, dtype=DOUBLE),
                          torch.tensor([[1.0, r], [r, 1.0]], dtype=DOUBLE))
    return Problem(torch.ones(1, dtype=DOUBLE), A), prior


@pytest.mark.parametrize("r", [0.5, 0.9])
def test_projection_loses_correlation_by_its_known_law(r):
    """Fresh noise in y at each step: E x2 = y (1 - sqrt(1 - r^2)) / r, not r y (L4)."""
    problem, prior = coupled(r)
    solver = ScoreSDE(steps=300, correctors=0, sigma_min=1e-3)
    mean, covariance = law(solver, problem, prior)
    root = math.sqrt(1 - r**2)
    variance = (1 - r**2) / (2 * r) * math.log((1 + r) / (1 - r))
    assert (float(mean[0]), float(covariance[0, 0])) == pytest.approx((1, 0), abs=1e-9)
    assert float(mean[1]) == pytest.approx((1 - root) / r, rel=0.08)  # O(1 / steps)
    assert float(covariance[1, 1]) == pytest.approx(variance, rel=0.08)


def test_correctors_bring_projection_nearer_to_the_truth():
    """Pairs of correlation 0.5, whose first halves are measured to be 1: the truth is 0.5."""
    n = 64
    matrix = torch.eye(2 * n, dtype=DOUBLE)[:n]
    A = MatrixOperator(matrix, (2, n))
    A._norm = 1.0
    covariance = torch.kron(torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=DOUBLE),
                            torch.eye(n, dtype=DOUBLE))
    prior = GaussianPrior(torch.zeros(2, n, dtype=DOUBLE), covariance)
    batch = Problem(torch.ones(40, n, dtype=DOUBLE), A)
    means = [float(ScoreSDE(steps=60, correctors=k, snr=0.3)(batch, prior, rng=seeded())
                   [:, 1].mean()) for k in (0, 1, 8)]
    # 2560 pixels: 0.017
    assert means[0] == pytest.approx((1 - 0.75**0.5) / 0.5, abs=0.06)
    assert means[0] < means[1] < means[2]
    assert means[2] == pytest.approx(0.5, abs=0.06)


def test_mcg_copies_y_and_leaves_independent_coordinates_alone():
    mean, covariance = law(MCG(steps=60), *pair(s=0.0))
    assert (float(mean[0]), float(covariance[0, 0])) == pytest.approx((1, 0), abs=1e-9)
    assert float(covariance[1, 1]) == pytest.approx(
        measured_and_null(DDIM(steps=60), s=0.5)[2], rel=1e-6)


def test_mcg_brings_correlated_coordinates_nearer_than_projection():
    problem, prior = coupled(0.9)
    batch = Problem(torch.ones(2000, 1, dtype=DOUBLE), problem.A)
    plain, guided = (float(MCG(steps=200, w=w)(batch, prior, rng=seeded())[:, 1].mean())
                     for w in (0.0, 0.05))
    assert plain == pytest.approx((1 - math.sqrt(0.19)) / 0.9, abs=0.05)
    assert guided > plain + 0.02


# --- Score-ALD -------------------------------------------------------------------------------


def test_score_ald_ends_with_its_last_level_s_law():
    """Precision 1 / (p + sigma^2) + 1 / (s^2 + gamma^2), and the step's inflation."""
    s, sigma, step = 0.5, 0.2, 0.5
    solver = ScoreALD(steps=30, inner_steps=60, step=step, sigma_max=10.0, sigma_min=sigma)
    mean, variance, null = measured_and_null(solver, draws=60, s=s)
    precision = 1 / (1 + sigma**2) + 1 / (s**2 + sigma**2)
    h = step * sigma**2
    assert variance == pytest.approx(1 / precision / (1 - h * precision / 2), rel=0.02)
    assert mean == pytest.approx(1 / (s**2 + sigma**2) / precision, rel=0.02)
    assert null == pytest.approx(1 + sigma**2, rel=0.05)


def test_the_published_ratio_of_lengths_ignores_the_noise():
    problem, prior = pair()
    solver = ScoreALD(steps=20, norm_ratio=5.0)
    runs = [solver(Problem(problem.y, problem.A, noise_std=s), prior, rng=seeded())
            for s in (0.01, 1.0)]
    assert torch.equal(*runs)
    stretched = 3.0 * problem.A
    again = solver(Problem(3 * problem.y, stretched, noise_std=1.0), prior, rng=seeded())
    torch.testing.assert_close(again, runs[0])


# --- flows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0.0, 0.1])
def test_flowchef_s_law(k):
    def coordinate(a):
        def step(sigma, sigma_next):
            d, steer = shrink(sigma), k * (1 + sigma_next) * a if sigma_next else 0.0
            return d + sigma_next * (1 - d) / sigma - steer * d, steer, 0.0
        return step

    expected = recursion(coordinate(1), levels(60), (0.0, 1e4))
    _, null = recursion(coordinate(0), levels(60), (0.0, 1e4))
    got = measured_and_null(FlowChef(steps=60, k=k, **RANGE), s=0.5)
    assert got == pytest.approx((*expected, null), rel=1e-6, abs=1e-9)
    if not k:  # DDIM with eta = 0, whose guidance leaves this coordinate alone
        assert got[2] == pytest.approx(measured_and_null(
            DDIM(steps=60, eta=0.0, **RANGE), s=0.5)[2], rel=1e-6)


def test_flowdps_s_law_in_the_flow_s_own_coordinate():
    """x_t = (1 - t) x0 + t n, as the paper's code has it."""
    gamma = 10.0

    def coordinate(a):
        gain = gamma * a / (1 + gamma * a)

        def step(sigma, sigma_next):
            t, t_next = sigma / (1 + sigma), sigma_next / (1 + sigma_next)
            D = (1 - t) / ((1 - t) ** 2 + t**2)  # of x_t, for the variance 1
            n = t / ((1 - t) ** 2 + t**2)
            m = (1 - t_next) * ((1 - t) * D + t * (1 - gain) * D) + t_next * t_next**0.5 * n
            return m, (1 - t_next) * t * gain, t_next**2 * (1 - t_next)
        return step

    t = 100 / 101
    start = (0.0, (1 - t) ** 2 * 1e4)
    expected = recursion(coordinate(1), levels(40), start)
    _, null = recursion(coordinate(0), levels(40), start)
    got = measured_and_null(FlowDPS(steps=40, gamma=gamma, **RANGE), s=0.5)
    assert got == pytest.approx((*expected, null), rel=1e-6)


# --- split Gibbs -----------------------------------------------------------------------------


def test_split_gibbs_ends_with_the_posterior_of_more_noise():
    """At a fixed rho: s^2 -> s^2 + rho^2 A A^H (L6); rho = 0.3 gives (0.746, 0.254)."""
    solver = PnPDM(iterations=60, steps=60, rho_max=0.3001, rho_min=0.3)
    mean, variance, null = measured_and_null(solver, draws=62, s=0.5)
    assert mean == pytest.approx(1 / (1 + 0.25 + 0.09), rel=0.01)
    assert variance == pytest.approx(0.34 / 1.34, rel=0.1)  # the SDE at 60 steps: 7 %
    assert null == pytest.approx(1, rel=0.1)


# --- draws and spheres -----------------------------------------------------------------------


def test_dpps_with_one_draw_is_dps():
    problem, prior = pair()
    runs = [solver(problem, prior, rng=seeded())
            for solver in (DPPS(steps=20, most=1), DPS(steps=20))]
    torch.testing.assert_close(*runs)
    assert [DPPS(most=50).draws(sigma) for sigma in (100.0, 1.0, 0.1)] == [2, 31, 50]


def test_more_draws_leave_less_variance_in_the_range_alone():
    problem, prior = pair()
    batch = Problem(problem.y.expand(3000, 1), problem.A, problem.noise)
    draws = {n: DPPS(steps=40, zeta=0.001, most=n)(batch, prior, rng=seeded()) for n in (1, 3, 9)}
    residuals = [float((x[:, 0] - 1).square().mean()) for x in draws.values()]
    assert residuals == sorted(residuals, reverse=True)
    nulls = [float(x[:, 1].var()) for x in draws.values()]
    assert nulls == pytest.approx([nulls[0]] * 3, rel=0.1)  # 3000 draws: 2.6 % each


def test_dmap_moves_towards_the_measurement_as_k_grows():
    A = random_operator(20, (6, 6))
    y = A(random_image((3, 6, 6)))
    prior = GaussianPrior(torch.zeros(6, 6, dtype=DOUBLE), torch.eye(36, dtype=DOUBLE))

    def residual(K):
        x = DMAP(steps=60, K=K, zeta=0.01)(Problem(y, A), prior, rng=seeded())
        return float((A(x) - y).norm() / y.norm())

    errors = [residual(K) for K in (0, 1, 3)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * errors[0]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: DDRM(eta=2.0), "DDRM: eta"), (lambda: DDRM(eta_b=0.0), "DDRM: eta_b"),
    (lambda: DPS(zeta=-1.0), "DPS: zeta"), (lambda: DiffPIR(zeta=1.5), "DiffPIR: zeta"),
    (lambda: DiffPIR(lambda_=0.0), "DiffPIR: lambda_"), (lambda: DDNM(cg_iter=0), "DDNM: cg_iter"),
    (lambda: MPGD(eta=-0.1), "MPGD: eta"), (lambda: DSG(eta=0.0), "DSG: eta"),
    (lambda: DSG(w=2.0), "DSG: w"), (lambda: MCG(w=-1.0), "MCG: w"),
    (lambda: ScoreSDE(lambda_=0.0), "ScoreSDE: lambda_"), (lambda: SNIPS(step=0.0), "SNIPS: step"),
    (lambda: ScoreALD(norm_ratio=0.0), "ScoreALD: norm_ratio"), (lambda: DMAP(K=-1), "DMAP: K"),
    (lambda: DPPS(most=0), "DPPS: most"), (lambda: FlowChef(k=-1.0), "FlowChef: k"),
    (lambda: FlowDPS(gamma=0.0), "FlowDPS: gamma"), (lambda: PnPDM(cg_iter=0), "PnPDM: cg_iter")])
def test_wrong_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()
