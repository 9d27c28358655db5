"""The tables that property tests run over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.operators import (
    Blur,
    CartesianMRI,
    ConeBeam,
    FanBeam,
    Identity,
    Inpainting,
    Magnitude,
    NonCartesianMRI,
    Operator,
    ParallelBeam,
    Patches,
    SliceDownsampling,
    StackOfStars,
    TransmissionCounts,
    ct_geometry,
    stack,
    trajectories,
)
from medinv.operators.kspace_grid import CentreCrop
from medinv.operators.multislice import SliceSum, caipi_phase
from medinv.operators.off_resonance import OffResonance, readout_times
from medinv.operators.partial_fourier import KnownPhase
from medinv.operators.weighted import Weighted

SINGLE, DOUBLE = torch.float32, torch.float64


@dataclass(frozen=True)
class OperatorCase:
    """A small operator, made in the precision of a real dtype."""

    name: str
    make: Callable[[torch.dtype], Operator]
    dtypes: tuple[torch.dtype, ...] = (SINGLE, DOUBLE)


def random_maps(shape: tuple[int, ...], dtype: torch.dtype, coil_axis: int, seed=0) -> Tensor:
    """Random maps with ``sum_c |S_c|^2 = 1``."""
    rng = torch.Generator().manual_seed(seed)
    maps = torch.randn(shape, dtype=dtype.to_complex(), generator=rng)
    return maps / torch.linalg.vector_norm(maps, dim=coil_axis, keepdim=True)


def random_mask(*shape: int, seed=1) -> Tensor:
    """About half of the points, and always the first."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask.view(-1)[0] = True
    return mask


def mri(maps_shape, mask_shape, **options):
    ndim = options.get("ndim", 2)

    def make(dtype):
        maps = random_maps(maps_shape, dtype, -ndim - 1)
        return CartesianMRI(maps, random_mask(*mask_shape), **options)

    return make


def off_resonance(dtype):
    field_hz = torch.linspace(-80, 60, 30).reshape(5, 6).sin() * 60
    return OffResonance(mri((3, 5, 6), (5, 6))(dtype), field_hz, readout_times((5, 6), 4, 0.5))


def simultaneous_slices(dtype):
    A = mri((4, 2, 3, 5, 6), (5, 6))(dtype)
    return SliceSum(A.codomain, caipi_phase(2, 5, shift=0.5)) @ A


def cropped(dtype):
    A = mri((3, 8, 7), (8, 7))(dtype)
    return CentreCrop(A.codomain, (5, 6)) @ A


def known_phase(dtype):
    phase = torch.linspace(0, 3, 30, dtype=dtype).reshape(5, 6)
    return mri((3, 5, 6), (5, 6))(dtype) @ KnownPhase(phase)


def parallel(shape=(9, 8), n_cols=None, memory_gib=4.0, n_views=5):
    angles = torch.arange(n_views) * math.pi / n_views + 0.1

    def make(dtype):
        return ParallelBeam(shape, angles, 0.7, n_cols, 0.9, dtype=dtype, memory_gib=memory_gib)

    return make


def fan(shape=(9, 8), n_views=7, **options):
    angles = torch.arange(n_views) * 2 * math.pi / n_views + 0.1

    def make(dtype):
        return FanBeam(shape, angles, 0.7, 20.0, 15.0, 11, 1.1, dtype=dtype, **options)

    return make


def weighted(dtype, slices=()):
    weights = torch.rand(*slices, 5, 13, generator=torch.Generator().manual_seed(2))
    return Weighted(parallel()(dtype), weights.round(decimals=1))


ANGLES = torch.arange(5) * math.pi / 5 + 0.1


def cone_beam(geometry):
    return lambda dtype: ConeBeam.from_geometry(geometry, dtype=dtype)


def free_views():
    """Sources all around, so that rays are steepest along x, y and z."""
    rng = torch.Generator().manual_seed(0)
    sources = 12 * torch.nn.functional.normalize(torch.randn(7, 3, generator=rng))
    sources[:3] = torch.diag(torch.tensor([12.0, -12.0, 12.0]))
    side = torch.randn(7, 3, generator=rng)
    cols = 1.7 * torch.nn.functional.normalize(torch.linalg.cross(side, sources))
    rows = 1.5 * torch.nn.functional.normalize(torch.linalg.cross(sources, cols)) + 0.2 * cols
    return ct_geometry.free((4, 5, 6), (1.0, 0.8, 0.7), sources, -sources / 2, cols, rows, 5, 6)


def complex_scaled(dtype):
    return (0.3 - 2j) * mri((3, 5, 6), (5, 6))(dtype)


def summed(dtype):
    first = CartesianMRI(random_maps((3, 5, 6), dtype, -3), random_mask(5, 6))
    return first + CartesianMRI(random_maps((3, 5, 6), dtype, -3, seed=2), random_mask(5, 6))


