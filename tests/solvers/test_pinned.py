"""What every public solver returns on small fixed cases, so that a change of structure shows.

The values were computed on one CPU. Another rounds random numbers, transforms and sums
differently: in double precision that is far below 1e-6 of the image, in single precision (networks
and ASTRA) below 1e-3, also after an optimiser's steps.
"""

import math

import pytest
import torch

from medinv.guidance import Adaptation
from medinv.operators import CartesianMRI, ConeBeam, ParallelBeam
from medinv.priors import GaussianPrior, NetworkPrior, ProductPrior, SlicePrior, UNet
from medinv.priors.edm import set_precision
from medinv.problem import Problem
from medinv.solvers import (
    CGLS,
    CGSENSE,
    DDIP,
    DDS,
    FBP,
    FDK,
    OSEM,
    SART,
    SCD,
    SIRT,
    TPDM,
    TV,
    DiffusionMBIR,
    L1Wavelet,
    PaDIS,
    ZeroFilled,
)
from tests.solvers.matrix_operator import random_image, random_operator

DOUBLE, SINGLE = torch.float64, torch.float32
NOISE = 0.1
ADAPTATION = Adaptation(rank=2, inner_steps=2, slices=2)


def gaussian(shape, dtype=DOUBLE):
    n = math.prod(shape)
    factor = random_image((n, n), dtype, seed=5) / n**0.5
    return GaussianPrior(random_image(shape, dtype, seed=6), factor @ factor.mH)


def network():
    torch.manual_seed(0)
    unet = UNet(1, widths=(16, 16), blocks=(1, 1), embedding=16)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    prior = NetworkPrior(unet, 0.5).eval().requires_grad_(False)
    set_precision(prior, torch.float32)  # not every processor takes bfloat16 by itself
    return prior


def dense(dtype=DOUBLE):
    A = random_operator(7, (3, 4), dtype)
    return A(random_image((2, 3, 4), dtype)), A, gaussian((3, 4), dtype)


def scan():
    maps = random_image((3, 8, 8), torch.complex128, seed=2)
    maps = maps / torch.linalg.vector_norm(maps, dim=0)
    A = CartesianMRI(maps, torch.arange(8) % 3 != 1)
    return A(random_image((2, 8, 8), torch.complex128)), A, gaussian((8, 8), torch.complex128)


def planes():
    y, A, prior = dense()
    return y, A, ProductPrior([SlicePrior(prior), SlicePrior(gaussian((2, 4)), -2)])


def adapted():
    A = random_operator(20, (6, 8), SINGLE)
    return A(random_image((3, 6, 8), SINGLE)), A, network()


def rays():
    A = ParallelBeam((12, 12), torch.arange(10) * math.pi / 10, 1.5)
    return A(random_image((2, 12, 12), SINGLE).abs()), A, None


def cone():
    A = ConeBeam((6, 8, 8), torch.arange(12) * math.pi / 6, 2.0, 100.0, 50.0, 10, 14, 3.0, 3.0)
    return A(random_image((6, 8, 8), SINGLE).abs()), A, None


