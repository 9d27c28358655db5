"""What objects say of themselves in a notebook: short, and never their numbers."""

from __future__ import annotations

import pytest
import torch

import medinv
from medinv.operators.ct_geometry import parallel
from medinv.recipe.load import validate_recipe
from tests import tiny
from tests.cases import OPERATORS


@pytest.mark.parametrize("case", OPERATORS, ids=lambda case: case.name)
def test_operators_tell_their_spaces(case):
    operator = case.make(case.dtypes[0])
    text = repr(operator)
    assert str(operator.domain) in text
    assert str(operator.codomain) in text
    assert "tensor(" not in text
    assert len(text) < 2000


def test_operators_in_full():
    A = medinv.ParallelBeam((8, 8), torch.arange(6) * torch.pi / 6, pixel_mm=0.7, n_cols=9)
    assert repr(A) == ("ParallelBeam((*batch, y 8, x 8) float32 -> (*batch, view 6, col 9), "
                       "pixels of 0.7 mm)")
    maps = torch.ones(4, 6, 6, dtype=torch.complex64) / 2
    mask = torch.arange(6) % 2 == 0
    assert repr(medinv.CartesianMRI(maps, mask)) == (
        "CartesianMRI((*batch, y 6, x 6) complex64 -> (*batch, coil 4, ky 6, kx 6), "
        "2x undersampled)")


def test_data_tell_shapes_and_millimetres():
    assert repr(tiny.ct_volume()) == (
        "Volume(4 x 24 x 32 float32 voxels (z, y, x), 2 x 2 x 3 mm (x, y, z), LAS)")
    kspace = medinv.KSpace(torch.zeros(2, 4, 6, 8, dtype=torch.complex64), torch.ones(6, 8) > 0,
                           voxel_mm=(4.0, 1.0, 1.0))
    assert repr(kspace) == ("KSpace(2 x 4 x 6 x 8 complex64 (slice, coil, ky, kx), 1x "
                            "undersampled, voxels of 4 x 1 x 1 mm (z, y, x))")
    spokes = medinv.NonCartesianKSpace(torch.zeros(1, 4, 30, 64, dtype=torch.complex64),
                                       torch.zeros(30, 64, 2), (1, 32, 32))
    assert repr(spokes).startswith("NonCartesianKSpace(1 x 4 x 30 x 64 complex64 (slice, coil, ")
    scan = parallel((2, 8, 8), torch.arange(6) * torch.pi / 6, 0.5, n_cols=8)
    sinogram = medinv.Sinogram(torch.zeros(6, 2, 8), scan)
    assert repr(sinogram) == "Sinogram(6 x 2 x 8 float32 (view, row, col) of 2 x 8 x 8 voxels "\
        "(z, y, x))"


def test_a_run_tells_its_methods(tmp_path):
    recipe = validate_recipe(tiny.ct_recipe(tmp_path) | {"baselines": [{"name": "FBP"}]}, "test")
    text = repr(medinv.recipe.run_recipe(recipe))
    assert "Method(baseline, 4 x 24 x 32 float32" in text
    assert "tensor(" not in text
