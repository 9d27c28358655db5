from __future__ import annotations

import copy
import gc
import inspect
import math
import pickle
import sys

import astra
import numpy as np
import pytest
import torch

from medinv.errors import DependencyError, ShapeError
from medinv.operators import ParallelBeam, ct_checks
from medinv.operators.ct_backends import joseph_matrix
from tests.operators.ct_objects import disc_image, disc_line_integrals

ANGLES = torch.arange(12) * math.pi / 12
DISC = {"x0": 12.0, "y0": -7.0, "radius": 9.0, "mu": 0.02}


@pytest.mark.parametrize("memory_gib", [4.0, 0.0], ids=["matrix", "block by block"])
@pytest.mark.parametrize(("shape", "pixel_mm", "col_mm"), [
    ((128, 128), 0.5, 0.5), ((97, 121), 0.5, 0.4), ((64, 65), 1.0, 1.3),
])
def test_line_integrals_of_an_off_centre_disc(shape, pixel_mm, col_mm, memory_gib):
    A = ParallelBeam(shape, ANGLES, pixel_mm, 180, col_mm, memory_gib=memory_gib)
    projected = A(disc_image(shape, pixel_mm, **DISC))
    expected = disc_line_integrals(A, **DISC)
    # At the disc's edge a pixel and an ideal line differ; a chord errs by about one pixel.
    assert (projected - expected).norm() < 0.04 * pixel_mm / 0.5 * expected.norm()
    assert (projected - expected).abs().max() < 2 * pixel_mm * DISC["mu"] * 2
    # The mass of every view is that of the disc: units are right.
    mass = projected.sum(1) * col_mm
    torch.testing.assert_close(mass, torch.full_like(mass, DISC["mu"] * math.pi * 9.0**2),
                               rtol=0.03, atol=0)


def test_orientation_is_as_documented():
    A = ParallelBeam((33, 33), torch.tensor([0.0, math.pi / 2]), 1.0, 33)
    x = torch.zeros(2, 33, 33)
    x[0, 16, 20] = 1  # right of the centre
    x[1, 20, 16] = 1  # below it
    right, below = A(x).argmax(-1)
    assert right.tolist() == [20, 16]
    assert below.tolist() == [16, 20]


def test_a_uniform_slice_gives_its_thickness_in_mm():
    A = ParallelBeam((10, 20), torch.tensor([0.0, math.pi / 2]), 0.7, 10)
    vertical, horizontal = A(torch.full((10, 20), 0.02))
    torch.testing.assert_close(vertical, torch.full((10,), 0.02 * 10 * 0.7))
    torch.testing.assert_close(horizontal, torch.full((10,), 0.02 * 20 * 0.7))


def test_matrix_equals_block_by_block(rng):
    matrix = ParallelBeam((21, 18), ANGLES, 0.7, 30, 0.9)
    calls = ParallelBeam((21, 18), ANGLES, 0.7, 30, 0.9, memory_gib=0.0)
    x = torch.randn(20, 21, 18, generator=rng)  # more slices than one product takes
    y = torch.randn(20, 12, 30, generator=rng)
    assert isinstance(matrix._projector(x.device), joseph_matrix.SystemMatrix)
    assert isinstance(calls._projector(x.device), joseph_matrix.BlockByBlock)
    torch.testing.assert_close(matrix(x), calls(x))
    torch.testing.assert_close(matrix.adjoint(y), calls.adjoint(y))


def test_equals_astra_itself(rng):
    x = torch.randn(16, 16, generator=rng)
    projector = astra.create_projector(
        "linear", astra.create_proj_geom("parallel", 1.0, 23, (-ANGLES).tolist()),
        astra.create_vol_geom(16, 16))
    handle, expected = astra.create_sino(x.numpy(), projector)
    astra.data2d.delete(handle)
    astra.projector.delete(projector)
    torch.testing.assert_close(ParallelBeam((16, 16), ANGLES, 1.0)(x), torch.from_numpy(expected),
                               rtol=1e-4, atol=1e-4)


def test_transpose_is_exact():
    engine = ParallelBeam((9, 8), ANGLES, 0.7)._projector(torch.device("cpu"))
    assert torch.equal(engine.transpose_csr.to_dense(), engine.forward_csr.to_dense().T)


