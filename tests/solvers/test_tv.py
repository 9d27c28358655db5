"""Total variation against closed forms, optimality conditions and a reference solver."""

import pytest
import torch
from matrix_operator import MatrixOperator, random_image, random_operator
from scipy.optimize import minimize

from medinv.errors import InputError
from medinv.problem import Problem
from medinv.solvers import TV, total_variation

DTYPES = [torch.float64, torch.complex128]


def identity(shape, dtype=torch.float64):
    return MatrixOperator(torch.eye(torch.Size(shape).numel(), dtype=dtype), shape)


def objective(x, y, A, solver):
    """What `TV` says it minimises."""
    squared_norm = A.norm() ** 2
    weight = solver.weight * A.adjoint(y).abs().max() / squared_norm
    tv = total_variation(x, solver.axes, spacing=solver.spacing, isotropic=solver.isotropic)
    return (0.5 * (A(x) - y).norm() ** 2 / squared_norm + weight * tv).item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [0.1, 0.9])
def test_two_pixels_move_towards_each_other_by_the_weight(dtype, weight):
    """prox of w |x1 - x0|: both move by w, and meet at their mean if they are closer than 2 w."""
    direction = torch.tensor(1 if dtype == torch.float64 else 0.6 + 0.8j, dtype=dtype)
    y = torch.tensor([0.0, 1.0], dtype=dtype) * direction
    shift = min(weight, 0.5)
    expected = torch.tensor([shift, 1 - shift], dtype=dtype) * direction
    x = TV(weight, max_iter=300, axes=(-1,))(Problem(y, identity((2,), dtype)))
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)


def test_a_1d_step_keeps_its_edge_and_loses_contrast():
    """Taut string: plateaus of lengths n and m of a step move by weight / n and weight / m."""
    y = torch.cat([torch.zeros(8), torch.ones(4)]).double()
    expected = torch.cat([torch.full((8,), 0.2 / 8), torch.full((4,), 1 - 0.2 / 4)]).double()
    x = TV(0.2, max_iter=500, axes=(-1,), sigma=1.0)(Problem(y, identity((12,))))
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize(("shape", "axes", "spacing"), [
    ((5, 6), (-2, -1), None), ((3, 4, 5), (-3, -2, -1), (2.5, 1.0, 0.7)),
])
def test_denoising_satisfies_the_optimality_conditions(dtype, isotropic, shape, axes, spacing):
    """For A = I: the duality gap is closed and the residual is dual feasible."""
    y = random_image(shape, dtype)
    solver = TV(0.1, max_iter=1000, axes=axes, spacing=spacing, isotropic=isotropic, sigma=1.0)
    values = []
    A = identity(shape, dtype)
    x = solver(Problem(y.flatten(), A), on_step=lambda i, x: values.append(
        objective(x, y.flatten(), A, solver)))
    # At the optimum <x, y - x> = weight TV(x), and |<z, y - x>| <= weight TV(z) for every z.
    weight = 0.1 * y.abs().max()
    residual = y - x

    def tv(z):
        return total_variation(z, axes, spacing=spacing, isotropic=isotropic)

    inner = torch.vdot(x.flatten(), residual.flatten()).real
    assert inner.item() == pytest.approx((weight * tv(x)).item(), rel=1e-4)
    for seed in range(5):
        z = random_image(shape, dtype, seed)
        assert torch.vdot(z.flatten(), residual.flatten()).abs() <= weight * tv(z) * (1 + 1e-4)
    assert values[-1] <= min(values) * (1 + 1e-6)


@pytest.mark.parametrize("isotropic", [True, False])
def test_reconstruction_reaches_the_objective_of_a_reference_solver(isotropic):
    """A smooth majorant of the same objective, minimised by L-BFGS, bounds ours from above."""
    A, shape = random_operator(14, (4, 5)), (4, 5)
    y = random_image((14,))
    solver = TV(0.05, max_iter=3000, isotropic=isotropic)
    squared_norm = A.norm() ** 2
    weight = 0.05 * A.adjoint(y).abs().max() / squared_norm

    def smooth(flat):
        x = torch.tensor(flat).requires_grad_()
        image = x.reshape(shape)
        down = torch.diff(image, dim=0, append=image[-1:]).square()
        right = torch.diff(image, dim=1, append=image[:, -1:]).square()
        parts = down + right if isotropic else torch.stack([down, right])
        value = 0.5 * (A.matrix @ x - y).square().sum() / squared_norm
        value = value + weight * (parts + 1e-12).sqrt().sum()
        (gradient,) = torch.autograd.grad(value, x)
        return value.item(), gradient.numpy()

    reference = minimize(smooth, torch.zeros(20, dtype=torch.float64).numpy(), jac=True,
                         method="L-BFGS-B", options={"maxiter": 5000, "maxfun": 20000})
    # The smoothing adds at most weight * 40 * 1e-6; L-BFGS itself stops short of the optimum.
    assert objective(solver(Problem(y, A)), y, A, solver) <= reference.fun + 1e-9
    assert objective(solver(Problem(y, A)), y, A, solver) == pytest.approx(reference.fun, rel=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_weight_is_least_squares(dtype):
    A, y = random_operator(60, (4, 4), dtype), random_image((60,), dtype)
    expected = torch.linalg.lstsq(A.matrix, y[:, None]).solution.reshape(4, 4)
    x = TV(0.0, max_iter=500)(Problem(y, A))
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-8)


