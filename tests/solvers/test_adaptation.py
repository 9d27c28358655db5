"""Low-rank test-time adaptation: identities, gradients, the guard; what DDIP and SCD return."""

from dataclasses import replace

import pytest
import torch

from medinv.errors import InputError
from medinv.guidance import Adaptation, AdaptedPrior
from medinv.operators import CartesianMRI
from medinv.priors import NetworkPrior, ProductPrior, SlicePrior, UNet
from medinv.priors.edm import set_precision
from medinv.priors.lora import adaptable_copy
from medinv.problem import Problem
from medinv.solvers import DDIP, DDS, SCD
from tests.solvers.matrix_operator import MatrixOperator, random_image, random_operator

SINGLE = torch.float32


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network_prior(*, complex_images=False):
    """A small prior whose every weight matters: an untrained network's last layers are 0."""
    torch.manual_seed(0)
    network = UNet(2 if complex_images else 1, widths=(16, 32), blocks=(1, 1), embedding=16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    prior = NetworkPrior(network, 0.5, complex_images=complex_images)
    set_precision(prior, torch.float32)  # bfloat16 would hide what differs by less than 0.4 %
    return prior.eval().requires_grad_(False)


def slices(n=4, dtype=SINGLE, rows=20):
    A = random_operator(rows, (6, 8), dtype)
    return A, A(random_image((n, 6, 8), dtype))


# --- the adaptable copy ----------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda p: p, SlicePrior], ids=["plain", "slices"])
def test_the_copy_denoises_as_the_prior_until_it_is_trained(wrap):
    prior = wrap(network_prior())
    weights = {key: value.clone() for key, value in prior.state_dict().items()}
    copied, trainable = adaptable_copy(prior, 4, rng=seeded())
    x = random_image((3, 6, 8), SINGLE)
    torch.testing.assert_close(copied(x, 0.4), prior(x, 0.4))  # sums may run in another order
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    for _ in range(2):  # the first step only moves `up` from 0
        optimizer.zero_grad()
        copied(x, 0.4).square().sum().backward()
        optimizer.step()
    assert not torch.allclose(copied(x, 0.4), prior(x, 0.4))
    assert all(parameter.grad.abs().max() > 0 for parameter in trainable)
    assert all(torch.equal(value, prior.state_dict()[key]) for key, value in weights.items())


def test_what_is_adapted_can_be_chosen():
    prior = network_prior()
    everything = adaptable_copy(prior, 4)[1]
    without_biases = adaptable_copy(prior, 4, biases=False)[1]
    blocks = adaptable_copy(prior, 4, targets=("conv1",))[1]
    assert len(everything) > len(without_biases) > len(blocks) > 0
    with pytest.raises(InputError, match="no layer of NetworkPrior can take rank 4 among those"):
        adaptable_copy(prior, 4, targets=("attention",))
    with pytest.raises(InputError, match="rank of at least 1"):
        adaptable_copy(prior, 0)


# --- the loss --------------------------------------------------------------------------------


def refined(A, y, D, **settings):
    """``T`` from a given ``D``."""
    adapted = AdaptedPrior(network_prior(), Problem(y, A), Adaptation(inner_steps=0, **settings))
    return adapted._refine(D, adapted.y, adapted.seen)


def test_the_refined_image_and_its_gradient_are_those_of_the_dense_solution():
    """Unrolled conjugate gradients to convergence: (I + gamma A^H A)^-1 (D + gamma A^H y)."""
    A, y = slices(2, torch.float64)
    D = random_image((2, 6, 8), torch.float64, seed=5).requires_grad_()
    A1 = A.matrix / A.norm()
    normal = torch.eye(48, dtype=torch.float64) + 3 * A1.T @ A1
    side = D.flatten(1) + 3 * (y / A.norm()) @ A1
    dense = torch.linalg.solve(normal, side.T).T.reshape(D.shape)
    T = refined(A, y, D, gamma=3.0, cg_iter=30)
    torch.testing.assert_close(T, dense)
    v = random_image(D.shape, torch.float64, seed=6)
    expected, = torch.autograd.grad(dense, D, v, retain_graph=True)
    got, = torch.autograd.grad(T, D, v)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-8)


def test_the_refined_image_stays_where_one_step_solves_the_data():
    """Single-coil Cartesian data: A^H A is a projection, and further steps are rounding."""
    mask = torch.arange(64) % 2 == 0
    mask[28:36] = True
    A = CartesianMRI(torch.ones(1, 64, 64) + 0j, mask.expand(64, 64))
    D, x = random_image((2, 64, 64), torch.complex64)
    T = refined(A, A(x), D, cg_iter=5)
    torch.testing.assert_close(T, A.adjoint(A(x)) + D - A.normal(D), rtol=0, atol=1e-5)