# name: problem, solver, tolerance, values
CASES = {
    "zero-filled": (scan, ZeroFilled(),
        1e-6, (8.41946206, 0.882335223, 3.79274089, -0.862329892, 9.13930687, 5.00975951)),
    "cg-sense": (scan, CGSENSE(),
        1e-6, (11.9516628, 4.64872513, 3.10486264, -4.08388583, 13.7787779, 8.12375542)),
    "l1-wavelet": (scan, L1Wavelet(weight=0.01, max_iter=20),
        1e-6, (11.6295282, 4.61625112, 3.15293546, -3.68494234, 13.449104, 8.08125723)),
    "cgls": (dense, CGLS(max_iter=5),
        1e-6, (2.33099182, 1.06763523, 0.00420627156, -0.359229799, 1.2560487, -3.50121742)),
    "sirt": (rays, SIRT(max_iter=5),
        1e-3, (14.892, 243.87, 2.4825, 1.4668, 1.4341, 2.6702)),
    "sart": (rays, SART(max_iter=2),
        1e-3, (15.417, 243.98, 3.8506, 1.6343, 1.5632, 3.666)),
    "osem": (rays, OSEM(max_iter=2),
        1e-3, (14.566, 243.88, 1.5628, 1.4371, 0.89003, 1.5686)),
    "tv": (rays, TV(weight=0.01, max_iter=20),
        1e-3, (15.298, 243.57, 4.7437, 1.6217, -1.7402, -0.67417)),
    "fbp": (rays, FBP(),
        1e-3, (14.974, 225.2, 5.7192, 0.8114, -0.57945, 3.0004)),
    "fdk": (cone, FDK(),
        1e-3, (16.974, 296.1, 0.72071, 2.4169, 4.6566, 2.8445)),
    "dds": (dense, DDS(steps=6),
        1e-6, (4.73008553, 4.14197628, 2.90502337, 2.55149136, 0.798036417, -0.723528928)),
    "dds-gamma": (scan, DDS(steps=6, gamma=3.0),
        1e-6, (11.6265002, 6.0629472, 2.15743719, -3.48317997, 12.4900926, 9.05070522)),
    "dds-noise": (dense, DDS(steps=6, noise_aware=True, ddim=True),
        1e-6, (4.45163484, 0.307411276, 3.15837285, 0.988051761, 0.838970227, -0.793778021)),
    "dds-noise-complex": (scan, DDS(steps=6, noise_aware=True),
        1e-6, (11.6053212, 7.28797609, 1.13413271, -3.66342459, 11.5748926, 8.19733619)),
    "dds-coupled": (scan, DDS(steps=6, noise_aware=True, z_weight=0.01, shared_noise=True),
        1e-6, (10.1907507, 3.86656296, 3.2510116, -1.7214552, 8.96277829, 9.10612056)),
    "padis": (scan, PaDIS(steps=6, inner_steps=2),
        1e-6, (74.6666583, -3.94497747, -38.552725, 20.0374234, 16.8467351, -44.9154695)),
    "tpdm": (planes, TPDM(steps=6, sigma_max=10.0),
        1e-6, (9.4937769, -15.964284, 1.88513688, -4.20566321, 1.97451834, 8.48323781)),
    "mbir": (dense, DiffusionMBIR(steps=6, z_weight=0.01, rho=0.1, sigma_max=10.0),
        1e-6, (6.49052886, 2.43671312, 6.55909063, -5.36921692, -1.08870415, 3.51345844)),
    "mbir-start": (scan, DiffusionMBIR(steps=6, axes=(-3, -1), sharing=False),
        1e-6, (11.8487011, 4.8436571, 2.33560454, -4.24464157, 12.2853255, 9.95481287)),
    "scd": (adapted, SCD(steps=4, adaptation=ADAPTATION),
        1e-3, (6.5012, -0.80387, -7.9838, -2.646, -4.0877, 0.3082)),
    "ddip": (adapted, DDIP(DDS(steps=4), ADAPTATION),
        1e-3, (8.344, 1.5871, -14.513, -7.454, -6.4905, 0.96949)),
}


def needs_prior(solver):
    return isinstance(solver, DDS | DDIP | DiffusionMBIR | PaDIS | SCD | TPDM)


def solve(make, solver):
    y, A, prior = make()
    if not needs_prior(solver):
        return solver(Problem(y, A))
    return solver(Problem(y, A, noise_std=NOISE), prior, rng=torch.Generator().manual_seed(0))


def signature(x):
    """Six numbers of an image: its norm, and its inner products with fixed patterns."""
    values = torch.view_as_real(x) if x.is_complex() else x
    flat = values.flatten().to(DOUBLE)
    index = torch.arange(flat.numel(), dtype=DOUBLE)
    patterns = torch.stack([(index * k).cos() for k in (0.0, 0.7, 1.1, 1.9, 2.6)])
    return torch.cat([flat.norm()[None], patterns @ flat])


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_before(name):
    make, solver, tolerance, values = CASES[name]
    got = signature(solve(make, solver))
    expected = torch.tensor(values, dtype=DOUBLE)
    assert float((got - expected).abs().max()) <= tolerance * max(1, float(expected[0]))
