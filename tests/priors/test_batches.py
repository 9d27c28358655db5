"""A network that refuses large batches: the run goes on with smaller ones, to the same image."""

import pytest
import torch

from medinv.guidance import Adaptation, denoise_with_residual_gradient
from medinv.priors import NetworkPrior, PatchPrior, ProductPrior, SlicePrior
from medinv.priors.batches import halving
from medinv.problem import Problem
from medinv.solvers import DDIP, DDS, TPDM
from tests.solvers.matrix_operator import random_image, random_operator

ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    MemoryError(),
]


class Refusing(torch.nn.Module):
    """A network with room for a few images."""

    def __init__(self, room, error=ERRORS[0]):
        super().__init__()
        self.room, self.error, self.batches = room, error, []
        self.layer = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1),
                                         torch.nn.Conv2d(8, 1, 3, padding=1))
        self.layer.requires_grad_(False)

    def forward(self, x, noise):  # noqa: ARG002
        self.batches.append(len(x))
        if len(x) > self.room:
            raise self.error
        return self.layer(x)


def network_prior(room, chunk=8, error=ERRORS[0]):
    torch.manual_seed(0)
    return NetworkPrior(Refusing(room, error), 0.5, chunk=chunk)


@pytest.mark.parametrize("error", ERRORS, ids=["device", "linux", "windows", "python"])
@torch.no_grad()
def test_batches_are_halved_until_they_fit_and_stay_small(error):
    x = random_image((11, 6, 8), torch.float32)
    prior = network_prior(3, error=error)
    torch.testing.assert_close(prior(x, 0.3), network_prior(99)(x, 0.3))
    assert prior.chunk == 2
    prior.network.batches.clear()
    prior(x, 0.3)
    assert prior.network.batches == [2, 2, 2, 2, 2, 1]  # none is tried in vain


@torch.no_grad()
def test_slices_and_patches():
    volume = random_image((9, 6, 8), torch.float32)

    def denoiser(patches, sigma, where):  # noqa: ARG001
        if len(patches) > 5:
            raise MemoryError
        return 0.5 * patches

    prior = PatchPrior(denoiser, 4, 8)
    torch.testing.assert_close(prior(volume, 0.1), 0.5 * volume)
    assert prior.chunk == 4
    slices = SlicePrior(network_prior(1), -1)
    expected = SlicePrior(network_prior(99), -1)(volume, 0.3)
    torch.testing.assert_close(slices(volume, 0.3), expected)
    assert slices.prior.chunk == 1


@torch.no_grad()
def test_what_does_not_fit_at_all_and_other_errors_pass():
    x = random_image((4, 6, 8), torch.float32)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        network_prior(0)(x, 0.3)
    prior = network_prior(0, error=RuntimeError("sizes differ"))
    with pytest.raises(RuntimeError, match="sizes differ"):
        prior(x, 0.3)
    assert prior.chunk == 8
    with pytest.raises(ValueError, match="no error of memory"):
        halving(prior, lambda: (_ for _ in ()).throw(ValueError("no error of memory")))


@torch.no_grad()
def test_gradients_are_taken_anew():
    """The error may come in the forward or, of recomputed slices, in the backward pass."""
    A = random_operator(20, (6, 8), torch.float32)
    x = random_image((9, 6, 8), torch.float32)
    y = A(0 * x)
    wanted = denoise_with_residual_gradient(SlicePrior(network_prior(99)), x, 0.3, y, A)
    for room in (3, 1):
        prior = SlicePrior(network_prior(room))
        got = denoise_with_residual_gradient(prior, x, 0.3, y, A)
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b)


class RefusingBackward(Refusing):
    """Room for the forward pass, but not for its recomputation on the way back."""

    def forward(self, x, noise):
        if torch.is_grad_enabled() and len(x) > self.room and len(self.batches) > 2:
            raise self.error
        self.batches.append(len(x))
        return self.layer(x)


@torch.no_grad()
def test_out_of_memory_in_the_backward_pass():
    A = random_operator(20, (6, 8), torch.float32)
    x = random_image((9, 6, 8), torch.float32)
    torch.manual_seed(0)
    prior = SlicePrior(NetworkPrior(RefusingBackward(3), 0.5, chunk=8))
    wanted = denoise_with_residual_gradient(SlicePrior(network_prior(99)), x, 0.3, A(0 * x), A)
    got = denoise_with_residual_gradient(prior, x, 0.3, A(0 * x), A)
    assert prior.prior.chunk == 2
    torch.testing.assert_close(got[1], wanted[1])


def test_solvers_go_on():
    A = random_operator(20, (6, 8), torch.float32)
    y = A(random_image((5, 6, 8), torch.float32))
    cases = [
        (DDS(steps=3), lambda prior: prior),
        (DDIP(DDS(steps=3), Adaptation(rank=2, inner_steps=1, slices=4)), lambda p: p),
        (TPDM(steps=3), lambda prior: ProductPrior([SlicePrior(prior), SlicePrior(prior, -2)])),
    ]
    for solver, wrap in cases:
        images = [solver(Problem(y, A), wrap(network_prior(room)),
                         rng=torch.Generator().manual_seed(0))
                  for room in (99, 2)]
        torch.testing.assert_close(*images)
