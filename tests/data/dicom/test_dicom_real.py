"""Real series of five vendors: the same voxels at the same places as dcm2niix gives them."""

from __future__ import annotations

import shutil
import subprocess
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from scipy.ndimage import map_coordinates

from medinv.data import Volume, list_series, read_dicom
from medinv.errors import DataError, MedinvWarning

CONVERTED = [f"dicom_fragments/{name}/anatomical/001" for name in (
    "ge", "generic", "hyperfine", "philips", "philips_enhanced", "siemens", "siemens_multiframe",
)] + ["ct_dicom_series_jpeg2000"]
DIFFUSION = "dicom_fragments/siemens/dti_classic/001"
TILTED = "dicom_fragments/failing/gantrytilting/001"


def dcm2niix(folder: Path, output: Path, *options: str) -> list[nibabel.Nifti1Image]:
    """What dcm2niix makes of a folder."""
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed (apt install dcm2niix)")
    subprocess.run(["dcm2niix", *options, "-f", "out", "-o", str(output), str(folder)],
                   check=True, capture_output=True)
    return [nibabel.load(path) for path in sorted(output.glob("*.nii"))]


def on_our_grid(
    image: nibabel.Nifti1Image, volume: Volume, index: int | None = None
) -> np.ndarray:
    """dcm2niix's voxels at our places: it flips rows, and holds its affine in float32."""
    ours = volume.affine.numpy()
    change = np.linalg.inv(image.affine) @ ours
    corners = np.array([[*corner, 1] for corner in product(*(
        (0, n - 1) for n in volume.data.shape[::-1]))]).T
    nearest = (change @ corners).round()
    assert np.abs(image.affine @ nearest - ours @ corners).max() < 1e-3  # mm, issue 4's target
    theirs = np.asarray(image.dataobj, np.float32)
    theirs = theirs if index is None else theirs[..., index]
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in volume.data.shape[::-1]),
                                   indexing="ij")).reshape(3, -1)
    places = (change[:3, :3] @ indices + change[:3, 3:]).round().astype(int)
    return theirs[tuple(places)].reshape(volume.data.shape[::-1]).T


@pytest.mark.parametrize("name", CONVERTED)
@pytest.mark.parametrize("precise", [False, True])
def test_agrees_with_dcm2niix(shared_data, tmp_path, name, precise):
    folder = shared_data / name
    (image,) = dcm2niix(folder, tmp_path, "-p", "y" if precise else "n")
    volume = read_dicom(folder, precise_philips=precise)
    # Both scale stored integers, in another order: they agree to float32's rounding.
    np.testing.assert_allclose(volume.data.numpy(), on_our_grid(image, volume), rtol=2e-7)


@pytest.mark.parametrize("index", [0, 1])
def test_diffusion_volumes_agree_with_dcm2niix(shared_data, tmp_path, index):
    (image,) = dcm2niix(shared_data / DIFFUSION, tmp_path)
    volume = read_dicom(shared_data / DIFFUSION, volume=index)
    np.testing.assert_array_equal(volume.data.numpy(), on_our_grid(image, volume, index))


def test_diffusion_needs_a_choice(shared_data):
    with pytest.raises(DataError, match="found 2 volumes; choose one of\n  volume=0: 4 x 192"):
        read_dicom(shared_data / DIFFUSION)


def test_gantry_tilt_is_named(shared_data):
    with pytest.raises(DataError, match="a gantry tilt of 14 degrees"):
        read_dicom(shared_data / TILTED)


def test_gantry_tilt_is_corrected(shared_data, tmp_path):
    """Each slice is interpolated where the standard places it; dcm2niix chooses a like grid."""
    folder = shared_data / TILTED
    with pytest.warns(MedinvWarning, match="gantry tilt"):
        volume = read_dicom(folder, resample=True)
    files = sorted((pydicom.dcmread(path) for path in folder.iterdir()),
                   key=lambda file: file.ImagePositionPatient[2])
    for z, file in enumerate(files):
        values = file.pixel_array + float(file.RescaleIntercept)
        expected = map_coordinates(values, rows_and_columns(file, volume, z), order=1,
                                   mode="constant", cval=values.min())
        inside = slice(15, -15)  # rows at the border mix with what lies outside
        np.testing.assert_allclose(volume.data[z, inside], expected[inside], atol=1e-3)
    theirs = next(image for image in dcm2niix(folder, tmp_path) if image.shape[1] > 512)
    assert theirs.shape == tuple(volume.data.shape[::-1])
    steps = volume.affine[:3, :3].numpy() * [1, -1, 1]  # it flips rows
    np.testing.assert_allclose(steps, theirs.affine[:3, :3], atol=1e-6)


def rows_and_columns(file: pydicom.Dataset, volume: Volume, z: int) -> np.ndarray:
    """Where in a slice the voxels (y, x) of a volume's slice lie, from its position tags."""
    orientation = np.array(file.ImageOrientationPatient, float)
    _, n_rows, n_columns = volume.data.shape
    x, y = np.meshgrid(np.arange(n_columns), np.arange(n_rows))
    places = np.stack([x, y, np.full_like(x, z), np.ones_like(x)])
    ras = np.einsum("ij,j...->i...", volume.affine.numpy(), places)[:3]
    lps = ras * np.array([-1, -1, 1])[:, None, None]
    offset = lps - np.array(file.ImagePositionPatient, float)[:, None, None]
    spacing = np.array(file.PixelSpacing, float)
    return np.stack([np.tensordot(orientation[3:], offset, 1) / spacing[0],
                     np.tensordot(orientation[:3], offset, 1) / spacing[1]])


def test_slice_thickness_is_not_the_spacing(shared_data):
    volume = read_dicom(shared_data / "ct_dicom_series_jpeg2000")
    assert volume.spacing_mm == pytest.approx((0.9765625, 0.9765625, 2.0))
    assert volume.acquisition.slice_thickness_mm == 3.0


def test_series_are_described(shared_data):
    (series,) = list_series(shared_data / "ct_dicom_series_jpeg2000")
    assert str(series) == ("series without a number, 'CT Body 3.0', CT, 20 images of 512 x 512")
