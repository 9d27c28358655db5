"""The geometry object: where things are, what it says, and what it refuses."""

import math
import re
from dataclasses import replace

import pytest
import torch

from medinv.errors import ShapeError
from medinv.operators import ct_geometry
from medinv.operators.ct_checks import check_angles

DEGREE = math.pi / 180
TURN = torch.arange(360) * DEGREE


def cone(**changes):
    arguments = {"shape": (32, 64, 64), "angles": TURN, "voxel_mm": 1.0, "source_mm": 300.0,
                 "detector_mm": 100.0, "n_rows": 64, "n_cols": 120, "row_mm": 1.0, "col_mm": 1.0}
    return ct_geometry.cone(**{**arguments, **changes})


def one_view(source, detector, col, row, **options):
    view = [torch.tensor([v], dtype=torch.float64) for v in (source, detector, col, row)]
    return ct_geometry.free((8, 8, 8), 1.0, *view, 16, 16, **options)


def test_the_source_turns_clockwise_from_the_top_of_the_picture():
    A = cone(angles=torch.tensor([0.0, math.pi / 2]))
    expected = torch.tensor([[0.0, -300, 0], [300, 0, 0]]).double()
    torch.testing.assert_close(A.sources, expected, atol=1e-4, rtol=0)
    # Right of the centre lies on larger columns at 0 degrees, below it at 90, above it higher up.
    index = A.project(torch.tensor([[10.0, 0, 0], [0, 10.0, 0], [0, 0, 5.0]]))
    assert index[0, 0, 1] > 60 > 59 > index[1, 0, 1] - 1
    assert index[1, 1, 1] > 60
    assert index[0, 2, 0] > 31.5


@pytest.mark.parametrize("curved", [False, True])
def test_a_far_source_gives_the_parallel_beam(curved):
    far = cone(source_mm=1e9, detector_mm=50.0, curved=curved)
    parallel = ct_geometry.parallel((32, 64, 64), TURN, 1.0, 120, 1.0, n_rows=64)
    points = torch.tensor([[10.0, -7.0, 5.0], [-3.0, 20.0, -9.0]])
    torch.testing.assert_close(far.project(points), parallel.project(points), atol=1e-4, rtol=0)


@pytest.mark.parametrize("curved", [False, True])
def test_offsets_move_the_axis_on_the_detector(curved):
    axis = torch.zeros(1, 3)
    assert cone(curved=curved).project(axis)[0, 0].tolist() == [31.5, 59.5]
    shifted = cone(curved=curved, col_offset_mm=4.0, row_offset_mm=-3.0).project(axis)
    torch.testing.assert_close(shifted, torch.tensor([34.5, 55.5]).double().expand(360, 1, 2))
    off_axis = cone(curved=curved, axis_offset_mm=6.0).project(axis)
    # 6 mm, magnified by 4 / 3; along the arc it is the angle that counts.
    moved = 400 * math.atan2(6, 300) if curved else 8.0
    torch.testing.assert_close(off_axis[..., 1], torch.full((360, 1), 59.5 + moved).double())


def test_a_helix_rises_by_its_pitch_each_turn():
    angles = torch.linspace(0, 6 * math.pi, 25)
    up, down = (ct_geometry.helical((32, 64, 64), angles, 1.0, 300, 100, 16, 120, 1.0, 1.0,
                                    pitch_mm=p) for p in (10.0, -10.0))
    assert (up.sources[-1, 2] - up.sources[0, 2]).item() == pytest.approx(30.0)
    torch.testing.assert_close(down.sources[:, 2], -up.sources[:, 2])
    assert "helix with a pitch of 10 mm per turn" in str(up)


def test_points_behind_the_source_are_nowhere():
    for curved in (False, True):
        index = cone(curved=curved).project(torch.tensor([[0.0, -400.0, 0.0]]))
        assert index[0].isinf().all()


