"""ConeBeam against closed forms, for every kind of scan."""

import math
import pickle
import sys
import tracemalloc

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from medinv.errors import DependencyError, ShapeError
from medinv.operators import ConeBeam, FanBeam, ParallelBeam, ct_geometry
from medinv.operators.ct_backends import joseph
from tests.operators.cone_objects import line_integrals, rays, volume

N = 24
VOXEL = 48.0 / N


def turn(n, sign=1):
    return sign * torch.arange(n) * 2 * math.pi / n


def scan(kind, *, shape=(N, N, N), voxel=VOXEL, sign=1, n_views=6, fine=1):
    """A scan of a 48 mm cube with ``fine`` times as many detector pixels."""
    rows, cols, pixel = 44 * fine, 60 * fine, 2.0 / fine
    circle = (shape, turn(n_views, sign) + 0.2, voxel, 200.0, 120.0, rows, cols, pixel, pixel)
    spiral = (shape, 2 * turn(n_views, sign) + 0.2, *circle[2:])
    makers = {
        "cone": lambda: ct_geometry.cone(*circle),
        "curved": lambda: ct_geometry.cone(*circle, curved=True),
        "shifted": lambda: ct_geometry.cone(*circle, col_offset_mm=6.0, row_offset_mm=-3.0,
                                            axis_offset_mm=4.0),
        "shifted curved": lambda: ct_geometry.cone(
            *circle, curved=True, col_offset_mm=6.0, row_offset_mm=-3.0, axis_offset_mm=4.0),
        "helix": lambda: ct_geometry.helical(*spiral, pitch_mm=12.0),
        "flat helix": lambda: ct_geometry.helical(*spiral, pitch_mm=-12.0, curved=False),
        "parallel": lambda: ct_geometry.parallel(shape, circle[1], voxel, cols, pixel,
                                                 n_rows=rows, row_mm=pixel),
        "tilted": lambda: ct_geometry.parallel(shape, circle[1], voxel, cols, pixel, n_rows=rows,
                                               row_mm=pixel, tilt=0.6),
        "free": lambda: sphere_of_sources(shape, voxel, rows, cols, pixel, n_views, sign),
    }
    return makers[kind]()


def sphere_of_sources(shape, voxel, rows, cols, pixel, n_views, sign):
    """Sources on all sides, so that rays are steepest along each axis; a skewed detector."""
    rng = torch.Generator().manual_seed(0)
    away, side = torch.nn.functional.normalize(
        torch.randn(2, n_views, 3, generator=rng, dtype=torch.float64), dim=-1)
    away[0] = torch.tensor([0.0, 0.1, 1.0]) / math.sqrt(1.01)
    col = sign * torch.nn.functional.normalize(torch.linalg.cross(side, away))
    row = torch.linalg.cross(away, col) + 0.1 * col
    return ct_geometry.free(shape, voxel, 200 * away, -120 * away, pixel * col, pixel * row, rows,
                            cols)


KINDS = ["cone", "curved", "shifted", "shifted curved", "helix", "flat helix", "parallel",
         "tilted", "free"]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_sphere_lands_where_geometry_says(kind, sign):
    geometry = scan(kind, sign=sign)
    centre, radius = (9.0, -6.0, 4.0), 5.0
    y = ConeBeam.from_geometry(geometry)(volume(geometry, centre, (radius,) * 3)).double()
    expected = line_integrals(geometry, centre, (radius,) * 3)
    index = [torch.arange(n).double() for n in (geometry.n_rows, geometry.n_cols)]
    for measured, closed_form in zip(y, expected, strict=True):
        for axis in (0, 1):
            places = [(image.sum(1 - axis) * index[axis]).sum() / image.sum()
                      for image in (measured, closed_form)]
            assert abs(places[0] - places[1]) < 0.1
    # The shadow's middle is the centre's projection, but for the perspective of a sphere.
    middle = geometry.project(torch.tensor([centre]))[:, 0]
    shadow = (expected.sum(1) * index[1]).sum(1) / expected.sum((1, 2))
    assert (shadow - middle[:, 1]).abs().max() < 0.1


