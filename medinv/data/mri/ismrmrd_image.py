"""ISMRMRD images: a volume, slice by slice, with its place in the patient."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from medinv.data.atomic import replacing
from medinv.data.volume import Volume
from medinv.errors import DataError

_MAX_AXIS = 65535


def write_ismrmrd_image(volume: Volume, path: str | Path, *, group: str = "dataset",
                        name: str = "image_0") -> None:
    """Write a volume as ISMRMRD images (slice, channel, 1, y, x), atomically.

    Real volumes are written as float32, complex ones as complex64. ``position`` is the place of
    the voxel ``n // 2`` of x and y; positions and directions are LPS, as the standard has them.

    Args:
        volume: what to write; its axes are at right angles.
        path: its name, ending in ``.h5``.
        group: of the HDF5 file.
        name: of the images in the group.

    Raises:
        DataError: another suffix, more than 65535 voxels along an axis, or a sheared grid.
        OutputError: the file could not be written; nothing is left under its name.

    Source:
        Inati et al. 2017, ISMRM Raw data format, Magn. Reson. Med. 77, 411.

    >>> import tempfile
    >>> image = Volume(torch.ones(2, 4, 4), torch.eye(4, dtype=torch.float64))
    >>> write_ismrmrd_image(image, Path(tempfile.mkdtemp(), "image.h5"))
    """
    with warnings.catch_warnings():  # importing it changes the filters
        import ismrmrd

    path = Path(path)
    if path.suffix != ".h5":
        raise DataError(f"{path}: expected a name that ends in .h5; rename the output")
    spacing = np.array(volume.spacing_mm)
    directions = volume.affine[:3, :3].numpy() * np.array([[-1.0], [-1.0], [1.0]]) / spacing
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-4):
        raise DataError(f"{path}: expected axes at right angles, found a sheared grid; resample "
                        "the volume, or write NIfTI")
    if max(volume.data.shape) > _MAX_AXIS:
        raise DataError(f"{path}: expected at most {_MAX_AXIS} voxels along an axis, got "
                        f"{tuple(volume.data.shape)}; crop the volume")
    data = volume.data.detach().cpu().resolve_conj()
    data = data.to(torch.complex64 if data.is_complex() else torch.float32)
    _, ny, nx = data.shape
    with replacing(path) as temporary, ismrmrd.Dataset(str(temporary), group, mode="w") as file:
        for z, plane in enumerate(data.numpy()):
            image = ismrmrd.Image.from_array(plane, transpose=False)
            x, y, height = volume.world_mm((nx // 2, ny // 2, z))
            image.position = (-x, -y, height)
            image.read_dir, image.phase_dir, image.slice_dir = map(tuple, directions.T)
            image.field_of_view = (nx * spacing[0], ny * spacing[1], spacing[2])
            image.slice = image.image_index = z
            file.append_image(name, image)
