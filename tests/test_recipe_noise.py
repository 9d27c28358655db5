"""The noise of k-space without a noise scan, against noise that was put there."""

from __future__ import annotations

import math

import pytest
import torch

from medinv.data import KSpace, NonCartesianKSpace
from medinv.operators import NonCartesianMRI, fourier, trajectories
from medinv.operators.coil_data import CoilTransform, prewhitening_matrix
from medinv.recipe.mri import birdcage
from medinv.recipe.mri_noise import corner_noise, estimate_noise, estimate_trajectory_noise

N, COILS = 96, 8
UNEQUAL = torch.linspace(0.2, 4, COILS)


def half() -> torch.Tensor:
    """Every second column and the 12 central ones."""
    columns = torch.arange(N)
    return ((columns % 2 == 0) | ((columns - N // 2).abs() < 6)).expand(N, N)


def white(*shape: int) -> torch.Tensor:
    """Noise with a deviation of 1 per real component."""
    rng = torch.Generator().manual_seed(0)
    return torch.view_as_complex(torch.randn(*shape, 2, generator=rng))


def disc(coils: int = COILS) -> torch.Tensor:
    """k-space (coil, ky, kx) of a disc of ones with jagged edges."""
    q = torch.arange(N) - N / 2
    image = (((q - 2) ** 2 + (q[:, None] - 1) ** 2) < 30**2).to(torch.complex64)
    maps = birdcage(coils, (N, N)) if coils > 1 else torch.ones(1, N, N)
    return fourier.fft(maps * image, (-2, -1))


def test_unequal_coils():
    """The root mean square of the coils; the median of all samples would be 0.76 of it."""
    y = 0.05 * UNEQUAL[:, None, None] * white(1, COILS, N, N)
    y[0, :, N // 2 - 4: N // 2 + 4, N // 2 - 4: N // 2 + 4] += 1000
    rms = 0.05 * float(UNEQUAL.square().mean().sqrt())
    found = estimate_noise(y * half(), half())
    assert found == pytest.approx(rms, rel=0.05)  # about 400 samples of each coil
    assert found > 0.05 * float(UNEQUAL.mean())


@pytest.mark.parametrize(("coils", "level", "most"), [(8, 0.01, 1.15), (8, 0.002, 1.4),
                                                      (2, 0.01, 1.5), (1, 0.01, 1.8)])
def test_sharp_edges(coils, level, most):
    """Never too low by more than chance, and less than half of what the corners hold too much."""
    y = (disc(coils) + level * white(coils, N, N))[None] * half()
    corner = float(y[..., half() & (half() != 0) & (radius() > 0.55)].abs().median())
    corner /= math.sqrt(2 * math.log(2)) * level
    found = estimate_noise(y, half()) / level
    assert 0.95 < found < most
    assert found - 1 < (corner - 1) / 2


def radius() -> torch.Tensor:
    q = (torch.arange(N) - N // 2) / N
    return torch.hypot(q[:, None], q)


def test_correlated_coils_are_not_taken_for_signal():
    mixing = torch.linalg.cholesky(0.6 + 0.4 * torch.eye(COILS)).to(torch.complex64)
    y = (disc() + 0.05 * torch.tensordot(mixing, white(COILS, N, N), 1))[None] * half()
    assert 0.95 < estimate_noise(y, half()) / 0.05 < 1.1


def test_whitening_by_the_corners():
    """Afterwards the noise, correlated and unequal, has a deviation of 1 in every coil."""
    mixing = torch.diag(UNEQUAL) @ torch.linalg.cholesky(0.4 + 0.6 * torch.eye(COILS))
    noise = 0.01 * torch.tensordot(mixing.to(torch.complex64), white(COILS, N, N), 1)
    scan = KSpace(((disc() + noise)[None] * half()), half())
    transform = CoilTransform(prewhitening_matrix(corner_noise(scan)))
    found = transform.kspace(noise).flatten(1)
    covariance = (found @ found.mH / found.shape[1] / 2).real
    # Signal is left in the coil whose noise is least, 5 % of the mean; 400 samples of each coil.
    assert float(covariance.diagonal().min()) > 0.25
    assert float(covariance.diagonal().median()) > 0.85
    assert float(covariance.diagonal().max()) < 1.2
    assert float((covariance - torch.diag(covariance.diagonal())).abs().max()) < 0.2


def test_on_spokes():
    points = trajectories.golden_angle(60, N, oversampling=2).points
    q = torch.arange(N) - N / 2
    image = ((q**2 + q[:, None] ** 2) < 30**2).to(torch.complex64)
    y = NonCartesianMRI(birdcage(COILS, (N, N)), points)(image)
    y = (y + 0.01 * white(*y.shape))[None]
    # The ends of the spokes alone would give 1.68.
    assert 0.95 < estimate_trajectory_noise(y, points, (N, N)) / 0.01 < 1.55
    scan = NonCartesianKSpace(y, points, (1, N, N))
    assert corner_noise(scan).shape[0] == COILS


@pytest.mark.parametrize("shape", [(1, COILS, 12, 12), (2, 1, 5, 3), (1, 2, 6, 8, 10)])
def test_few_samples(shape):
    """Too few for a prediction: the corners alone."""
    y = white(*shape)
    mask = torch.ones(shape[2:]) > 0
    assert 0.3 < estimate_noise(y, mask) < 2


def test_scattered_points():
    mask = torch.rand(N, N, generator=torch.Generator().manual_seed(1)) < 0.1
    y = torch.where(mask, 3 * white(1, COILS, N, N), 0)
    assert estimate_noise(y, mask) == pytest.approx(3, rel=0.1)


def test_slices_have_masks_of_their_own():
    masks = torch.stack([half(), half().roll(1, 1)])
    y = torch.where(masks[:, None], 2 * white(2, COILS, N, N), 0)
    assert estimate_noise(y, masks) == pytest.approx(2, rel=0.05)
