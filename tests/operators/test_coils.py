from __future__ import annotations

import numpy as np
import pytest
import torch

from medinv.errors import InputError, ShapeError
from medinv.operators import CartesianMRI, fourier
from medinv.operators.coils import espirit
from tests.operators.ct_objects import disc_image


def smooth_maps(n_coils, shape):
    """Complex sensitivities that fall off from points around the image, normalised."""
    y, x = (torch.linspace(-1, 1, n) for n in shape)
    angles = torch.arange(n_coils) * 2 * torch.pi / n_coils
    distance = ((x - 1.3 * torch.cos(angles)[:, None, None]) ** 2
                + (y[:, None] - 1.3 * torch.sin(angles)[:, None, None]) ** 2)
    maps = torch.exp(-distance / 2 + 0.5j * (x * torch.sin(angles)[:, None, None]))
    return maps / torch.linalg.vector_norm(maps, dim=0)


@pytest.fixture(scope="module")
def calibrated():
    """An object, its true maps, its k-space and the maps that ESPIRiT finds."""
    shape = (48, 43)
    body = disc_image(shape, 1.0, x0=1.0, y0=-2.0, radius=15.0, mu=1.0)
    maps = smooth_maps(4, shape)
    kspace = fourier.fft(maps * body, (-2, -1))
    return body, maps, kspace, espirit(kspace, calibration_width=20)


def test_maps_are_normalised_inside_their_support(calibrated):
    _, _, _, maps = calibrated
    power = maps.abs().square().sum(0)
    support = power > 0
    torch.testing.assert_close(power[support], torch.ones(int(support.sum())))
    assert CartesianMRI(maps, torch.ones(48, 43)).norm() <= 1 + 1e-5


def test_maps_are_found_up_to_a_phase(calibrated):
    body, truth, _, maps = calibrated
    inside = body == 1
    correlation = (maps.conj() * truth).sum(0).abs()[inside]
    assert float(correlation.min()) > 0.98
    assert float(correlation.mean()) > 0.995
    support = maps.abs().sum(0) > 0
    assert support[inside].float().mean() > 0.99
    assert not support[:4].any()  # cropped far from the object


def test_a_batch_of_slices_goes_slice_by_slice(calibrated):
    _, _, kspace, maps = calibrated
    both = espirit(torch.stack([kspace, 2 * kspace]), calibration_width=20)
    torch.testing.assert_close(both[0], maps)
    torch.testing.assert_close(both[1], maps)


def test_default_width_is_the_sampled_centre(calibrated):
    _, _, kspace, maps = calibrated
    masked = torch.zeros_like(kspace)
    centre = (slice(None), slice(14, 34), slice(11, 31))
    masked[centre] = kspace[centre]
    torch.testing.assert_close(espirit(masked), maps)
    with pytest.raises(InputError, match=r"calibration_width is 24, but the fully sampled centre "
                                         r"of k-space is 20 wide and the kernel 6"):
        espirit(masked, calibration_width=24)


def test_too_small_a_centre_is_refused(calibrated):
    _, _, kspace, _ = calibrated
    with pytest.raises(InputError, match="pass a width between the two, or maps from another"):
        espirit(kspace, calibration_width=4)


def test_wrong_kspace_is_refused():
    with pytest.raises(ShapeError, match=r"pass a complex tensor \(\*slices, coil, ky, kx\)"):
        espirit(torch.zeros(3, 8, 8))
    with pytest.raises(ShapeError, match=r"\(\*slices, coil, kz, ky, kx\)"):
        espirit(torch.zeros(8, 8, 8, dtype=torch.complex64), ndim=3)


def test_three_dimensions(rng):
    disc = disc_image((14, 14), 1.0, x0=0.0, y0=0.0, radius=5.0, mu=1.0)
    body = disc * ((torch.arange(12) - 5.5).abs() < 4).float()[:, None, None]
    body = body + 1e-4 * torch.randn(body.shape, generator=rng)  # no sample is exactly 0
    maps = smooth_maps(2, (14, 14)).unsqueeze(1)
    found = espirit(fourier.fft(maps * body, (-3, -2, -1)), calibration_width=10, crop=0.5, ndim=3)
    correlation = (found.conj() * maps).sum(0).abs()[body > 0.99]
    assert float(correlation.mean()) > 0.95


@pytest.mark.slow
def test_real_brain(shared_data):
    kspace = torch.from_numpy(np.load(
        shared_data / "mri_brain_8coil_poisson8x" / "cartesian_ksp.npy"))
    maps = espirit(kspace)
    mask = (kspace != 0).any(0)
    A = CartesianMRI(maps, mask)
    x = A.solve(kspace, max_iter=20)
    # The maps explain the data: what CG leaves is noise, a few per cent of this scan.
    assert (A(x) - kspace).norm() < 0.15 * kspace.norm()
