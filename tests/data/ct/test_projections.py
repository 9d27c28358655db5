"""DXchange, HTC 2022, and arrays with a YAML geometry: values, places, and what is refused."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pytest
import torch

from medinv.data.ct.projections import read_dxchange, read_htc, read_sinogram
from medinv.data.ct.projections_yaml import read_projection_arrays
from medinv.data.ct.sinogram import Sinogram
from medinv.errors import DataError
from medinv.operators.ct import FanBeam, ParallelBeam
from medinv.operators.rotation_centre import find_rotation_centre
from medinv.problem import Problem
from medinv.solvers import CGLS, FBP
from tests.data.ct.projection_files import write_dxchange, write_htc
from tests.data.fuzzing import assert_survives

DEGREES = np.arange(0.0, 180.0, 9.0)


def disc_scan():
    """Line integrals (20, 2, 30) of a disc in each of two rows, and its image's operator."""
    A = ParallelBeam((30, 30), torch.deg2rad(torch.from_numpy(DEGREES)), 1.0, 30)
    y, x = torch.meshgrid(torch.arange(30.0), torch.arange(30.0), indexing="ij")
    discs = torch.stack([(x - 19) ** 2 + (y - 12) ** 2 < 16, (x - 9) ** 2 + (y - 18) ** 2 < 9])
    return 0.02 * discs, A(0.02 * discs.float()).transpose(0, 1)


def test_dxchange(tmp_path):
    image, integrals = disc_scan()
    sinogram = read_sinogram(write_dxchange(tmp_path / "scan.h5", integrals, DEGREES))
    torch.testing.assert_close(sinogram.data, integrals, rtol=0, atol=1e-5)
    assert sinogram.geometry.shape == (2, 30, 30)
    notes = " ".join(sinogram.metadata["notes"])
    assert "no pixel size" in notes
    assert "mirror image" in notes
    x = FBP()(Problem(sinogram.measurement(), sinogram.operator()))
    assert float(((x - image) * image).norm() / image.norm() ** 2) < 0.5
    one = read_dxchange(tmp_path / "scan.h5", rows=(1, 2))
    torch.testing.assert_close(one.data, sinogram.data[:, 1:])


@pytest.mark.parametrize(("units", "size"), [("m", 3e-3), ("um", 3000.0), (b"mm", 3.0)])
def test_dxchange_pixel_size(tmp_path, units, size):
    path = write_dxchange(tmp_path / "scan.h5", disc_scan()[1], DEGREES, x_pixel_size=size)
    with h5py.File(path, "a") as file:
        file["measurement/instrument/detector/x_pixel_size"].attrs["units"] = units
    assert read_sinogram(path).geometry.voxel_mm == pytest.approx((3.0, 3.0, 3.0))
    assert read_sinogram(path, pixel_mm=2.0).geometry.voxel_mm == (2.0, 2.0, 2.0)
    assert len(read_sinogram(path).metadata["notes"]) == 1


def test_dxchange_radians_and_dead_pixels(tmp_path):
    _, integrals = disc_scan()
    path = write_dxchange(tmp_path / "scan.h5", integrals, np.deg2rad(DEGREES))
    with h5py.File(path, "a") as file:
        file["exchange/theta"].attrs["units"] = "radians"
        file["exchange/data_white"][:, 0, 3] = 20.0
    sinogram = read_sinogram(path)
    torch.testing.assert_close(sinogram.operator().angles, torch.from_numpy(np.deg2rad(DEGREES)))
    assert "1 detector pixels are dead" in " ".join(sinogram.metadata["notes"])
    assert bool(sinogram.data.isfinite().all())


@pytest.mark.parametrize("span", [math.pi, 2 * math.pi])
@pytest.mark.parametrize("ends", [True, False], ids=["both ends", "one end"])
def test_radians_without_a_unit_are_told_by_their_span(tmp_path, span, ends):
    theta = np.linspace(0.0, span, 20, endpoint=ends) + 0.3
    sinogram = read_sinogram(write_dxchange(tmp_path / "scan.h5", disc_scan()[1], theta))
    torch.testing.assert_close(sinogram.operator().angles, torch.from_numpy(theta))
    assert "were taken as radians" in " ".join(sinogram.metadata["notes"])
    degrees = read_sinogram(tmp_path / "scan.h5", angle_unit="degrees").operator().angles
    torch.testing.assert_close(degrees, torch.deg2rad(torch.from_numpy(theta)))


