"""Zero filling, CG-SENSE, CGLS, SIRT and L1-wavelet against dense algebra and sigpy."""

import dataclasses

import pytest
import sigpy.mri
import torch
from matrix_operator import MatrixOperator, random_image, random_operator

from medinv.errors import InputError, ShapeError
from medinv.operators.mri import CartesianMRI
from medinv.problem import Problem
from medinv.recipe.mri import birdcage
from medinv.solvers import CGLS, CGSENSE, OSEM, SART, SIRT, TV, L1Wavelet, ZeroFilled
from tests.operators.ct_objects import disc_image

DTYPES = [torch.float64, torch.complex128]
SOLVERS = [
    ZeroFilled(),
    CGSENSE(max_iter=5),
    CGSENSE(max_iter=100, tol=1e-2, damping=0.1),
    CGLS(max_iter=5),
    CGLS(max_iter=100, tol=1e-2),
    L1Wavelet(0.05, max_iter=10, wavelet="haar"),
    L1Wavelet(0.05, max_iter=100, tol=1e-2, wavelet="haar"),
    TV(0.05, max_iter=10),
    TV(0.05, max_iter=100, tol=1e-2, isotropic=False),
]


def least_squares(A, y, damping=0.0):
    """``argmin ||A x - y||^2 + damping ||x||^2`` by a dense solve."""
    M = A.matrix
    normal = M.mH @ M + damping * torch.eye(M.shape[1], dtype=M.dtype)
    return torch.linalg.solve(normal, M.mH @ y).reshape(A.domain.shape)


