"""One's own denoiser as a prior; data in double precision; what solvers refuse."""

import subprocess
import sys

import pytest
import torch

from medinv.errors import InputError, NumericalError, ShapeError
from medinv.priors import (
    DenoiserPrior,
    GaussianPrior,
    NetworkPrior,
    PatchPrior,
    SlicePrior,
    UNet,
)
from medinv.problem import Problem
from medinv.solvers import DDS, SCD, PaDIS
from tests.solvers.matrix_operator import random_image, random_operator

SINGLE = torch.float32


def gaussian(x, sigma):
    return x / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


@pytest.mark.parametrize("dtype", [SINGLE, torch.complex64])
def test_it_is_the_prior_of_its_denoiser(dtype):
    """Solvers return what they return for the same prior in closed form."""
    A = random_operator(20, (4, 6), dtype)
    y = A(random_image((3, 4, 6), dtype))
    own = DenoiserPrior(gaussian, complex_images=dtype.is_complex, chunk=2)
    exact = GaussianPrior(torch.zeros(4, 6, dtype=dtype), torch.eye(24, dtype=dtype))
    for solver in (DDS(steps=4, noise_aware=True), PaDIS(steps=3)):
        problem = Problem(y, A, noise_std=0.1)
        got, wanted = (solver(problem, prior, rng=torch.Generator().manual_seed(0))
                       for prior in (own, exact))
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
    levels = torch.tensor([0.1, 1.0, 3.0])
    x = random_image((3, 4, 6), dtype)
    torch.testing.assert_close(own(x, levels), gaussian(x, levels))
    torch.testing.assert_close(SlicePrior(own, -1)(x, 0.5), x / 1.25)


def test_modules_errors_and_volumes():
    module = torch.nn.Module()
    module.gain = torch.nn.Parameter(torch.tensor(0.5))
    module.forward = lambda x, sigma: module.gain * x  # noqa: ARG005
    prior = DenoiserPrior(module, error_std=lambda sigma: 0.1 * sigma)
    assert [name for name, _ in prior.named_parameters()] == ["denoise.gain"]
    assert not module.training
    assert prior.error_variance(2.0) == pytest.approx(0.04)
    volumes = DenoiserPrior(gaussian, ndim=3)
    x = random_image((2, 3, 4, 5), SINGLE)
    torch.testing.assert_close(volumes(x, torch.tensor([0.0, 1.0])),
                               torch.stack([x[0], x[1] / 2]))


@pytest.mark.parametrize("denoise", [lambda x, s: x[0], lambda x, s: x.double(),  # noqa: ARG005
                                     lambda x, s: None])  # noqa: ARG005
def test_a_denoiser_returns_images_like_its_own(denoise):
    with pytest.raises(ShapeError, match=r"like its input, got"):
        DenoiserPrior(denoise)(torch.zeros(2, 4, 4), 1.0)


def test_what_is_no_denoiser():
    with pytest.raises(InputError, match="pass it as it is"):
        DenoiserPrior(DenoiserPrior(gaussian))
    with pytest.raises(InputError, match="2 or 3 axes"):
        DenoiserPrior(gaussian, ndim=4)


WRONG_CALLS = """
import torch
from medinv.errors import CheckpointError, InputError
from medinv.operators import Identity, Magnitude
from medinv.priors import DenoiserPrior
from medinv.problem import Problem
from medinv.solvers import *

A = Identity((4, 6))
y, F = A(torch.ones(4, 6)), Magnitude(A)
for solver in (DDS(), DDIP(), SCD(), PaDIS(), DiffusionMBIR()):
    for prior in (lambda x, sigma: x, torch.nn.Identity(), None):
        try:
            solver(Problem(y, A), prior)
        except CheckpointError as error:
            assert "wrap a denoiser" in str(error), error
        else:
            raise AssertionError(solver)
own = DenoiserPrior(lambda x, sigma: x)
for solver in (DDS(), DDIP(), SCD(), DiffusionMBIR(), CGLS(), CGSENSE(), TV(0.1),
               L1Wavelet(0.1), SIRT(), ZeroFilled()):
    try:
        solver(Problem(y, F),
               *([own] if hasattr(solver, "sigma_max") or hasattr(solver, "adaptation")
                       else []))
    except InputError as error:
        assert "expected a linear operator, got Magnitude" in str(error), error
    else:
        raise AssertionError(solver)
"""


def test_solvers_say_how_a_function_becomes_a_prior_and_refuse_nonlinear_operators():
    """In a process of its own, without the type checker of the tests."""
    subprocess.run([sys.executable, "-c", WRONG_CALLS], check=True)


@pytest.mark.parametrize("complex_images", [False, True])
@pytest.mark.parametrize("patches", [False, True])
def test_double_precision_data_go_through_a_network(complex_images, patches):
    torch.manual_seed(0)
    network = UNet(2 if complex_images else 1, (16, 32), (1, 1), 16,
                   extra_channels=2 if patches else 0)
    prior = NetworkPrior(network, 0.5, complex_images=complex_images).requires_grad_(False)
    if patches:
        prior = PatchPrior.from_network(prior, 4, 8)
    double = torch.complex128 if complex_images else torch.float64
    x = random_image((2, 6, 8), double)
    D = prior(x, 0.4)
    assert D.dtype == double
    single = prior(x.to(prior.dtype), 0.4)
    if not patches:  # the shift of the tiling hangs on the last bit
        torch.testing.assert_close(D.to(prior.dtype), single)
    A = random_operator(20, (6, 8), double)
    for solver in (DDS(steps=2), PaDIS(steps=2), SCD(steps=2)):
        assert solver(Problem(A(x), A), prior,
                      rng=torch.Generator().manual_seed(0)).dtype == double


def test_a_solver_ends_where_the_image_is_no_longer_finite():
    A = random_operator(20, (4, 6), SINGLE)
    broken = DenoiserPrior(lambda x, sigma: x / (sigma < 5).reshape(-1, 1, 1).logical_not())
    with pytest.raises(NumericalError, match="step 2 of 3"):
        DDS(steps=3)(Problem(A(random_image((4, 6), SINGLE)), A), broken)