def order(kind, project_error):
    """Powers of the voxel's size with which the relative error falls, from 12^3 to 48^3."""
    errors = [project_error(scan(kind, shape=(n, n, n), voxel=48.0 / n, n_views=4))
              for n in (12, 24, 48)]
    return math.log2(errors[0] / errors[2]) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_ellipsoid_converges_with_order_one(kind):
    """A band as wide as a voxel around its shadow is off by a chord there, sqrt(voxel)."""
    def error(geometry):
        ellipsoid = (3.0, -4.0, 2.0), (15.0, 11.0, 13.0)
        expected = line_integrals(geometry, *ellipsoid)
        y = ConeBeam.from_geometry(geometry)(volume(geometry, *ellipsoid))
        return float((y - expected).norm() / expected.norm())

    assert 0.8 < order(kind, error) < 1.4  # its grid's luck is left at these sizes
    assert error(scan(kind, shape=(48, 48, 48), voxel=1.0)) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_a_smooth_object_converges_with_order_two(kind):
    """The order of linear interpolation, for a Gaussian of 6 mm."""
    def error(geometry):
        origins, directions = rays(geometry)
        along = (origins * directions).sum(-1, keepdim=True)
        distance = (origins - along * directions).norm(dim=-1)
        expected = 6 * math.sqrt(2 * math.pi) * torch.exp(-(distance / 6) ** 2 / 2)
        axes = [mm * (torch.arange(n).double() - (n - 1) / 2)
                for n, mm in zip(geometry.shape, geometry.voxel_mm, strict=True)]
        z, y, x = torch.meshgrid(*axes, indexing="ij")
        gaussian = torch.exp(-(x**2 + y**2 + z**2) / 72)
        projected = ConeBeam.from_geometry(geometry, dtype=torch.float64)(gaussian)
        return float((projected - expected).norm() / expected.norm())

    assert 1.8 < order(kind, error) < 2.3


@pytest.mark.parametrize("kind", KINDS)
def test_rays_meet_the_pixels_that_points_project_to(kind):
    geometry = scan(kind)
    origins, directions = rays(geometry)
    points = (origins + (190 if not geometry.parallel else 3) * directions)[:, 7, 11]
    index = geometry.project(points)[torch.arange(6), torch.arange(6)]
    torch.testing.assert_close(index, torch.tensor([[7.0, 11.0]] * 6).double())


def test_a_uniform_volume_gives_its_thickness_in_mm():
    A = ConeBeam((6, 10, 8), turn(4), (1.0, 0.5, 0.25), 1e6, 10.0, 3, 3, 0.5, 0.5)
    y = A(torch.full((6, 10, 8), 0.02))
    torch.testing.assert_close(y[0], torch.full((3, 3), 0.02 * 10 * 0.5))
    torch.testing.assert_close(y[1, 1], torch.full((3,), 0.02 * 8 * 0.25))


@pytest.mark.parametrize("curved", [False, True])
def test_a_slice_is_a_fan_beam(curved, rng):
    x = torch.rand(9, 11, generator=rng, dtype=torch.float64)
    arguments = (turn(7) + 0.1, 1.0, 30.0, 20.0)
    fan = FanBeam((9, 11), *arguments, 21, 1.3, curved=curved, col_offset_mm=0.7,
                  axis_offset_mm=0.4, dtype=torch.float64)
    cone = ConeBeam((1, 9, 11), *arguments, 1, 21, 1.0, 1.3, curved=curved, col_offset_mm=0.7,
                    axis_offset_mm=0.4, dtype=torch.float64)
    torch.testing.assert_close(cone(x[None])[:, 0], fan(x))


def test_slices_are_parallel_beams(rng):
    x = torch.rand(3, 9, 11, generator=rng, dtype=torch.float64)
    parallel = ParallelBeam((9, 11), turn(7) + 0.1, 1.0, 15, 1.1, dtype=torch.float64)
    geometry = ct_geometry.parallel((3, 9, 11), turn(7) + 0.1, 1.0, 15, 1.1)
    y = ConeBeam.from_geometry(geometry, dtype=torch.float64)(x)
    torch.testing.assert_close(y.transpose(0, 1), parallel(x))


def test_matter_behind_the_source_does_not_count():
    view = [torch.tensor([v]) for v in ([0.0, -3, 6], [0.0, 9, 6], [1.0, 0, 0], [0.0, 0, 1])]
    geometry = ct_geometry.free((9, 30, 3), 1.0, *view, 3, 3)
    x = torch.zeros(9, 30, 3)
    x[:, :10] = 1  # all of it at y < -5, the source at y = -3
    assert ConeBeam.from_geometry(geometry)(x).abs().max() == 0