@pytest.mark.parametrize("span", [0.5, 2.1, 4.0, 4 * math.pi])
def test_angles_that_could_be_either_are_asked_for(tmp_path, span):
    """Limited angles or several turns in radians, or a short arc in degrees."""
    theta = np.linspace(0.0, span, 20)
    path = write_dxchange(tmp_path / "scan.h5", disc_scan()[1], theta)
    with pytest.raises(DataError, match="degrees or radians; say which, with angle_unit"):
        read_sinogram(path)
    angles = read_sinogram(path, angle_unit="radians").geometry.angles
    torch.testing.assert_close(angles, torch.from_numpy(theta))


@pytest.mark.parametrize("span", [30.0, 120.0, 180.0, 360.0, 720.0])
def test_degrees_without_a_unit(tmp_path, span):
    theta = np.linspace(0.0, span, 20, endpoint=False)
    sinogram = read_sinogram(write_dxchange(tmp_path / "scan.h5", disc_scan()[1], theta))
    torch.testing.assert_close(sinogram.geometry.angles, torch.deg2rad(torch.from_numpy(theta)))


@pytest.mark.parametrize("unit", ["radians", None])
def test_radians_in_a_geometry_file(tmp_path, unit):
    stated = f"angle_unit: {unit}" if unit else ""
    (tmp_path / "geometry.yaml").write_text(
        "kind: parallel\ndata: p.npy\nangles: {stop: 3.14159265, count: 20}\ncol_mm: 1\n" + stated)
    np.save(tmp_path / "p.npy", np.zeros((20, 9), np.float32))
    sinogram = read_sinogram(tmp_path)
    angles = math.pi / 20 * torch.arange(20.0).double()
    torch.testing.assert_close(sinogram.geometry.angles, angles)
    assert ("notes" in sinogram.metadata) == (unit is None)


def test_radians_in_a_matlab_file(tmp_path):
    theta = np.arange(20) * math.pi / 10
    sinogram = read_sinogram(write_htc(tmp_path / "htc.mat", np.zeros((20, 30)), theta))
    expected = math.pi - torch.from_numpy(theta)
    torch.testing.assert_close(sinogram.geometry.angles, expected)


def test_an_unknown_unit_of_angles(tmp_path):
    path = write_dxchange(tmp_path / "scan.h5", disc_scan()[1], DEGREES)
    with h5py.File(path, "a") as file:
        file["exchange/theta"].attrs["units"] = "grad"
    with pytest.raises(DataError, match="found the unit 'grad'; say which, with angle_unit"):
        read_sinogram(path)
    assert read_sinogram(path, angle_unit="degrees").geometry.n_views == 20


@pytest.mark.parametrize(("name", "value", "message"), [
    ("data", np.zeros((4, 5)), r"expected exchange/data as real numbers \(view, row, column\)"),
    ("data_white", np.zeros((2, 3, 30)), r"expected exchange/data_white as numbers \(frame, 2"),
    ("data_white", np.zeros((2, 2, 30)), "white frames brighter than dark.*swapped"),
    ("theta", np.zeros(7), "expected exchange/theta as 20 finite angles"),
    ("theta", np.full(20, np.nan), "expected exchange/theta as 20 finite angles"),
    ("theta", None, "no data set 'exchange/theta'"),
    ("data", np.full((20, 2, 30), np.nan), "expected finite data"),
])
def test_wrong_dxchange(tmp_path, name, value, message):
    path = write_dxchange(tmp_path / "scan.h5", disc_scan()[1], DEGREES)
    with h5py.File(path, "a") as file:
        del file[f"exchange/{name}"]
        if value is not None:
            file[f"exchange/{name}"] = value
    with pytest.raises(DataError, match=message):
        read_sinogram(path)