def test_views_are_picked_in_order():
    part = cone().views(torch.tensor([90, 0]))
    assert part.n_views == 2
    torch.testing.assert_close(part.sources, cone().sources[[90, 0]])
    torch.testing.assert_close(part.angles, TURN[[90, 0]].double())
    assert one_view([0, -20, 0], [0, 20, 0], [1, 0, 0], [0, 0, 1]).views(
        torch.tensor([0, 0])).n_views == 2


def test_it_describes_itself():
    assert str(cone()).splitlines() == [
        "cone beam, flat detector, full turn",
        "  views     360 over 359.0 degrees",
        "  distances source to axis 300 mm, source to detector 400 mm, magnification 1.333",
        "  detector  64 rows x 120 columns of 1 x 1 mm",
        "  sees      89 mm across, 48 mm high at the axis",
        "  volume    32 x 64 x 64 voxels (z, y, x) of 1 x 1 x 1 mm, 32 x 64 x 64 mm",
    ]
    parallel = ct_geometry.parallel((1, 8, 8), TURN[:180], 0.5)
    assert str(parallel).startswith("parallel beam, flat detector, part of a turn")
    assert "distances" not in str(parallel)
    fan = ct_geometry.fan((8, 8), TURN, 1.0, 50, 50, 30, 1.0, curved=True)
    assert str(fan).startswith("fan beam, curved detector, full turn")
    view = one_view([0, -20, 0], [0, 20, 0], [1, 0, 0], [0, 0, 1])
    assert str(view).startswith("cone beam, flat detector, free geometry")
    assert "source to centre 20 mm, source to detector 40 mm, magnification 2" in str(view)


@pytest.mark.parametrize(("changes", "finding"), [
    ({}, None),
    ({"n_cols": 60}, "reaches up to 12.9 columns beyond the detector's 60 in 360 of 360 views"),
    ({"n_rows": 30}, "rows beyond the detector's 30"),
    ({"angles": TURN[:90]}, r"Limited angle: the views cover 90.0 degrees, and 197.1"),
    ({"angles": TURN[::9]}, "Undersampling: 40 views, where .* would be 202"),
    ({"col_mm": 5.0}, "A column is 3.75 mm wide at the axis and a voxel 1 mm"),
    ({"detector_mm": 1e5, "col_mm": 300.0, "row_mm": 300.0}, "Magnification is 334.3"),
    ({"detector_mm": 20.0}, "reaches behind the detector in 360 of 360 views"),
])
def test_it_finds_what_may_be_wrong(changes, finding):
    found = cone(**changes).check()
    if finding is None:
        assert found == []
    else:
        assert any(re.search(finding, text) for text in found), found


def test_views_that_miss_the_volume_are_counted():
    shifted = cone()
    detectors = shifted.detectors.clone()
    detectors[:7, 2] += 500
    scan = replace(shifted, detectors=detectors)
    assert scan.views(torch.arange(7)).n_views == 7  # as a subset they are not refused
    found = scan.check()
    assert found[0].startswith("The volume misses the detector in 7 of 360 views")


def test_a_helix_is_truncated_along_rows_by_design():
    angles = torch.arange(3000) * DEGREE / 2
    scan = ct_geometry.helical((32, 64, 64), angles, 1.0, 300, 100, 16, 120, 1.0, 1.0,
                               pitch_mm=10.0)
    assert scan.check() == []


@pytest.mark.parametrize("geometry", [
    cone(angles=TURN[::30]), cone(angles=TURN[::30], curved=True),
    ct_geometry.parallel((4, 8, 8), TURN[::30], 1.0),
], ids=["flat", "curved", "parallel"])
def test_it_plots_itself(geometry, tmp_path):
    figure = geometry.plot()
    figure.savefig(tmp_path / "scan.png", dpi=30)
    (axes,) = figure.axes
    assert axes.get_title() == str(geometry).splitlines()[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "rays" if geometry.parallel else "source", "detector"]