@pytest.mark.parametrize("kind", ["cone", "helix", "free"])
def test_the_number_of_threads_changes_nothing(kind, rng, monkeypatch):
    A = ConeBeam.from_geometry(scan(kind))
    x, y = torch.rand(A.domain.shape, generator=rng), torch.rand(A.codomain.shape, generator=rng)
    expected = A(x), A.adjoint(y)
    for threads in (2, 5, 40):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        torch.testing.assert_close(A(x), expected[0])
        torch.testing.assert_close(A.adjoint(y), expected[1])


def test_one_slice_is_shared_between_threads():
    assert joseph._blocks((4, 9, 1), 3) == [
        ((0, 0, 0), (4, 3, 1)), ((0, 3, 0), (4, 6, 1)), ((0, 6, 0), (4, 9, 1))]


def test_nothing_of_the_size_of_a_volume_is_allocated_beside_the_result():
    """The two directions allocate their result with torch, and numpy next to nothing."""
    A = ConeBeam((64, 64, 64), turn(2), 1.0, 200.0, 100.0, 8, 8, 1.0, 1.0)
    x, y = torch.zeros(64, 64, 64), torch.zeros(2, 8, 8)
    A(x), A.adjoint(y)  # compiled
    tensors = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.numel() == 64**3:
                tensors.append(out.untyped_storage().data_ptr())
            return out

    tracemalloc.start()
    with Count():
        A.adjoint(y)  # imports what the mode needs
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        tensors.clear()
        A(x)
        assert set(tensors) <= {x.untyped_storage().data_ptr()}
        tensors.clear()
        A.adjoint(y)
        assert len(set(tensors)) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - before < x.nbytes / 2


def test_subsets_of_views(rng):
    A = ConeBeam.from_geometry(scan("helix"))
    x, index = torch.rand(A.domain.shape, generator=rng), torch.tensor([4, 1])
    torch.testing.assert_close(A.views(index)(x), A(x)[index])


def test_a_pickle_carries_no_rays():
    A = ConeBeam((8, 8, 8), turn(4), 1.0, 100.0, 100.0, 30, 300, 1.0, 0.1)
    A(torch.zeros(8, 8, 8))
    assert len(pickle.dumps(A)) < 10_000


def test_wrong_dtype_and_device():
    with pytest.raises(ShapeError, match=r"ConeBeam: dtype is torch.int64; pass torch.float32"):
        ConeBeam.from_geometry(scan("cone"), dtype=torch.int64)
    A = ConeBeam.from_geometry(scan("cone"))
    with pytest.raises(DependencyError, match=r"ConeBeam: runs on cpu and cuda, not on meta"):
        A(torch.zeros(A.domain.shape, device="meta"))


def test_a_curved_detector_is_refused_on_cuda():
    from medinv.operators.ct_backends.astra_cuda import CudaVolumeProjector

    with pytest.raises(DependencyError, match=r"flat detectors only, and this one is curved"):
        CudaVolumeProjector(scan("curved"), torch.device("cuda"))


def test_cuda_without_astra_says_how_to_install_it(monkeypatch):
    from medinv.operators.ct_backends.astra_cuda import CudaVolumeProjector

    monkeypatch.setitem(sys.modules, "astra", None)
    with pytest.raises(DependencyError, match=r"ConeBeam: astra-toolbox.*pip install 'medinv\[cu"):
        CudaVolumeProjector(scan("cone"), torch.device("cuda"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests the message without a device")
def test_cuda_without_a_device_is_refused():
    from medinv.operators.ct_backends.astra_cuda import CudaVolumeProjector

    with pytest.raises(DependencyError, match=r"ConeBeam: .*no CUDA support or finds no device"):
        CudaVolumeProjector(scan("cone"), torch.device("cuda"))


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["cone", "shifted", "flat helix", "parallel", "tilted", "free"])
def test_cuda_kernels_agree_with_the_cpu(kind):
    geometry = scan(kind)
    A = ConeBeam.from_geometry(geometry)
    x = volume(geometry, (9.0, -6.0, 4.0), (12.0, 9.0, 10.0))
    y = line_integrals(geometry, (9.0, -6.0, 4.0), (12.0, 9.0, 10.0)).float()
    # Texture interpolation has 9 bits; the backprojector interpolates the detector instead.
    assert (A(x.cuda()).cpu() - A(x)).norm() < 5e-3 * A(x).norm()
    assert (A.adjoint(y.cuda()).cpu() - A.adjoint(y)).norm() < 0.1 * A.adjoint(y).norm()