def stacked(dtype):
    return stack([parallel()(dtype), 2.0 * parallel()(dtype)])


def composed(dtype):
    A = mri((3, 5, 6), (6,))(dtype)
    return A @ A.H


def noncartesian(maps_shape, ndim=2, weighted=False, **options):
    """Random samples everywhere; the Fourier sums as exact as the table's tolerances ask."""
    grid = torch.tensor(maps_shape[-ndim:])

    def make(dtype):
        rng = torch.Generator().manual_seed(3)
        points = (torch.rand((6, 11, ndim), generator=rng, dtype=DOUBLE) - 0.5) * grid
        weights = torch.rand((6, 11), generator=rng) if weighted else None
        return NonCartesianMRI(random_maps(maps_shape, dtype, -ndim - 1), points, weights=weights,
                               eps=1e-6 if dtype == SINGLE else 1e-12, **options)

    return make


def stack_of_stars(axis=0, kz=(-2, -1, 0, 1), turn=0.0):
    """Spokes on planes of a 4 x 6 x 6 volume, or of one whose Cartesian axis is another."""
    def make(dtype):
        points = trajectories.stack(trajectories.radial(5, 6), 4, kz=torch.tensor(kz), turn=turn)
        order = [[0, 1, 2], [1, 0, 2], [1, 2, 0]][axis]
        grid = [(4, 6, 6)[i] for i in order]
        return StackOfStars(random_maps((3, *grid), dtype, -4), points.points[..., order],
                            eps=1e-6 if dtype == SINGLE else 1e-12)

    return make


