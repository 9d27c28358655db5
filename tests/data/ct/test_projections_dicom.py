"""DICOM-CT-PD. Real files are behind an agreement: a scanner is simulated as the format says."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import torch

from medinv.data.ct import projections_dicom as tags
from medinv.data.ct.projections import read_sinogram
from medinv.data.ct.projections_dicom import is_projection_dicom, read_projection_dicom
from medinv.data.ct.sinogram import Sinogram
from medinv.errors import DataError
from medinv.operators.cone import ConeBeam
from tests.data.ct.projection_files import SCALE, Scanner
from tests.data.fuzzing import assert_survives

FLYING = ((0.0, 0.0, 0.0), (0.5, 0.004, 0.6), (-0.4, -0.004, -0.6))


def seen(geometry, point_pd):
    """(view, 2): where a point in the format's coordinates appears; y turns down."""
    x, y, z = point_pd
    return geometry.project(torch.tensor([[x, -y, z]], dtype=torch.float64))[:, 0]


def straight(scanner, point):
    """Row and column (from 0) that the ray through a point meets, by search along the detector."""
    away = point - scanner.sources()
    rays = scanner.elements() - scanner.sources()[:, None, None]
    fan = torch.atan2(rays[:, 0, :, 0], rays[:, 0, :, 1])
    wanted = torch.atan2(away[:, 0], away[:, 1])
    base = fan[:, :1]
    angles, wanted = (torch.remainder(a - base + np.pi, 2 * np.pi) - np.pi
                      for a in (fan, wanted[:, None]))
    columns = [np.interp(float(w), *(v[np.argsort(a)] for v in (a, np.arange(len(a)))))
               for a, w in zip(angles.numpy(), wanted, strict=True)]
    return torch.tensor(columns)


@pytest.mark.parametrize("shape", ["CYLINDRICAL", "FLAT"])
@pytest.mark.parametrize("shifts", [FLYING[:1], FLYING])
def test_points_fall_where_the_format_says(tmp_path, shifts, shape):
    scanner = Scanner(shifts, shape)
    sinogram = read_sinogram(scanner.write(tmp_path / "scan"))
    assert sinogram.metadata["middle_z_mm"] == pytest.approx(509.75)
    local = scanner.ball - torch.tensor([0, 0, 509.75])
    col = seen(sinogram.geometry, local)[:, 1]
    # Interpolating angles between columns linearly is off by some thousandths on a flat detector.
    assert float((col - straight(scanner, scanner.ball)).abs().max()) < 0.02
    assert sinogram.metadata["largest_column_error"] < 0.1


@pytest.mark.parametrize("shifts", [FLYING[:1], FLYING])
def test_the_operator_reproduces_the_written_rays(tmp_path, shifts):
    scanner = Scanner(shifts)
    sinogram = read_projection_dicom(scanner.write(tmp_path / "scan"))
    assert float((sinogram.data - scanner.integrals()).abs().max()) < SCALE
    sinogram = sinogram.on_grid((36, 80, 80), (1.0, 0.75, 0.75))
    A = sinogram.operator()
    assert isinstance(A, ConeBeam)
    z, y, x = (mm * (torch.arange(n) - (n - 1) / 2)
               for n, mm in zip((36, 80, 80), (1.0, 0.75, 0.75), strict=True))
    bx, by, bz = (scanner.ball - torch.tensor([0, 0, 509.75])).tolist()
    inside = ((z - bz)[:, None, None] ** 2 + (y + by)[:, None] ** 2 + (x - bx) ** 2) < 36
    y = A(0.02 * inside.float())
    assert float((y - sinogram.data).norm() / sinogram.data.norm()) < 0.12  # voxels of 1 mm
    # A mirrored, shifted or reversed geometry would miss the ball altogether.


@pytest.mark.parametrize(("position", "orientation"), [
    ("HFS", "LPS"), ("FFS", "RPI"), ("HFP", "RAS"), ("FFDL", "PLI"), (None, None)])
def test_the_patient_lies_as_the_header_says(tmp_path, position, orientation):
    sinogram = read_projection_dicom(Scanner().write(tmp_path / "scan", position=position))
    assert sinogram.orientation == orientation
    image = torch.zeros(sinogram.geometry.shape)
    volume = sinogram.volume(image)
    assert volume.orientation == (orientation or "LPS")
    assert torch.linalg.det(volume.affine[:3, :3]) > 0  # never a mirror image
    assert sinogram.acquisition.kvp == 120
    assert "Doe" not in str(sinogram.metadata) + str(sinogram.acquisition)


def test_a_transposed_picture_is_turned(tmp_path):
    scanner = Scanner()
    sinogram = read_projection_dicom(scanner.write(tmp_path / "scan", transposed=True))
    assert float((sinogram.data - scanner.integrals()).abs().max()) < SCALE
    assert is_projection_dicom(tmp_path / "scan")


def test_noise_follows_the_photons(tmp_path):
    scanner = Scanner()
    sinogram = read_projection_dicom(scanner.write(tmp_path / "scan"))
    expected = float((scanner.integrals().exp().mean() / 1e5).sqrt())
    assert sinogram.noise() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("changed", "message"), [
    ({"SHAPE": "SPHERICAL"}, "cylindrical or flat detector, found a spherical"),
    ({"LOG": "NO"}, r"expected line integrals \(LogFlag YES\)"),
    ({"RHO": None}, r"finite number\(s\) in \(7031,1003\)"),
    ({"CENTRE": [1.0]}, r"expected 2 finite number\(s\) in \(7031,1033\)"),
    ({"ROWS": 5}, r"expected \(5, 24\) detector elements, found 4 x 24"),
    ({"RADIUS": 0.0}, "detector of positive size"),
    ({"RHO": 1e9}, "focal spot within"),
])
def test_wrong_headers_are_refused(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        read_projection_dicom(Scanner().write(tmp_path / "scan", **changed))


def test_azimuths_in_degrees_are_noticed(tmp_path):
    folder = Scanner().write(tmp_path / "scan")
    for number, path in enumerate(sorted(folder.iterdir())):
        file = pydicom.dcmread(path)
        file[tags.PHI].value = 10.0 * number
        file.save_as(path)
    with pytest.raises(DataError, match="look like degrees"):
        read_projection_dicom(folder)


def test_two_series_and_other_files_are_refused(tmp_path):
    folder = Scanner().write(tmp_path / "one")
    Scanner().write(tmp_path / "one" / "two")
    with pytest.raises(DataError, match="one series of one spectrum, found several"):
        read_projection_dicom(folder)
    other = Scanner().write(tmp_path / "three")
    (other / "notes.txt").write_text("read me")
    with pytest.raises(DataError, match="found a file of another kind"):
        read_projection_dicom(other)


def test_damaged_files(tmp_path):
    folder = Scanner().write(tmp_path / "scan")
    seed = (folder / "000.dcm").read_bytes()
    assert_survives(read_projection_dicom, ".dcm", [seed], 60, answer=Sinogram)
