"""How many volumes a solver keeps alive at once, beside its operator and its measurement.

At most ten, so that a volume of 256^3 voxels, 64 MiB in single precision, needs no more than
640 MiB. Counted on a smaller one, for CT with more slices than its operator takes at once. The
priors are one multiplication: what a network needs for its batch of slices does not grow with the
volume. For TPDM that includes the graph of the data gradient, with slices computed again, and its
arrays of the measurement's size, of which this CT's are small.
"""

import math

import pytest
import torch

from medinv.operators import CartesianMRI, ParallelBeam
from medinv.priors import IntensityScale, Prior, ProductPrior, SlicePrior
from medinv.problem import Problem
from medinv.resources import TensorCount
from medinv.solvers import DDS, TPDM, DiffusionMBIR, PaDIS

CT_SHAPE, MRI_SHAPE = (128, 16, 16), (8, 16, 16)
COUPLED = {"z_weight": 1e-3, "rho": 0.01}
NOISY = {"noise_aware": True, "gamma": 30.0}


class Shrink(Prior):
    """The denoiser of white noise."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.dtype, self.ndim, self.scale = dtype, 2, IntensityScale(0.02)

    def forward(self, x, sigma):
        return x / (1 + float(sigma) ** 2)


def ct():
    A = ParallelBeam(CT_SHAPE[1:], torch.arange(4) * math.pi / 4, 2.8)
    return A, torch.ones(CT_SHAPE)


def mri():
    maps = torch.full((2, *MRI_SHAPE[1:]), 0.5**0.5, dtype=torch.complex64)
    return CartesianMRI(maps, torch.arange(16) % 2 == 0), torch.ones(MRI_SHAPE) + 0j


CASES = {
    "dds": (ct, DDS(steps=2)),
    "dds-noisy": (ct, DDS(steps=2, **NOISY)),
    "dds-coupled": (ct, DDS(steps=2, **COUPLED, **NOISY)),
    "dds-coupled-mri": (mri, DDS(steps=2, **COUPLED, **NOISY)),
    "mbir": (ct, DiffusionMBIR(steps=2)),
    "mbir-mri": (mri, DiffusionMBIR(steps=2)),
    "mbir-all-axes": (ct, DiffusionMBIR(steps=2, axes=(-3, -2, -1))),
    "tpdm": (ct, TPDM(steps=2)),
    "padis": (ct, PaDIS(steps=2, inner_steps=2)),
}


@pytest.mark.parametrize("name", CASES)
def test_at_most_ten_volumes_are_alive(name):
    make, solver = CASES[name]
    A, x = make()
    y = A(0.02 * x)
    A.norm()  # the operator's own memory is not the solver's
    prior = Shrink(x.dtype)
    if isinstance(solver, TPDM):
        prior = ProductPrior([SlicePrior(prior), SlicePrior(prior, -2)])
    with TensorCount() as count:
        solver(Problem(y, A, noise_std=0.01), prior)
    volumes = count.peak_bytes / (x.numel() * x.element_size())
    assert 4 < volumes <= 10


def test_the_count_sees_what_is_alive_and_no_more():
    with TensorCount() as count:
        x = torch.zeros(1000)
        view, same = x[10:], x.add_(1)
        y = x + view.sum()
        del x, view, same
        assert count.alive_bytes == 4000
        y = torch.cat([y, y])
        del y
    assert count.alive_bytes == 0
    assert 12000 <= count.peak_bytes <= 12100  # y and twice y, and numbers