def blur(psf_shape, shape, *, periodic=False, complex_image=False):
    def make(dtype):
        psf = torch.rand(psf_shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
        return Blur(psf, shape, dtype.to_complex() if complex_image else dtype, periodic=periodic)

    return make


def complex_blur(dtype):
    return Blur(random_maps((2, 3), dtype, -1), (5, 6))


def slices(dtype):
    return SliceDownsampling((6, 3, 4), 2, torch.tensor([0.5, 1, 1, 0.2, 0.1]), dtype)


def mean_slices(dtype):
    return SliceDownsampling((6, 3, 5), 3, dtype=dtype.to_complex())


def transmission(dtype):
    return TransmissionCounts(0.1 * parallel()(dtype), 50, 2)


OPERATORS = [
    OperatorCase("mri-odd", mri((3, 7, 9), (7, 9))),
    OperatorCase("mri-columns", mri((3, 6, 9), (9,))),
    OperatorCase("mri-rows", mri((3, 7, 6), (7, 1))),
    OperatorCase("mri-one-column", mri((1, 5, 1), (5, 1))),
    OperatorCase("mri-all-sampled", mri((2, 5, 6), (1, 1))),
    OperatorCase("mri-slices", mri((4, 2, 3, 5, 6), (5, 6))),
    OperatorCase("mri-slice-masks", mri((4, 3, 5, 6), (4, 5, 6))),
    OperatorCase("mri-slice-columns", mri((4, 3, 5, 6), (4, 1, 6))),
    OperatorCase("mri-sets", mri((4, 2, 3, 5, 6), (6,), sets=True)),
    OperatorCase("mri-3d", mri((3, 4, 5, 6), (4, 5, 1), ndim=3)),
    OperatorCase("mri-3d-any-mask", mri((3, 3, 5, 7), (3, 5, 7), ndim=3)),
    OperatorCase("mri-3d-sets", mri((2, 3, 4, 5, 3), (5, 1), ndim=3, sets=True)),
    OperatorCase("mri-time", mri((3, 5, 6), (4, 5, 6), time_ndim=1)),
    OperatorCase("mri-time-slices", mri((2, 3, 5, 6), (4, 1, 1, 6), time_ndim=1)),
    OperatorCase("mri-time-slice-masks", mri((2, 3, 5, 6), (4, 3, 2, 5, 6), time_ndim=2)),
    OperatorCase("mri-time-sets", mri((2, 3, 5, 6), (4, 1, 6), sets=True, time_ndim=1)),
    OperatorCase("mri-3d-time", mri((3, 2, 5, 4), (2, 2, 5, 1), ndim=3, time_ndim=1)),
    OperatorCase("mri-off-resonance", off_resonance),
    OperatorCase("mri-simultaneous-slices", simultaneous_slices),
    OperatorCase("mri-cropped", cropped),
    OperatorCase("mri-known-phase", known_phase),
    OperatorCase("noncartesian", noncartesian((3, 6, 8))),
    OperatorCase("noncartesian-odd", noncartesian((3, 7, 5))),
    OperatorCase("noncartesian-one-coil", noncartesian((1, 6, 5))),
    OperatorCase("noncartesian-slices", noncartesian((2, 3, 6, 5))),
    OperatorCase("noncartesian-weighted", noncartesian((3, 6, 5), weighted=True)),
    OperatorCase("noncartesian-shifted", noncartesian((3, 6, 5), shift=(0.3, -0.2))),
    OperatorCase("noncartesian-forward-and-back", noncartesian((3, 6, 5), toeplitz=False)),
    OperatorCase("noncartesian-3d", noncartesian((3, 4, 5, 6), ndim=3)),
    OperatorCase("stars", stack_of_stars()),
    OperatorCase("stars-some-planes-repeated", stack_of_stars(kz=(0, -2, 0))),
    OperatorCase("stars-turned", stack_of_stars(turn=0.7)),
    OperatorCase("stars-along-y", stack_of_stars(axis=1, turn=0.7)),
    OperatorCase("stars-along-x", stack_of_stars(axis=2)),
    OperatorCase("parallel-matrix", parallel()),
    OperatorCase("parallel-truncated", parallel(n_cols=5)),
    OperatorCase("parallel-one-view", parallel(n_views=1)),
    OperatorCase("parallel-block-by-block", parallel(memory_gib=0.0)),
    OperatorCase("fan-flat", fan(col_offset_mm=0.4, axis_offset_mm=-0.3)),
    OperatorCase("fan-curved", fan(curved=True, col_offset_mm=0.4, axis_offset_mm=-0.3)),
    OperatorCase("fan-one-view", fan(shape=(7, 12), n_views=1)),
    OperatorCase("fan-block-by-block", fan(memory_gib=0.0)),
    OperatorCase("cone", cone_beam(ct_geometry.cone(
        (3, 5, 4), ANGLES, (1.0, 0.8, 0.7), 20, 9, 4, 7, 1.4, 1.1, col_offset_mm=0.4,
        axis_offset_mm=-0.3))),
    OperatorCase("cone-curved", cone_beam(ct_geometry.cone(
        (2, 6, 5), ANGLES, 0.9, 20, 9, 3, 6, 1.4, 1.6, curved=True, row_offset_mm=0.7))),
    OperatorCase("cone-one-voxel", cone_beam(ct_geometry.cone(
        (1, 1, 1), ANGLES[:1], 1.0, 9, 9, 1, 1, 1.0, 1.0))),
    OperatorCase("helical", cone_beam(ct_geometry.helical(
        (6, 5, 5), 2.3 * ANGLES, 0.8, 15, 9, 3, 9, 1.2, 1.3, pitch_mm=3.0))),
    OperatorCase("tilted", cone_beam(ct_geometry.parallel((4, 5, 3), ANGLES, 1.0, 7, tilt=0.7))),
    OperatorCase("free", cone_beam(free_views())),
    OperatorCase("weighted", weighted),
    OperatorCase("weighted-slices", lambda dtype: weighted(dtype, slices=(2,))),
    OperatorCase("adjoint", lambda dtype: mri((3, 5, 6), (5, 6))(dtype).H),
    OperatorCase("composed", composed),
    OperatorCase("scaled", complex_scaled),
    OperatorCase("summed", summed),
    OperatorCase("stacked", stacked),
    OperatorCase("normalized", lambda dtype: mri((3, 5, 6), (5, 6))(dtype).normalized()),
    OperatorCase("identity", lambda dtype: Identity((5, 6), dtype)),
    OperatorCase("inpainting", lambda dtype: Inpainting(random_mask(3, 5, 6), dtype.to_complex())),
    OperatorCase("blur", blur((3, 4), (7, 6))),
    OperatorCase("blur-periodic", blur((3, 4), (7, 6), periodic=True)),
    OperatorCase("blur-complex", complex_blur),
    OperatorCase("blur-3d", blur((3, 2, 3), (4, 5, 3))),
    OperatorCase("blur-3d-periodic", blur((3, 2, 3), (4, 5, 3), periodic=True,
                                          complex_image=True)),
    OperatorCase("slices", slices),
    OperatorCase("slices-mean", mean_slices),
    OperatorCase("patches", lambda dtype: Patches((5, 7), (3, 4), (2, 2), dtype.to_complex())),
    OperatorCase("patches-3d", lambda dtype: Patches((3, 4, 5), (2, 4, 2), (1, 3, 2), dtype)),
]

NONLINEAR = [
    OperatorCase("magnitude", lambda dtype: Magnitude(mri((3, 5, 6), (1, 1))(dtype))),
    OperatorCase("magnitude-smooth", lambda dtype: Magnitude(mri((3, 5, 6), (5, 6))(dtype), 0.1)),
    OperatorCase("magnitude-real", lambda dtype: Magnitude(parallel()(dtype), 0.3)),
    OperatorCase("transmission", transmission),
]