def test_single_slices_are_denoised_as_in_their_volume():
    """By a product of two planes, the one across needs the slices in between."""
    A, y = slices(5)
    prior = ProductPrior([SlicePrior(network_prior()), SlicePrior(network_prior(), -2)])
    adapted = AdaptedPrior(prior, Problem(y, A), Adaptation(cg_iter=1))
    x, some = random_image((5, 6, 8), SINGLE, seed=2), torch.tensor([0, 2, 4])
    D, _, _ = adapted._estimate(x, 0.4, some)
    torch.testing.assert_close(D.detach(), prior(x, 0.4)[some])
    assert adapted._loss(x, 0.4, some).requires_grad


def test_the_loss_on_the_estimate_is_the_preconditioned_residual():
    """D - T = -gamma (I + gamma A^H A)^-1 A^H (y - A D), and nothing is learned through T."""
    A, y = slices(2)
    x, every = random_image((2, 6, 8), SINGLE, seed=2), torch.arange(2)
    settings = Adaptation(loss="estimate", gamma=3.0, cg_iter=40)
    adapted = AdaptedPrior(network_prior(), Problem(y, A), settings)
    D, T, _ = adapted._estimate(x, 0.4, every)
    assert D.requires_grad
    assert not T.requires_grad
    A1 = A.matrix / A.norm()
    residual = (y / A.norm() - D.detach().flatten(1) @ A1.T) @ A1
    step = 3 * torch.linalg.solve(torch.eye(48) + 3 * A1.T @ A1, residual.T).T
    torch.testing.assert_close(adapted._loss(x, 0.4, every), step.square().mean() / 0.4**2,
                               rtol=1e-3, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("loss", ["residual", "estimate"])
def test_the_loss_does_not_see_what_is_held_out(loss):
    A, y = slices(3)
    x, every = random_image((3, 6, 8), SINGLE, seed=2), torch.arange(3)
    settings = Adaptation(loss=loss, held_out=0.3, gamma=3.0, cg_iter=3)
    adapted = AdaptedPrior(network_prior(), Problem(y, A), settings)
    before, held_out = (look(x, 0.4, every) for look in (adapted._loss, adapted._held_out_loss))
    adapted.y = adapted.y + 100 * (1 - adapted.seen)
    torch.testing.assert_close(adapted._loss(x, 0.4, every), before)
    assert adapted._held_out_loss(x, 0.4, every) > 100 * held_out
    adapted.y = adapted.y + adapted.seen
    assert not torch.allclose(adapted._loss(x, 0.4, every), before, rtol=0.01)


def test_low_noise_levels_can_be_left_alone():
    A, y = slices(3)
    x = random_image((3, 6, 8), SINGLE, seed=2)
    adapted = AdaptedPrior(network_prior(), Problem(y, A),
                           Adaptation(inner_steps=1, sigma_min=0.3))

    def weights():
        return [parameter.clone() for parameter in adapted.trainable]

    start = weights()
    adapted(x, 0.3)
    adapted_once = weights()
    assert not all(torch.equal(a, b) for a, b in zip(start, adapted_once, strict=True))
    adapted(x, 0.29)
    assert all(torch.equal(a, b) for a, b in zip(adapted_once, weights(), strict=True))


def test_adaptation_lowers_the_residual_level_by_level():
    A, y = slices(3)
    x = random_image((3, 6, 8), SINGLE, seed=2)
    settings = Adaptation(inner_steps=20, slices=3, learning_rate=3e-3, gamma=1.0)
    adapted = AdaptedPrior(network_prior(), Problem(y, A), settings)
    losses = []
    for sigma in (0.5, 0.4, 0.3):
        every = torch.arange(3)
        before = adapted._loss(x, sigma, every).item()
        adapted(x, sigma)
        losses.append((before, adapted._loss(x, sigma, every).item()))
    assert all(after < before for before, after in losses)


def test_steps_that_hurt_held_out_measurements_are_undone_and_end_it():
    A, y = slices(3)
    x = random_image((3, 6, 8), SINGLE, seed=2)
    wild = Adaptation(inner_steps=3, learning_rate=30.0, gamma=1.0, held_out=0.3, patience=2)
    adapted = AdaptedPrior(network_prior(), Problem(y, A), wild)
    assert 0 < float(adapted.seen.mean()) < 1
    start = [parameter.clone() for parameter in adapted.trainable]
    for sigma in (0.5, 0.4, 0.3, 0.2):
        adapted(x, sigma)
    assert adapted.undone == 2  # and no more were tried
    assert all(torch.equal(a, b) for a, b in zip(adapted.trainable, start, strict=True))


def test_an_operator_on_the_volume_gives_what_slices_give():
    """A volume of one slice, once as a stack and once as the operator's own axis."""
    flat, y = slices(1)
    deep = MatrixOperator(flat.matrix, (1, 6, 8))
    settings = Adaptation(inner_steps=3)
    x = random_image((1, 6, 8), SINGLE, seed=2)
    stack = AdaptedPrior(network_prior(), Problem(y, flat), settings)(x, 0.5)
    volume = AdaptedPrior(network_prior(), Problem(y[0], deep), settings)(x, 0.5)
    torch.testing.assert_close(volume, stack, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("fields", "message"), [
    ({"rank": 0}, "rank: expected at least 1"),
    ({"learning_rate": 0.0}, "positive"),
    ({"held_out": 1.0}, "below 1"),
])
def test_wrong_settings(fields, message):
    with pytest.raises(InputError, match=message):
        Adaptation(**fields)


# --- DDIP ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [SINGLE, torch.complex64])
def test_without_inner_steps_it_is_the_wrapped_solver(dtype):
    A, y = slices(dtype=dtype)
    prior, solver = network_prior(complex_images=dtype.is_complex), DDS(steps=5)
    x = DDIP(solver, Adaptation(inner_steps=0))(Problem(y, A), prior, rng=seeded())
    expected = solver(Problem(y, A), prior, rng=seeded())
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-4)  # rounding, through 5 levels


