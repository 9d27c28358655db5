"""FDK in HU against spheres in closed form."""

import math
from types import SimpleNamespace

import pytest
import torch

from medinv.data.units import mu_to_hu
from medinv.errors import InputError
from medinv.operators import ConeBeam, ParallelBeam, ct_geometry
from medinv.problem import Problem
from medinv.solvers import FDK
from tests.operators.cone_objects import line_integrals

N, WATER = 32, 0.019
ARCS = {
    "full turn": torch.arange(120) * math.pi / 60,
    "backwards": 0.4 - torch.arange(120) * math.pi / 60,
    "short scan": torch.arange(100) * (math.pi + 0.6) / 100,
    "two turns with both ends": torch.arange(241) * math.pi / 60,
    "uneven": torch.cat([torch.arange(60), torch.arange(60, 120, 2)]) * math.pi / 60,
}
SHIFTS = {
    "centred": {},
    "shifted": {"col_offset_mm": 3.3, "row_offset_mm": -5.0, "axis_offset_mm": 4.0},
}


def scan(angles, n_cols=80, **shifts):
    return ConeBeam((N, N, N), angles, 4.0, 400.0, 250.0, 70, n_cols, 3.3, 3.3, **shifts)


def hounsfield(A, centre, window="ram-lak"):
    """The reconstruction of a water sphere of 50 mm, and each voxel's distance from its centre."""
    y = line_integrals(A.geometry, centre, (50.0,) * 3, WATER).float()
    axis = 4.0 * (torch.arange(N) - (N - 1) / 2)
    z, y0, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    distance = torch.stack([x - centre[0], y0 - centre[1], z - centre[2]]).norm(dim=0)
    return mu_to_hu(FDK(window)(Problem(y, A)), WATER), distance


def check_water(hu, distance, off_plane=5.0):
    # The circle misses data outside its plane: the error grows with the height's square there.
    middle = slice(N // 2 - 1, N // 2 + 1)
    assert abs(hu[distance < 20].mean()) < 2
    assert hu[middle][distance[middle] < 20].abs().max() < 2
    assert hu[distance < 20].abs().max() < off_plane
    assert abs(hu[(distance > 60) & (distance < 64)].mean() + 1000) < 20


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("arc", ARCS)
def test_water_reads_zero(arc, shift):
    for centre in ((0.0, 0.0, 0.0), (5.0, -7.0, 4.0)):
        check_water(*hounsfield(scan(ARCS[arc], **SHIFTS[shift]), centre))


@pytest.mark.parametrize("side", [1, -1])
def test_a_detector_that_sees_half_of_the_object(side):
    A = scan(torch.arange(360) * math.pi / 180, n_cols=52, col_offset_mm=side * 66.0)
    # Outside the plane a ray and its twin differ, and only 11 columns here average the two.
    check_water(*hounsfield(A, (5.0, -7.0, 4.0)), off_plane=15.0)


def test_half_a_detector_needs_a_full_turn():
    A = scan(ARCS["short scan"], n_cols=52, col_offset_mm=66.0)
    with pytest.raises(InputError, match="FDK: expected views over 360 .*half acquisition"):
        hounsfield(A, (5.0, -7.0, 4.0))


@pytest.mark.parametrize("window", ["shepp-logan", "hann"])
def test_windows_keep_the_values(window):
    check_water(*hounsfield(scan(ARCS["full turn"]), (0.0, 0.0, 0.0), window))


def test_voxels_may_be_any_box(monkeypatch):
    monkeypatch.setattr("medinv.solvers.fdk._VOXELS", 5000)  # several slabs
    angles = ARCS["full turn"]
    A = ConeBeam((16, 32, 24), angles, (8.0, 4.0, 5.0), 400.0, 250.0, 70, 80, 3.3, 3.3)
    y = line_integrals(A.geometry, (0.0, 0.0, 0.0), (50.0,) * 3, WATER).float()
    middle = mu_to_hu(FDK()(Problem(y, A)), WATER)[7:9, 12:20, 8:16]
    assert middle.abs().max() < 5


def test_a_batch_is_its_items(rng):
    A = scan(ARCS["full turn"][::10])
    y = torch.randn(2, *A.codomain.shape, generator=rng)
    seen = []
    x = FDK()(Problem(y, A), on_step=lambda i, x: seen.append(i))
    torch.testing.assert_close(x[1], FDK()(Problem(y[1], A)))
    assert seen == [0]


def zeros(A):
    return torch.zeros(A.codomain.shape)


def test_other_scans_are_refused():
    angles = ARCS["full turn"]
    circle = ((8, 8, 8), angles, 1.0, 100.0, 100.0, 9, 19, 2.0, 2.0)
    for geometry, problem in [
        (ct_geometry.cone(*circle, curved=True), "got a cone beam, curved detector"),
        (ct_geometry.parallel((8, 8, 8), angles, 1.0), "got a parallel beam, flat detector"),
        (ct_geometry.helical(*circle, pitch_mm=3, curved=False), r"off by up to 2.98 mm \(a"),
    ]:
        A = ConeBeam.from_geometry(geometry)
        with pytest.raises(InputError, match="FDK: expected .*" + problem):
            FDK()(Problem(zeros(A), A))
    with pytest.raises(InputError, match="FDK: expected a ConeBeam, got ParallelBeam; use FBP"):
        FDK()(Problem(torch.zeros(120, 12), ParallelBeam((8, 8), angles, 1.0)))


def test_arcs_that_do_not_suffice_are_refused():
    A = scan(ARCS["full turn"][:60])
    with pytest.raises(InputError, match="FDK: expected views over 360 degrees, or over 180 plus"):
        FDK()(Problem(zeros(A), A))


def test_an_unknown_window_is_refused():
    with pytest.raises(InputError, match="FDK: window: expected one of ram-lak, shepp-logan"):
        FDK.__post_init__(SimpleNamespace(window="cosine"))
