"""Multi-coil k-space on a trajectory, and what the file says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from medinv.arguments import checked
from medinv.data.geometry import placed
from medinv.data.metadata import Metadata
from medinv.data.mri.ismrmrd_header import Encoding
from medinv.data.mri.kspace import chosen, moved, told_voxels, whitened
from medinv.data.volume import Volume, sizes
from medinv.errors import DataError, ShapeError

_ROUNDING = 1e-3


@checked
@dataclass(frozen=True, eq=False)
class NonCartesianKSpace:
    """k-space samples on a trajectory that all slices share.

    Attributes:
        data: (slice, coil, shot, sample) complex64; one slice for a 3D trajectory.
        trajectory: (shot, sample, 2 or 3), (ky, kx) or (kz, ky, kx) in cycles per field of view:
            within [-n/2, n/2] along an axis of n voxels, as `NonCartesianMRI` takes it.
        shape: (z, y, x) of the image.
        metadata: what the file says; no patient identifier.
        voxel_mm: (z, y, x), where known.
        acquisition: how the samples were acquired.
        affine: (4, 4), the image's index (x, y, z) to RAS+ mm, where the file says so.
        noise: (coil, sample), measured without a signal, where the file holds it.

    Raises:
        ShapeError: the axes of data and trajectory don't fit.

    >>> data = torch.zeros(1, 4, 30, 64, dtype=torch.complex64)
    >>> NonCartesianKSpace(data, torch.zeros(30, 64, 2), (1, 32, 32)).n_coils
    4
    """

    data: Tensor
    trajectory: Tensor
    shape: tuple[int, int, int]
    metadata: Mapping[str, object] = field(default_factory=dict)
    voxel_mm: tuple[float, float, float] | None = None
    acquisition: Metadata = Metadata(modality="MR")
    affine: Tensor | None = None
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        data, path = tuple(self.data.shape), tuple(self.trajectory.shape)
        if (len(data) != 4 or not self.data.is_complex() or path[:-1] != data[2:]
                or path[-1] not in (2, 3)):
            raise ShapeError(
                "NonCartesianKSpace: expected complex (slice, coil, shot, sample) on a trajectory "
                f"(shot, sample, 2 or 3), got {self.data.dtype} {data} on {path}"
            )
        if 0 in (*data, *self.shape):
            raise ShapeError(f"NonCartesianKSpace: data (slice, coil, shot, sample) are {data} of "
                             f"an image {self.shape}; expected at least one along each axis")

    def __repr__(self) -> str:
        """Shapes, acceleration and voxels; not the samples."""
        grid = " x ".join(map(str, self.shape))
        return (f"NonCartesianKSpace({sizes(self.data)} (slice, coil, shot, sample) of {grid} "
                f"(z, y, x), {self.acceleration:.3g}x undersampled, {told_voxels(self.voxel_mm)})")

    @property
    def n_coils(self) -> int:
        """Number of receiver coils."""
        return self.data.shape[1]

    @property
    def grid(self) -> tuple[int, ...]:
        """([z,] y, x) of the image that one Fourier transform acts on."""
        return self.shape[-self.trajectory.shape[-1]:]

    @property
    def acceleration(self) -> float:
        """Voxels of one image over samples taken."""
        return prod(self.grid) / prod(self.trajectory.shape[:-1])

    def part(self, slices: slice) -> NonCartesianKSpace:
        """Some of the slices, at their places; a volume of a 3D trajectory stays whole.

        Raises:
            DataError: the selection is empty, or not in steps of 1.
        """
        if self.trajectory.shape[-1] == 3:
            return self
        first, n = chosen(slices, len(self.data))
        affine = None if self.affine is None else moved(self.affine, 2, first)
        return replace(self, data=self.data[first:first + n], affine=affine,
                       shape=(n, *self.shape[1:]))

    def volume(self, image: Tensor) -> Volume:
        """An image (z, y, x) as a volume; see `medinv.data.geometry.placed`."""
        return placed(image, self.shape, self.voxel_mm, self.affine, self.metadata,
                      self.acquisition)

    def prewhitened(self) -> NonCartesianKSpace:
        """Coils mixed so that their noise is white; see `medinv.data.KSpace.prewhitened`.

        Raises:
            DataError: the file holds no noise samples.
            InputError: it holds too few, or a coil is dead or doubled.
        """
        data = whitened(self.data, self.noise)
        return replace(self, data=data, noise=None, metadata={**self.metadata, "noise_std": 1.0})


def cycles_per_field(trajectory: Tensor, encoding: Encoding, path: Path) -> Tensor:
    """The trajectory of an ISMRMRD file in cycles per reconstructed field of view.

    The standard fixes no unit. Values within [-0.5, 0.5] are fractions of the encoded matrix, as
    most writers have it; larger values are cycles per encoded field of view.

    Args:
        trajectory: (shot, sample, 2 or 3) in the order (kx, ky, kz).
        encoding: the matrix and the fields of view.
        path: the file, for messages.

    Returns:
        The trajectory in the order (kz, ky, kx).

    Raises:
        DataError: the values exceed half of the matrix, so they have another unit.
    """
    ndim = trajectory.shape[-1]
    sizes, fields, wanted, grid = (
        torch.tensor(values[:ndim], dtype=torch.float64)
        for values in (encoding.encoded_shape, encoding.encoded_fov_mm, encoding.recon_fov_mm,
                       encoding.recon_shape)
    )
    points = trajectory.to(torch.float64)
    if float(points.abs().max()) <= 0.5 + _ROUNDING:
        points = points * sizes
    points = points * (wanted / fields)
    excess = float((points.abs() / (grid / 2)).max())
    if excess > 1 + 2 * _ROUNDING:
        raise DataError(
            f"{path}: the trajectory reaches {excess:.3g} times the edge of k-space for the "
            f"matrix {encoding.recon_shape[:ndim]}; expected fractions of it in [-0.5, 0.5] or "
            "cycles per field of view; correct the trajectory or the header"
        )
    limit = grid / 2
    return torch.minimum(torch.maximum(points, -limit), limit).flip(-1)