@pytest.mark.parametrize("n_views", [1, 7, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_memory_is_estimated_before_building(n_views, dtype):
    A = ParallelBeam((40, 31), torch.arange(n_views) * 0.1, 0.7, 80, dtype=dtype)
    engine = A._projector(torch.device("cpu"))
    parts = [part for csr in (engine.forward_csr, engine.transpose_csr)
             for part in (csr.values(), csr.col_indices(), csr.crow_indices())]
    actual = sum(part.nbytes for part in parts) / 2**30
    assert A.matrix_gib() == pytest.approx(actual, rel=0.02)


def test_equal_geometries_share_a_matrix_while_one_is_in_use():
    first, second = (ParallelBeam((9, 8), ANGLES, 0.7) for _ in range(2))
    cpu = torch.device("cpu")
    assert first._projector(cpu) is second._projector(cpu)
    assert ParallelBeam((9, 8), ANGLES, 0.8)._projector(cpu) is not first._projector(cpu)
    before = len(joseph_matrix._shared)
    del first, second
    gc.collect()
    assert len(joseph_matrix._shared) < before


def test_a_pickle_does_not_carry_the_matrix(rng):
    A = ParallelBeam((64, 64), ANGLES, 0.7)
    A(torch.zeros(64, 64))
    assert len(pickle.dumps(A)) < 10_000


def test_geometry_is_public():
    A = ParallelBeam((30, 40), ANGLES, 0.5)
    assert (A.n_cols, A.col_mm, A.pixel_mm) == (57, 0.5, 0.5)  # 57 >= sqrt(2) 40
    assert torch.equal(A.angles, ANGLES.double())


@pytest.mark.parametrize(("arguments", "message"), [
    ({"shape": (8, 0)}, r"shape is \(8, 0\); pass \(y, x\) of one slice"),
    ({"angles": torch.zeros(2, 2)}, r"angles are \(2, 2\); pass one finite angle in radians"),
    ({"angles": torch.zeros(0)}, "pass one finite angle"),
    ({"angles": torch.tensor([math.nan])}, "pass one finite angle"),
    ({"pixel_mm": 0.0}, r"pixel_mm is 0\.0; pass a positive number"),
    ({"col_mm": -1.0}, r"col_mm is -1\.0; pass a positive number"),
    ({"n_cols": 0}, "n_cols is 0; pass a positive number"),
    ({"dtype": torch.complex64}, r"dtype is torch.complex64; pass torch.float32 or torch.float64"),
])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ShapeError, match="ParallelBeam: .*" + message):
        ParallelBeam(**{"shape": (8, 8), "angles": ANGLES, "pixel_mm": 0.7, **arguments})


def test_a_volume_of_the_wrong_size_names_the_axes():
    with pytest.raises(ShapeError, match=r"expected \(\*batch, y 8, x 8\), got \(4, 9, 8\)"):
        ParallelBeam((8, 8), ANGLES, 0.7)(torch.zeros(4, 9, 8))


def test_other_devices_are_refused():
    A = ParallelBeam((8, 8), ANGLES, 0.7).to("meta")
    with pytest.raises(DependencyError, match=r"runs on cpu and cuda, not on meta"):
        A(torch.zeros(8, 8, device="meta"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests the message without a device")
def test_cuda_without_a_device_is_refused():
    from medinv.operators.ct_backends import astra_cuda

    with pytest.raises(DependencyError, match=r"no CUDA support or finds no device.*\.cpu\(\)"):
        astra_cuda.CudaProjector(ParallelBeam((8, 8), ANGLES, 0.7).geometry)


def test_without_astra_the_matrix_is_applied_on_the_device(monkeypatch):
    monkeypatch.setitem(sys.modules, "astra", None)
    asked, make = [], joseph_matrix.projector

    def on_the_cpu(rays, dtype, device, memory_gib):
        asked.append(device.type)
        return make(rays, dtype, torch.device("cpu"), memory_gib)

    monkeypatch.setattr(joseph_matrix, "projector", on_the_cpu)
    ParallelBeam((8, 8), ANGLES, 0.7)._make_projector(torch.device("cuda"))
    assert asked == ["cuda"]


@pytest.mark.cuda
@pytest.mark.parametrize("n_slices", [1, 5])
def test_cuda_kernels_agree_with_the_matrix(n_slices, rng):
    A = ParallelBeam((65, 64), ANGLES, 0.7, 100, 0.9)
    x = torch.stack([disc_image((65, 64), 0.7, **DISC)] * n_slices)
    y = disc_line_integrals(A, **DISC).expand(n_slices, -1, -1).contiguous()
    # Texture interpolation has 9 bits; the backprojector interpolates differently at edges.
    on_cuda = copy.deepcopy(A).cuda()
    error = (on_cuda(x.cuda()).cpu() - A(x)).norm() / A(x).norm()
    assert error < 5e-3
    error = (on_cuda.adjoint(y.cuda()).cpu() - A.adjoint(y)).norm() / A.adjoint(y).norm()
    assert error < 0.1


@pytest.mark.parametrize("angles", [[0.0, 1.0], np.arange(3.0), (0.0,)], ids=["list", "array",
                                                                         "tuple"])
def test_angles_of_another_type_are_told_what_to_do(angles):
    """Past the type check of the test run."""
    with pytest.raises(ShapeError, match=r"angles are a (list|ndarray|tuple); pass a tensor"):
        inspect.unwrap(ct_checks.check_angles)("ParallelBeam", angles)
