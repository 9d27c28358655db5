"""The rotation centre of simulated and measured parallel scans."""

from __future__ import annotations

import math

import h5py
import pytest
import torch

from medinv.errors import InputError
from medinv.operators import ParallelBeam
from medinv.operators.noise import flat_dark_correct, log_transform
from medinv.operators.rotation_centre import find_rotation_centre
from medinv.problem import Problem
from medinv.solvers import FBP
from tests.operators.ct_objects import disc_line_integrals


def discs(n_cols, angles, offset, rng, noise=0.0):
    """Line integrals of six discs, seen by a detector that is shifted by ``offset`` columns."""
    A = ParallelBeam((n_cols, n_cols), angles, 1.0, n_cols, col_offset_mm=offset)
    total = torch.zeros(A.codomain.shape)
    for _ in range(6):
        x0, y0, size = torch.rand(3, generator=rng).tolist()
        total += disc_line_integrals(A, (x0 - 0.5) * n_cols / 2, (y0 - 0.5) * n_cols / 2,
                                     (0.02 + 0.08 * size) * n_cols, 1.0)
    return total + noise * total.max() * torch.randn(total.shape, generator=rng)


@pytest.mark.parametrize("offset", [0.0, 0.3, -2.4, 11.2])
@pytest.mark.parametrize(("n_cols", "angles"), [
    (65, torch.arange(60) * math.pi / 60), (128, 0.3 - torch.arange(91) * math.pi / 90),
    (100, torch.arange(160) * math.pi / 80),
], ids=["half turn", "backwards, both ends", "full turn"])
def test_the_offset_is_found(n_cols, angles, offset, rng):
    clean, noisy = (discs(n_cols, angles, offset, rng, noise) for noise in (0.0, 0.02))
    assert find_rotation_centre(clean, angles) == pytest.approx(offset, abs=0.1)
    assert find_rotation_centre(noisy, angles) == pytest.approx(offset, abs=0.15)


def test_rows_share_one_offset(rng):
    angles = torch.arange(60) * math.pi / 60
    rows = torch.stack([discs(65, angles, 1.5, rng) for _ in range(2)])
    assert find_rotation_centre(rows, angles) == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize(("angles", "message"), [
    (torch.arange(60) * math.pi / 90, r"expected views over 180 degrees, got 120"),
    (torch.linspace(0, 1, 60) ** 2 * math.pi, "expected evenly spaced angles"),
    (torch.zeros(1), "expected evenly spaced angles"),
])
def test_unfit_angles_are_refused(angles, message):
    with pytest.raises(InputError, match=message):
        find_rotation_centre(torch.zeros(len(angles), 20), angles)


@pytest.mark.parametrize("flip", [False, True])
def test_half_acquisition_is_refused(flip):
    """The mirror image of an object that is cut off fits nowhere: no offset is better than one."""
    angles = torch.arange(360) * math.pi / 180
    s = torch.arange(50.0) - 4.5  # the axis is seen at column 4.5
    centre = 5 * angles.cos() + 3 * angles.sin()
    sinogram = (20.0**2 - (s - centre[:, None]) ** 2).clamp(min=0).sqrt()
    with pytest.raises(InputError, match="goes on beyond one side of the detector"):
        find_rotation_centre(sinogram.flip(1) if flip else sinogram, angles)


def test_the_measured_tooth(shared_data):
    """The axis that image sharpness prefers is the one that is found."""
    with h5py.File(shared_data / "ct_tooth_synchrotron" / "tooth.h5") as file:
        data, flat, dark, degrees = (torch.from_numpy(file["exchange"][name][:, ...])
                                     for name in ("data", "data_white", "data_dark", "theta"))
    transmission = flat_dark_correct(data, flat.mean(0), dark.mean(0))
    y = log_transform(transmission, floor=1e-3)[:, 0]
    angles = torch.deg2rad(degrees)
    offset = find_rotation_centre(y, angles)

    def negative_energy(offset):
        """Streaks of a wrong centre go below zero, where no attenuation is."""
        A = ParallelBeam((300, 300), angles, 1.0, 640, col_offset_mm=offset)
        return FBP("hann")(Problem(y, A)).clamp(max=0).norm()

    best = negative_energy(offset)
    for shift in (-4.0, -1.0, 1.0, 4.0):
        assert best < negative_energy(offset + shift)
