"""HU at the boundary; the phantom's volume against its closed form."""

from __future__ import annotations

import math

import pytest
import torch

from medinv.data import hu_to_mu, mu_to_hu, shepp_logan
from medinv.data.phantom import SHEPP_LOGAN
from medinv.errors import InputError, ShapeError


def test_hu_round_trip():
    hu = torch.linspace(-1000, 3000, 41, dtype=torch.float64)
    torch.testing.assert_close(mu_to_hu(hu_to_mu(hu, 0.019), 0.019), hu)
    assert hu_to_mu(torch.tensor([-2000.0])).item() == 0


@pytest.mark.parametrize("convert", [hu_to_mu, mu_to_hu])
def test_mu_water_must_be_positive(convert):
    with pytest.raises(InputError, match="positive attenuation"):
        convert(torch.zeros(1), 0.0)


def test_phantom_integral_is_that_of_its_ellipsoids():
    volume = shepp_logan((64, 64, 64), fov_mm=2.0)
    exact = sum(part.value * 4 / 3 * math.pi * math.prod(part.axes) for part in SHEPP_LOGAN)
    measured = volume.data.double().sum().item() * math.prod(volume.spacing_mm)
    assert measured == pytest.approx(exact, rel=0.01)  # voxels at the edge are all or nothing


def test_phantom_refuses_an_empty_shape():
    with pytest.raises(ShapeError, match="positive shape"):
        shepp_logan((0, 4, 4))