def test_nonnegative_least_squares_satisfies_the_optimality_conditions():
    A, y = random_operator(60, (4, 4)), random_image((60,))
    x = TV(0.0, max_iter=1000, nonnegative=True)(Problem(y, A))
    gradient = A.adjoint(A(x) - y)
    assert (x >= 0).all()
    assert (gradient > -1e-8).all()
    assert (x * gradient).abs().max() < 1e-8


def test_sigma_changes_the_path_and_not_the_goal():
    A, y = random_operator(14, (4, 5)), random_image((14,))
    a, b = (objective(TV(0.05, 3000, sigma=s)(Problem(y, A)), y, A, TV(0.05)) for s in (0.03, 1.0))
    assert a == pytest.approx(b, rel=1e-6)


def test_3d_couples_slices_that_were_measured_one_by_one():
    """3D TV of a stack equals 3D TV of the same problem posed as one volume."""
    A = random_operator(10, (3, 4))
    stack = MatrixOperator(torch.block_diag(*[A.matrix] * 5), (5, 3, 4))
    y = random_image((5, 10))
    solver = TV(0.05, max_iter=50, axes=(-3, -2, -1))
    expected = solver(Problem(y.flatten(), stack))
    # Both run 50 steps; the norms come from power iterations with different starts.
    torch.testing.assert_close(solver(Problem(y, A)), expected, rtol=0, atol=1e-3)
    assert (TV(0.05, max_iter=50)(Problem(y, A)) - expected).abs().max() > 1e-2


def test_volumes_of_a_batch_do_not_influence_each_other():
    A = random_operator(10, (3, 4))
    y = random_image((2, 5, 10))
    y[1] *= 100
    solver = TV(0.05, max_iter=200, tol=1e-3, axes=(-3, -2, -1), nonnegative=True)
    together = solver(Problem(y, A))
    for item in (0, 1):
        torch.testing.assert_close(together[item], solver(Problem(y[item], A)), rtol=1e-9,
                                   atol=1e-9)


def test_tolerance_stops_early_and_near_the_solution():
    A, y = random_operator(14, (4, 5)), random_image((14,))
    steps = []
    x = TV(0.05, 3000, tol=1e-5)(Problem(y, A), on_step=lambda i, x: steps.append(i))
    assert 5 < len(steps) < 2000
    best = TV(0.05, 3000)(Problem(y, A))
    assert objective(x, y, A, TV(0.05)) == pytest.approx(objective(best, y, A, TV(0.05)), rel=1e-3)


def test_slabs_do_not_change_the_result(monkeypatch):
    """An image of many slabs, and of one, in every choice of the slabs' axis."""
    y, A = random_image((6 * 7 * 8,)), identity((6, 7, 8))
    for axes in ((-3, -2, -1), (-1, -3, -2), (-2, -1)):
        solver = TV(0.1, max_iter=5, axes=axes)
        whole = solver(Problem(y, A))
        with monkeypatch.context() as patch:
            patch.setattr("medinv.solvers.tv._SLAB", 100)
            torch.testing.assert_close(solver(Problem(y, A)), whole)


def test_total_variation_of_a_known_image():
    x = torch.zeros(2, 3, 3)
    x[:, 1, 1] = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(total_variation(x, items=1), torch.tensor([1.0, 2.0]) * (2 + 2**.5))
    torch.testing.assert_close(total_variation(x, isotropic=False), torch.tensor(12.0))
    torch.testing.assert_close(
        total_variation(x, spacing=(1.0, 4.0), isotropic=False), torch.tensor(6 + 6 / 4))


def test_an_image_that_does_not_fit_is_refused():
    A, y = random_operator(10, (3, 4)), random_image((10,))
    with pytest.raises(InputError, match=r"TV: axes: expected axes of an image \(3, 4\)"):
        TV(0.1, axes=(-3, -2, -1))(Problem(y, A))
    A, y = random_operator(10, (3, 4), torch.complex128), random_image((10,), torch.complex128)
    with pytest.raises(InputError, match="TV: nonnegative"):
        TV(0.1, nonnegative=True)(Problem(y, A))