@pytest.mark.parametrize(("changes", "message"), [
    ({"shape": (0, 8, 8)}, r"shape is \(0, 8, 8\); pass \(z, y, x\)"),
    ({"voxel_mm": (1.0, 0.0, 1.0)}, r"voxel_mm is .*; pass three positive sizes"),
    ({"n_rows": 0}, "has 0 rows and 120 columns; pass at least 1"),
    ({"source_mm": 0.0}, "source_mm is 0.0; pass a positive length in mm"),
    ({"col_mm": -1.0}, "col_mm is -1.0; pass a positive length"),
    ({"angles": torch.arange(360)}, r"angles run from 0 to 359 and look like degrees; pass "
                                    r"radians, torch.deg2rad\(angles\)"),
    ({"angles": torch.tensor([0.0, math.nan])}, "pass one finite angle"),
    ({"source_mm": 20.0}, "the source is inside the volume in 360 of 360 views, first in view 0"),
    ({"row_offset_mm": 500.0}, r"no view sees the volume.*check the units \(mm\)"),
    ({"axis_offset_mm": math.inf}, "sources has NaN or Inf in view 0"),
])
def test_impossible_scans_are_refused(changes, message):
    with pytest.raises(ShapeError, match=message):
        cone(**changes)


@pytest.mark.parametrize(("vectors", "options", "message"), [
    (([0, -20, 0], [0, 20, 0], [1, 0, 0], [2, 0, 0]), {}, "zero or parallel in 1 of 1 views"),
    (([0, -20, 0], [0, 20, 0], [0, 0, 0], [0, 0, 1]), {}, "zero or parallel"),
    (([0, -20, 0], [0, 20, 0], [0, 1, 0], [0, 0, 1]), {}, "seen edge-on"),
    (([0, -20, 0], [0, -20, 0], [1, 0, 0], [0, 0, 1]), {}, "seen edge-on or the source lies in"),
    (([0, 2, 0], [0, 2, 0], [1, 0, 0], [0, 0, 1]), {"parallel": True}, "need unit ray directions"),
    (([0, 1, 0], [0, 2, 0], [1, 0, 0], [0, 0, 1]), {"parallel": True, "curved": True},
     "pass curved=False"),
    (([0, -20, 0], [3, 20, 0], [1, 0, 0], [0, 0, 1]), {"curved": True}, "not at right angles"),
    (([0, -20, 0], [0, -40, 0], [1, 0, 0], [0, 0, 1]), {}, "no view sees the volume"),
])
def test_impossible_views_are_refused(vectors, options, message):
    with pytest.raises(ShapeError, match="CTGeometry: .*" + message):
        one_view(*vectors, **options)


def test_tensors_of_the_wrong_shape_are_refused():
    scan = cone()
    with pytest.raises(ShapeError, match=r"detectors is \(360, 2\); pass one \(x, y, z\)"):
        replace(scan, detectors=scan.detectors[:, :2])
    with pytest.raises(ShapeError, match="got sources 360, detectors 360, .* angles 10"):
        replace(scan, angles=TURN[:10])


@pytest.mark.parametrize("degrees", [
    torch.arange(180), torch.arange(0, 360, 0.5), torch.linspace(0, 360, 721),
    torch.arange(984) * 360 / 984, torch.arange(5000) * 0.72 + 7.3, torch.tensor([0, 45, 90]),
    torch.arange(720) * -0.25,
])
def test_degrees_are_noticed(degrees):
    with pytest.raises(ShapeError, match="look like degrees"):
        check_angles("scan", degrees)


@pytest.mark.parametrize("radians", [
    TURN, 2 * TURN, TURN - 7 * math.pi, torch.arange(600) * 0.05, torch.tensor([0.0, 1.0, 2.0]),
    torch.arange(200) * math.pi * (math.sqrt(5) - 1) / 2, torch.linspace(0, 100 * math.pi, 9000),
])
def test_radians_are_not_mistaken(radians):
    check_angles("scan", radians)