def test_it_leaves_the_prior_as_it_was_and_repeats():
    A, y = slices()
    prior = network_prior()
    weights = {key: value.clone() for key, value in prior.state_dict().items()}
    solver = DDIP(DDS(steps=4), Adaptation(inner_steps=2, learning_rate=1e-2))
    x = solver(Problem(y, A), prior, rng=seeded())
    assert all(torch.equal(value, prior.state_dict()[key]) for key, value in weights.items())
    assert torch.equal(x, solver(Problem(y, A), prior, rng=seeded()))
    assert not torch.allclose(x, DDS(steps=4)(Problem(y, A), prior, rng=seeded()), atol=1e-4)


def test_volumes_of_a_batch_have_their_own_weights():
    A, y = slices()
    both = torch.stack([y, 2 * y.flip(0)])
    solver = DDIP(DDS(steps=3, eta=0.0), Adaptation(inner_steps=2, learning_rate=1e-2))
    rng = seeded()
    together = solver(Problem(both, A), network_prior(), rng=rng)
    assert together.shape == (2, 4, 6, 8)
    rng = seeded()
    for item, expected in zip(both, together, strict=True):
        torch.testing.assert_close(solver(Problem(item, A), network_prior(), rng=rng), expected)


# --- SCD -------------------------------------------------------------------------------------


def test_scd_without_inner_steps_estimates_as_dds_does():
    A, y = slices()
    prior, seen, expected = network_prior(), [], []
    plain = Adaptation(inner_steps=0, cg_iter=3)
    SCD(steps=5, adaptation=plain, eta=0.2)(
        Problem(y, A), prior, rng=seeded(), on_step=lambda i, T: seen.append(T))
    DDS(steps=5, eta=0.2, ddim=True, cg_iter=3)(
        Problem(y, A), prior, rng=seeded(), on_step=lambda i, T: expected.append(T.clone()))
    for T, x0 in zip(seen, expected, strict=True):
        torch.testing.assert_close(T, x0, rtol=1e-3, atol=1e-4)  # rounding, amplified by 5 levels


def test_scd_returns_the_denoised_image():
    """Not ``T``, which is nearer to the data but keeps the noise of what was not measured."""
    A, y = slices()
    prior, seen = network_prior(), []
    x = SCD(steps=1, adaptation=Adaptation(inner_steps=0))(
        Problem(y, A), prior, rng=seeded(), on_step=lambda i, T: seen.append(T.clone()))
    D = prior(10 * torch.randn(4, 6, 8, generator=seeded()), 10.0)
    torch.testing.assert_close(x, D)
    assert not torch.allclose(x, seen[0], atol=1e-3)


def test_scd_adapts_and_repeats():
    A, y = slices()
    solver = SCD(steps=6, adaptation=Adaptation(inner_steps=2, every=2, learning_rate=1e-2))
    x = solver(Problem(y, A), network_prior(), rng=seeded())
    assert torch.equal(x, solver(Problem(y, A), network_prior(), rng=seeded()))
    frozen = SCD(steps=6, adaptation=Adaptation(inner_steps=0))
    assert not torch.allclose(x, frozen(Problem(y, A), network_prior(), rng=seeded()), atol=1e-4)


def test_scd_takes_one_volume():
    A, y = slices()
    with pytest.raises(InputError, match="one image or volume"):
        SCD()(Problem(torch.stack([y, y]), A), network_prior())


def test_scd_with_its_own_settings_smooths_its_estimate():
    """The published defaults have a total variation, whose gradient passes through ``T``."""
    A, y = slices()
    x = SCD(steps=3)(Problem(y, A), network_prior(), rng=seeded())
    plain = replace(SCD().adaptation, tv_weight=0.0)
    assert not torch.equal(x, SCD(steps=3, adaptation=plain)(Problem(y, A), network_prior(),
                                                             rng=seeded()))
