"""The Jacobian of a denoiser: the closed form, and the same in parts, in the memory of one."""

import pytest
import torch

from medinv.priors import (
    ContextPrior,
    GaussianPrior,
    NetworkPrior,
    PatchPrior,
    SlicePrior,
    UNet,
    linearize,
)
from medinv.priors.batches import limit_chunks
from medinv.resources import TensorCount
from tests.solvers.matrix_operator import random_image

SINGLE, DOUBLE = torch.float32, torch.float64


def network(context=0):
    torch.manual_seed(0)
    unet = UNet(1, (16, 32), (1, 1), 16, context=context)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return NetworkPrior(unet, 0.5).eval().requires_grad_(False)


def of_patches():
    return PatchPrior(lambda x, sigma, where: (x + where[:, 0]).tanh(), 4, 32)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128])
def test_of_a_gaussian_it_is_the_closed_form_and_may_be_applied_again(dtype):
    factor = random_image((6, 6), dtype)
    covariance = factor @ factor.mH
    prior = GaussianPrior(random_image((2, 3), dtype), covariance)
    x, v = random_image((4, 2, 3), dtype), random_image((4, 2, 3), dtype, seed=2)
    D, vjp = linearize(prior, x, 0.7)
    torch.testing.assert_close(D, prior(x, 0.7))
    J = covariance @ torch.linalg.inv(covariance + 0.49 * torch.eye(6, dtype=dtype))
    for w in (v, 2 * v):
        torch.testing.assert_close(vjp(w).flatten(1), w.flatten(1) @ J.conj())


@pytest.mark.parametrize("make", [
    network, of_patches, lambda: SlicePrior(network()),
    lambda: ContextPrior(network(3), random_image((5, 3), SINGLE), 2.0),
], ids=["network", "patches", "slices", "context"])
def test_parts_change_nothing(make):
    x, v = random_image((5, 8, 8), SINGLE), random_image((5, 8, 8), SINGLE, seed=2)
    D, vjp = linearize(make(), x, 0.7)
    prior = make()
    limit_chunks(prior, 2)
    in_parts, vjp_in_parts = linearize(prior, x, 0.7)
    # sums of a network's layers in another order
    torch.testing.assert_close(in_parts, D, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vjp_in_parts(v), vjp(v), rtol=1e-4, atol=1e-5)


def test_memory_is_that_of_one_part():
    def peak(n, chunk):
        prior = network()
        prior.chunk = chunk
        x = random_image((n, 32, 32), SINGLE)
        with TensorCount() as count:
            D, vjp = linearize(prior, x, 1.0)
            vjp(D)
        return count.peak_bytes

    assert peak(16, 4) < 1.2 * peak(4, 4)
    assert peak(16, 16) > 3 * peak(4, 4)
