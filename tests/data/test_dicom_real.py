"""Real series of five vendors: the same voxels at the same places as dcm2niix gives them."""

from __future__ import annotations

import shutil
import subprocess
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest

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


def test_gantry_tilt_corrected_as_dcm2niix_does(shared_data, tmp_path):
    """Both shift each slice along its columns; dcm2niix's interpolation is linear, too."""
    folder = shared_data / TILTED
    images = dcm2niix(folder, tmp_path)
    with pytest.warns(MedinvWarning, match="gantry tilt"):
        volume = read_dicom(folder, resample=True)
    (theirs,) = [image for image in images if image.shape[1] > 512]
    voxels = np.asarray(theirs.dataobj, np.float32).T[:, ::-1]  # it flips rows
    ours = volume.data.numpy()
    assert ours.shape[2] == voxels.shape[2] == 512
    rows = min(ours.shape[1], voxels.shape[1])
    differences = [np.median(np.abs(ours[:, :rows] - np.roll(voxels, shift, 1)[:, :rows]))
                   for shift in (-1, 0, 1)]
    assert min(differences) < 10  # HU


def test_slice_thickness_is_not_the_spacing(shared_data):
    volume = read_dicom(shared_data / "ct_dicom_series_jpeg2000")
    assert volume.spacing_mm == pytest.approx((0.9765625, 0.9765625, 2.0))
    assert volume.acquisition.slice_thickness_mm == 3.0


def test_series_are_described(shared_data):
    (series,) = list_series(shared_data / "ct_dicom_series_jpeg2000")
    assert str(series) == ("series without a number, 'CT Body 3.0', CT, 20 images of 512 x 512")