def test_rows_that_the_detector_lacks(tmp_path):
    path = write_dxchange(tmp_path / "scan.h5", disc_scan()[1], DEGREES)
    with pytest.raises(DataError, match=r"within the 2 of the detector, got \[1, 3\]"):
        read_sinogram(path, rows=(1, 3))


def test_htc_pictures_agree_with_astra(tmp_path):
    """The challenge's own geometry is ASTRA's ``fanflat`` with its angles as they are."""
    import astra

    image = np.zeros((40, 40), np.float32)
    image[6:12, 20:34] = 0.03  # right of the centre and above it
    degrees = np.arange(0.0, 360.0, 6.0)
    volume = astra.create_vol_geom(40, 40)
    scan = astra.create_proj_geom("fanflat", 1.25, 60, np.deg2rad(degrees), 250.0, 62.5)
    projector = astra.create_projector("line_fanflat", scan, volume)
    identity, sinogram = astra.create_sino(image, projector)
    astra.data2d.delete(identity)
    astra.projector.delete(projector)
    path = write_htc(tmp_path / "htc.mat", 1.6 * sinogram.astype(float), degrees)  # 1.6 mm pixels
    read = read_sinogram(path).on_grid((1, 40, 40), (1.6, 1.6, 1.6))
    A = read.operator()
    assert isinstance(A, FanBeam)
    x = CGLS(max_iter=20)(Problem(read.measurement(), A))[0].numpy()
    assert np.corrcoef(x.ravel(), image.ravel())[0, 1] > 0.95
    assert read.acquisition.kvp == 45


@pytest.mark.parametrize(("changed", "message"), [
    ({"angles": None}, "expected real numbers in angles, found nothing"),
    ({"angles": np.arange(3.0)}, "an angle for each view"),
    ({"distanceSourceOrigin": "far"}, "expected real numbers in distanceSourceOrigin"),
    ({"distanceSourceDetector": 300.0}, "its parameters make no fan beam"),
    ({"pixelSizePost": np.ones(2)}, "expected real numbers in pixelSizePost"),
])
def test_wrong_htc(tmp_path, changed, message):
    path = write_htc(tmp_path / "htc.mat", np.ones((4, 9)), 90 * np.arange(4.0), **changed)
    with pytest.raises(DataError, match=message):
        read_htc(path)


def test_other_mat_files_are_no_htc(tmp_path):
    from scipy.io import savemat

    savemat(tmp_path / "other.mat", {"a": np.ones(3)})
    with pytest.raises(DataError, match="expected one struct with a sinogram"):
        read_sinogram(tmp_path / "other.mat")
    (tmp_path / "no.mat").write_bytes(b"not a file of MATLAB")
    with pytest.raises(DataError, match="expected a MATLAB file of version 5"):
        read_sinogram(tmp_path / "no.mat")


FAN = """
kind: fan
data: scan.npy
angles: {start: 0, stop: 360, count: 5}
source_mm: 90
detector_mm: 30
col_mm: 0.7
"""