def multicoil_problem(size=32, n_coils=4):
    """A piecewise constant slice seen by smooth coils, half of the phase encodes, and noise."""
    rng = torch.Generator().manual_seed(3)
    grid = torch.linspace(-1, 1, size, dtype=torch.float64)
    r, c = torch.meshgrid(grid, grid, indexing="ij")
    image = ((r**2 + c**2 < 0.6) + 0.5 * ((r - 0.2) ** 2 + c**2 < 0.1)) * torch.exp(0.5j * c)
    angles = 2 * torch.pi * torch.arange(n_coils) / n_coils
    maps = torch.stack([torch.exp(-((r - a.cos()) ** 2) - (c - a.sin()) ** 2 + 1j * a * r)
                        for a in angles])
    maps = (maps / maps.abs().square().sum(0).sqrt()).to(torch.complex128)
    mask = torch.rand(1, size, generator=rng) < 0.5
    mask[:, size // 2 - 3: size // 2 + 3] = True
    A = CartesianMRI(maps=maps, mask=mask.expand(size, size))
    y = A(image)
    noise = torch.randn(y.shape, dtype=y.dtype, generator=rng)
    return A, y + 0.01 * noise * A.mask


def test_zero_filled_is_the_adjoint():
    A = random_operator(7, (4, 4), torch.complex128)
    y = random_image((3, 7), torch.complex128)
    assert torch.equal(ZeroFilled()(Problem(y, A)), A.adjoint(y))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_cg_sense_solves_the_damped_normal_equations(dtype, damping):
    A = random_operator(40, (4, 4), dtype)
    y = random_image((40,), dtype)
    expected = least_squares(A, y, damping * torch.linalg.matrix_norm(A.matrix, 2) ** 2)
    x = CGSENSE(max_iter=40, tol=1e-12, damping=damping)(Problem(y, A))
    # The damping is relative to ||A||^2, known from power iteration to 1e-4.
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-10 if damping == 0 else 1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cgls_converges_to_least_squares_with_falling_residual(dtype):
    A = random_operator(40, (4, 4), dtype)
    y = random_image((40,), dtype)
    residuals = []
    x = CGLS(max_iter=40, tol=1e-12)(
        Problem(y, A), on_step=lambda i, x: residuals.append((A(x) - y).norm().item()))
    torch.testing.assert_close(x, least_squares(A, y), rtol=0, atol=1e-10)
    # Rounding may raise a converged residual in its last digits.
    assert all(b <= a + 1e-12 for a, b in zip(residuals, residuals[1:], strict=False))


def test_cgls_and_cg_sense_have_the_same_iterates():
    A = random_operator(30, (5, 5), torch.complex128)
    y = random_image((30,), torch.complex128)
    iterates = [[], []]
    for solver, kept in zip((CGLS(max_iter=8), CGSENSE(max_iter=8)), iterates, strict=True):
        solver(Problem(y, A), on_step=lambda i, x, kept=kept: kept.append(x))
    torch.testing.assert_close(torch.stack(iterates[0]), torch.stack(iterates[1]))


def positive_operator(m, shape):
    """A projector's stand-in: no negative entries, an empty ray, an unseen voxel."""
    matrix = random_operator(m, shape).matrix.abs()
    matrix[3], matrix[:, 5] = 0, 0
    return MatrixOperator(matrix, shape)


def test_sirt_converges_to_row_weighted_least_squares():
    A = positive_operator(40, (3, 3))
    y = random_image((40,)).abs()
    rows = A.matrix.sum(1)
    weights = torch.where(rows > 0, 1 / rows, 0.0).sqrt()
    seen = [i for i in range(9) if i != 5]
    solution = torch.linalg.lstsq(weights[:, None] * A.matrix[:, seen], weights * y).solution
    x = SIRT(max_iter=3000, relaxation=1.9)(Problem(y, A)).flatten()
    torch.testing.assert_close(x[seen], solution, rtol=0, atol=1e-8)
    assert x[5] == 0


def test_nonnegative_sirt_satisfies_the_optimality_conditions():
    A = positive_operator(40, (3, 3))
    y = random_image((40,))
    x = SIRT(max_iter=3000, nonnegative=True)(Problem(y, A)).flatten()
    rows = A.matrix.sum(1)
    gradient = A.matrix.mT @ (torch.where(rows > 0, 1 / rows, 0.0) * (A.matrix @ x - y))
    assert (x >= 0).all()
    assert (x == 0).sum() > 1  # the bound is active beyond the unseen voxel
    assert (gradient > -1e-8).all()
    torch.testing.assert_close(x * gradient, torch.zeros(9, dtype=x.dtype), rtol=0, atol=1e-8)


def test_sirt_stops_at_its_tolerance():
    A = positive_operator(40, (3, 3))
    steps = []
    SIRT(max_iter=3000, tol=1e-3)(Problem(random_image((40,)), A), on_step=lambda i,
                                  x: steps.append(i))
    assert len(steps) < 300


def test_l1_wavelet_reaches_the_objective_of_sigpy():
    A, y = multicoil_problem()
    weight = 0.02
    squared_norm = A.norm() ** 2
    threshold = weight * (A.adjoint(y).abs().max() / squared_norm).item()
    # sigpy minimises without our normalisation: its weight is ours times ||A||^2.
    app = sigpy.mri.app.L1WaveletRecon(y.numpy(), A.maps.numpy(), threshold * squared_norm,
                                       weights=A.mask.numpy().astype(float), max_iter=300,
                                       show_pbar=False)
    expected = torch.from_numpy(app.run())
    x = L1Wavelet(weight, max_iter=300)(Problem(y, A))
    W = sigpy.linop.Wavelet(x.shape)

    def objective(x):
        fidelity = 0.5 * (A(x) - y).norm() ** 2 / squared_norm
        return fidelity.item() + threshold * abs(W(x.numpy())).sum()

    assert objective(x) == pytest.approx(objective(expected), rel=1e-4)
    assert (x - expected).norm() < 1e-2 * expected.norm()


def test_l1_wavelet_of_an_orthonormal_operator_is_shrinkage():
    """With A = I and Haar on an even size, the solution is one soft threshold of W y."""
    A = MatrixOperator(torch.eye(64, dtype=torch.complex128), (8, 8))
    y = random_image((64,), torch.complex128)
    W = sigpy.linop.Wavelet((8, 8), wave_name="haar")
    coefficients = W(y.reshape(8, 8).numpy())
    threshold = 0.1 * y.abs().max().item()
    expected = torch.from_numpy(W.H(sigpy.soft_thresh(threshold, coefficients)))
    x = L1Wavelet(0.1, max_iter=3, wavelet="haar")(Problem(y, A))
    torch.testing.assert_close(x, expected)


def test_l1_wavelet_with_zero_weight_is_least_squares():
    A = random_operator(40, (4, 4), torch.complex128)
    y = random_image((40,), torch.complex128)
    x = L1Wavelet(0.0, max_iter=400, wavelet="haar")(Problem(y, A))
    torch.testing.assert_close(x, least_squares(A, y), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_cycle_spinning_leaves_less_error(seed):
    """Discs in 4 coils, a third of the columns: 0.78 of the error on one grid, or less."""
    rng = torch.Generator().manual_seed(seed)
    x = (disc_image((64, 64), 1.0, x0=3.0, y0=-2.0, radius=20.0, mu=1.0)
         + disc_image((64, 64), 1.0, x0=-4.0, y0=5.0, radius=6.0, mu=0.5)).to(torch.complex64)
    columns = (torch.rand(64, generator=rng) < 0.35) | ((torch.arange(64) - 32).abs() < 6)
    A = CartesianMRI(birdcage(4, (64, 64)), columns.expand(64, 64))
    y = A(x) + 0.02 * torch.randn(4, 64, 64, dtype=torch.complex64, generator=rng)
    problem = Problem(torch.where(A.mask, y, 0), A)
    plain, spun = (L1Wavelet(3e-3, max_iter=60, wavelet="db2", cycle_spinning=spins)(problem) - x
                   for spins in (False, True))
    assert float(spun.norm()) < 0.87 * float(plain.norm())


def test_cycle_spinning_with_zero_weight_is_least_squares():
    A = random_operator(40, (4, 4), torch.complex128)
    y = random_image((40,), torch.complex128)
    x = L1Wavelet(0.0, max_iter=400, wavelet="haar", cycle_spinning=True)(Problem(y, A))
    torch.testing.assert_close(x, least_squares(A, y), rtol=0, atol=1e-6)


def test_l1_wavelet_treats_slices_alike():
    """Slices that form a batch give what each gives alone; 3D wavelets couple them."""
    A = random_operator(12, (4, 4), torch.complex128)
    y = random_image((4, 12), torch.complex128)
    solver = L1Wavelet(0.05, max_iter=5, wavelet="haar")
    alone = torch.stack([solver(Problem(slice_, A)) for slice_ in y])
    torch.testing.assert_close(solver(Problem(y, A)), alone)
    coupled = dataclasses.replace(solver, ndim=3)(Problem(y, A))
    assert (coupled - alone).abs().max() > 1e-3


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_items_of_a_batch_do_not_influence_each_other(solver, dtype):
    A = random_operator(12, (4, 4), dtype)
    y = random_image((2, 3, 12), dtype)
    y[0, 1], y[1, 2] = 1000 * y[0, 1], 0  # another scale, and nothing at all
    together = solver(Problem(y, A))
    assert together.shape == (2, 3, 4, 4)
    for index in [(0, 0), (0, 1), (1, 2)]:
        alone = solver(Problem(y[index], A))
        torch.testing.assert_close(together[index], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [s for s in SOLVERS if s != ZeroFilled()], ids=repr)
def test_results_scale_with_the_measurement(solver):
    A = random_operator(12, (4, 4))
    y = random_image((12,))
    torch.testing.assert_close(solver(Problem(1e-3 * y, A)), 1e-3 * solver(Problem(y, A)))


@pytest.mark.parametrize("solver", [*SOLVERS, SIRT(max_iter=5)], ids=repr)
def test_steps_are_reported_and_end_at_the_result(solver):
    A, y = positive_operator(12, (4, 4)), random_image((12,))
    steps, images = [], []
    x = solver(Problem(y, A), on_step=lambda i, x: (steps.append(i), images.append(x)))
    assert steps == list(range(len(steps)))
    assert torch.equal(images[-1], x)
    assert all(not torch.equal(a, b) for a, b in zip(images, images[1:], strict=False))


@pytest.mark.parametrize("solver", [*SOLVERS, SIRT()], ids=repr)
def test_wrong_measurements_are_refused(solver):
    A, y = random_operator(12, (4, 4)), random_image((12,))
    with pytest.raises(ShapeError, match="12"):
        solver(Problem(y[:-1], A))
    with pytest.raises(ShapeError, match="float64"):
        solver(Problem(y.float(), A))
    y[3] = torch.nan
    with pytest.raises(InputError, match="1 NaN or Inf of 12"):
        solver(Problem(y, A))


@pytest.mark.parametrize(("build", "message"), [
    (lambda: CGSENSE(max_iter=0), "CGSENSE: max_iter"),
    (lambda: CGSENSE(damping=-1.0), "CGSENSE: damping"),
    (lambda: CGSENSE(tol=-1.0), "CGSENSE: tol"),
    (lambda: CGLS(max_iter=0), "CGLS: max_iter"),
    (lambda: CGLS(tol=-1.0), "CGLS: tol"),
    (lambda: SIRT(relaxation=2.0), r"SIRT: relaxation: expected a number in \(0, 2\), got 2.0"),
    (lambda: SIRT(max_iter=0), "SIRT: max_iter"),
    (lambda: SIRT(tol=-1.0), "SIRT: tol"),
    (lambda: SART(relaxation=0.0), r"SART: relaxation: expected a number in \(0, 2\)"),
    (lambda: SART(max_iter=0), "SART: max_iter"),
    (lambda: SART(subsets=0), "SART: subsets"),
    (lambda: OSEM(max_iter=0), "OSEM: max_iter"),
    (lambda: OSEM(subsets=0), "OSEM: subsets"),
    (lambda: OSEM(background=-1.0), "OSEM: background"),
    (lambda: L1Wavelet(-0.1), "L1Wavelet: weight"),
    (lambda: L1Wavelet(0.1, max_iter=0), "L1Wavelet: max_iter"),
    (lambda: L1Wavelet(0.1, tol=-1.0), "L1Wavelet: tol"),
    (lambda: L1Wavelet(0.1, ndim=4), "L1Wavelet: ndim"),
    (lambda: L1Wavelet(0.1, wavelet="db99"), "L1Wavelet: wavelet"),
    (lambda: L1Wavelet(0.1, wavelet="bior2.2"), "L1Wavelet: wavelet"),
    (lambda: TV(-0.1), "TV: weight"),
    (lambda: TV(0.1, max_iter=0), "TV: max_iter"),
    (lambda: TV(0.1, tol=-1.0), "TV: tol"),
    (lambda: TV(0.1, sigma=0.0), "TV: sigma"),
    (lambda: TV(0.1, axes=()), "TV: axes"),
    (lambda: TV(0.1, axes=(-1, -1)), "TV: axes"),
    (lambda: TV(0.1, axes=(0, 1)), "TV: axes"),
    (lambda: TV(0.1, spacing=(1.0,)), "TV: spacing"),
    (lambda: TV(0.1, spacing=(1.0, 0.0)), "TV: spacing"),
])
def test_wrong_settings_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_sirt_refuses_what_is_no_projector():
    for dtype, reason in ((torch.float64, "negative"), (torch.complex128, "complex")):
        with pytest.raises(InputError, match=reason):
            SIRT()(Problem(random_image((12,), dtype), random_operator(12, (4, 4), dtype)))


def test_l1_wavelet_refuses_an_image_with_too_few_axes():
    with pytest.raises(InputError, match="ndim"):
        L1Wavelet(0.1, ndim=3)(Problem(random_image((12,)), random_operator(12, (4, 4))))
