"""Solvers on priors that see neighbouring slices: taps and slabs, real and complex."""

import pytest
import torch

from medinv.guidance import Adaptation
from medinv.priors import DepthPrior, SlabPrior
from medinv.problem import Problem
from medinv.solvers import DDIP, DDS, DiffusionMBIR, PaDIS
from tests.priors.volume_networks import network_of_slabs, network_of_taps
from tests.solvers.matrix_operator import random_image, random_operator

PRIORS = {
    "taps": lambda **kind: DepthPrior(network_of_taps(**kind)),
    "slabs": lambda **kind: SlabPrior.from_network(network_of_slabs(**kind)),
}
SOLVERS = {
    "DDS": DDS(steps=3), "DDS, noise": DDS(steps=3, noise_aware=True, z_weight=1e-3),
    "DiffusionMBIR": DiffusionMBIR(steps=2), "PaDIS": PaDIS(steps=2, inner_steps=2),
    "DDIP": DDIP(DDS(steps=2), Adaptation(rank=2, inner_steps=1)),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("complex_images", [False, True])
@pytest.mark.parametrize("prior", PRIORS)
def test_a_volume_of_slices_that_are_measured_one_by_one(prior, complex_images, solver):
    prior = PRIORS[prior](complex_images=complex_images)
    A = random_operator(20, (6, 7), prior.dtype)
    problem = Problem(A(random_image((5, 6, 7), prior.dtype)), A, noise_std=0.1)
    draws = [SOLVERS[solver](problem, prior, rng=torch.Generator().manual_seed(0))
             for _ in range(2)]
    assert draws[0].shape == (5, 6, 7)
    assert torch.equal(*draws)
    assert draws[0].isfinite().all()


@pytest.mark.parametrize("prior", PRIORS)
def test_a_volume_that_is_measured_as_one(prior):
    prior = PRIORS[prior]()
    A = random_operator(60, (4, 5, 6), torch.float32)
    x = DDS(steps=3)(Problem(A(random_image((4, 5, 6), torch.float32)), A), prior,
                     rng=torch.Generator().manual_seed(0))
    assert x.shape == (4, 5, 6)
    assert x.isfinite().all()