def write_arrays(folder, text=FAN, shape=(5, 16)):
    np.save(folder / "scan.npy", np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    (folder / "geometry.yaml").write_text(text)
    return folder


def test_arrays_with_a_geometry(tmp_path):
    sinogram = read_sinogram(write_arrays(tmp_path))
    A = sinogram.operator()
    assert isinstance(A, FanBeam)
    assert A.source_mm == pytest.approx(90)
    assert A.angles[1].item() == pytest.approx(np.deg2rad(72))
    for path in (tmp_path / "scan.npy", tmp_path / "geometry.yaml"):
        torch.testing.assert_close(read_sinogram(path).data, sinogram.data)


def test_arrays_of_a_helix_in_another_order_on_a_stated_grid(tmp_path):
    text = FAN.replace("fan", "helical") + (
        "axes: row view col\npitch_mm: 3\nshape: [6, 8, 8]\nvoxel_mm: [1, 0.5, 0.5]\n"
        "values: transmission\n")
    sinogram = read_sinogram(write_arrays(tmp_path, text, (4, 5, 16)))
    assert sinogram.data.shape == (5, 4, 16)
    assert sinogram.geometry.shape == (6, 8, 8)
    assert sinogram.data[1, 2, 3].item() == pytest.approx(-np.log(2 * 80 + 16 + 3), rel=1e-5)
    heights = sinogram.geometry.sources[:, 2]
    assert float(heights[-1] - heights[0]) == pytest.approx(3 * 4 / 5)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("kind: fan", "kind: fun", "kind: .*'parallel', 'fan', 'cone' or 'helical'"),
    ("source_mm: 90\n", "", "a fan beam needs source_mm"),
    ("source_mm: 90", "source_mm: -90", "source_mm: .*greater than 0"),
    ("source_mm: 90", "source_mmm: 90", "source_mmm: Extra inputs are not permitted"),
    ("count: 5", "count: 6", "angles: expected one for each of the 5 views, got 6"),
    ("scan.npy", "../scan.npy", r"data: expected an \.npy or \.npz file in the folder"),
    ("scan.npy", "/scan.npy", r"data: expected an \.npy or \.npz file in the folder"),
    ("kind: fan", "kind: [", "not valid YAML"),
    ("kind: fan", "kind: !!python/object:os.system fan", "not valid YAML"),
    ("kind: fan", "kind: &a fan", "plain YAML, found an anchor or alias"),
    ("col_mm: 0.7", "col_mm: 0.7\nshape: [1, 8, 8]", "shape and voxel_mm belong together"),
    ("source_mm: 90", "source_mm: 0.1\nshape: [1, 8, 8]\nvoxel_mm: [1, 1, 1]", "inside the vol"),
])
def test_wrong_geometry(tmp_path, old, new, message):
    with pytest.raises(DataError, match=message):
        read_projection_arrays(write_arrays(tmp_path, FAN.replace(old, new)) / "geometry.yaml")


def test_arrays_without_a_geometry(tmp_path):
    np.save(tmp_path / "scan.npy", np.zeros((3, 4)))
    with pytest.raises(DataError, match="expected a YAML file with the scan's geometry"):
        read_sinogram(tmp_path / "scan.npy")
    with pytest.raises(DataError, match="leave out pixel_mm"):
        read_sinogram(tmp_path / "scan.npy", pixel_mm=1.0)


def test_damaged_files(tmp_path):
    dx = write_dxchange(tmp_path / "scan.h5", disc_scan()[1], DEGREES).read_bytes()
    assert_survives(read_sinogram, ".h5", [dx], 60, answer=Sinogram)
    mats = [write_htc(tmp_path / f"{packed}.mat", np.ones((4, 9)), 30 * np.arange(4.0),
                      packed=packed) for packed in (False, True)]
    assert_survives(read_sinogram, ".mat", [mat.read_bytes() for mat in mats], 100,
                    answer=Sinogram)

    def read(path):
        np.save(path.parent / "scan.npy", np.zeros((5, 16), np.float32))
        return read_sinogram(path)

    assert_survives(read, ".yaml", [FAN.encode()], 60, answer=Sinogram)


def test_the_measured_tooth(shared_data):
    sinogram = read_sinogram(shared_data / "ct_tooth_synchrotron" / "tooth.h5", rows=(0, 1))
    assert sinogram.data.shape == (181, 1, 640)
    A = sinogram.operator()
    # tomopy's example for this file starts its search for the centre at column 290 and ends near
    # 296; the offset is from the middle, column 319.5.
    offset = find_rotation_centre(sinogram.measurement(), A.angles)
    assert 319.5 - offset == pytest.approx(296, abs=1)


def test_the_measured_disc(shared_data):
    sinogram = read_sinogram(shared_data / "ct_fanbeam_htc2022" / "cil_ta_sparse.mat")
    A = sinogram.operator()
    assert isinstance(A, FanBeam)
    assert A.source_mm == pytest.approx(410.66)
    assert A.source_mm + A.detector_mm == pytest.approx(553.74)
    assert sinogram.data.shape == (121, 1, 560)
