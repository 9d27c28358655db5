"""ISMRMRD images, read back by the ismrmrd package."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from medinv.data import Volume, orientation_affine, write_ismrmrd_image
from medinv.errors import DataError

with warnings.catch_warnings():  # it changes the filters
    import ismrmrd

SHAPE = (3, 4, 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_values_and_places(tmp_path, dtype):
    affine = orientation_affine("LIP", (1.0, 2.0, 3.0), SHAPE[::-1])
    volume = Volume(torch.randn(SHAPE, dtype=dtype), affine)
    write_ismrmrd_image(volume, tmp_path / "image.h5")
    with ismrmrd.Dataset(str(tmp_path / "image.h5"), "dataset", mode="r") as file:
        assert file.number_of_images("image_0") == 3
        image = file.read_image("image_0", 2)
    np.testing.assert_array_equal(np.squeeze(image.data), volume.data[2])
    x, y, z = volume.world_mm((2, 2, 2))
    assert list(image.position) == [-x, -y, z]
    assert list(image.read_dir) == [1, 0, 0]
    assert list(image.phase_dir) == [0, 0, -1]
    assert list(image.slice_dir) == [0, 1, 0]
    assert list(image.field_of_view) == [5, 8, 3]
    assert list(image.getHead().matrix_size) == [5, 4, 1]


def test_refuses(tmp_path):
    affine = torch.eye(4, dtype=torch.float64)
    with pytest.raises(DataError, match=r"ends in \.h5"):
        write_ismrmrd_image(Volume(torch.zeros(SHAPE), affine), tmp_path / "image.nii")
    affine[0, 1] = 0.5
    with pytest.raises(DataError, match="sheared"):
        write_ismrmrd_image(Volume(torch.zeros(SHAPE), affine), tmp_path / "image.h5")
