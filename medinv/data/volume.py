"""A volume: voxels, where they are in the patient, and what is known about them.

``data`` is ``(z, y, x)``; ``affine`` maps the voxel index ``(x, y, z)``, nibabel's ``(i, j, k)``,
to RAS+ millimetres (right, anterior, superior of the scanner's origin). The index order of the
tensor is the reverse of the affine's, and only this package has to know. Worked subject:
``docs/conventions.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from medinv.arguments import checked
from medinv.data.metadata import Metadata
from medinv.errors import ShapeError


def sizes(data: Tensor) -> str:
    """Shape and dtype, short.

    >>> sizes(torch.zeros(2, 3))
    '2 x 3 float32'
    """
    return f"{' x '.join(map(str, data.shape))} {str(data.dtype).removeprefix('torch.')}"


@checked
@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels with their position in the patient.

    Attributes:
        data: (z, y, x), real or complex.
        affine: (4, 4) float64, voxel index (x, y, z, 1) to RAS+ mm.
        metadata: what else is known (``space``, ``description``...); never a patient identifier.
        acquisition: how the image was acquired.

    Raises:
        ShapeError: ``data`` is not 3D, or ``affine`` is not an invertible (4, 4) matrix.

    >>> volume = Volume(torch.zeros(3, 4, 5), torch.diag(torch.tensor([-1.0, 1, 2, 1]).double()))
    >>> volume.spacing_mm, volume.orientation
    ((1.0, 1.0, 2.0), 'LAS')
    >>> volume.world_mm((1, 0, 2))
    (-1.0, 0.0, 4.0)
    >>> volume
    Volume(3 x 4 x 5 float32 voxels (z, y, x), 1 x 1 x 2 mm (x, y, z), LAS)
    """

    data: Tensor
    affine: Tensor
    metadata: Mapping[str, object] = field(default_factory=dict)
    acquisition: Metadata = Metadata()

    def __post_init__(self) -> None:
        if self.data.ndim != 3 or not self.data.numel():
            raise ShapeError(
                f"Volume: expected data (z, y, x), got shape {tuple(self.data.shape)}; "
                "pass one volume at a time"
            )
        if self.affine.shape != (4, 4) or self.affine.dtype != torch.float64:
            raise ShapeError(
                f"Volume: expected a (4, 4) float64 affine, got {tuple(self.affine.shape)} "
                f"{self.affine.dtype}; convert with .double()"
            )
        if not self.affine.isfinite().all() or torch.linalg.det(self.affine[:3, :3]) == 0:
            raise ShapeError(
                f"Volume: the affine {self.affine.tolist()} is not invertible; every axis needs a "
                "direction and a spacing"
            )

    def __repr__(self) -> str:
        """Shape, spacing and orientation; not the voxels."""
        spacing = " x ".join(f"{mm:.4g}" for mm in self.spacing_mm)
        return (f"Volume({sizes(self.data)} voxels (z, y, x), {spacing} mm (x, y, z), "
                f"{self.orientation})")

    @classmethod
    @checked
    def from_nifti(cls, path: str | Path) -> Volume:
        """Read a NIfTI file (see `medinv.data.nifti.read_nifti`)."""
        from medinv.data.nifti import read_nifti

        return read_nifti(path)

    @classmethod
    @checked
    def from_dicom(cls, path: str | Path, series: int | None = None, volume: int | None = None
                   ) -> Volume:
        """Read a DICOM folder, zip or file (see `medinv.data.dicom.read_dicom`)."""
        from medinv.data.dicom import read_dicom

        return read_dicom(path, series, volume)

    @checked
    def to_nifti(self, path: str | Path) -> None:
        """Write a NIfTI file, atomically (see `medinv.data.nifti.write_nifti`)."""
        from medinv.data.nifti import write_nifti

        write_nifti(self, path)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along x, y and z of the index."""
        x, y, z = torch.linalg.vector_norm(self.affine[:3, :3], dim=0).tolist()
        return x, y, z

    @property
    def orientation(self) -> str:
        """Where x, y and z of the index point, to the nearest axis of the patient: ``RAS``..."""
        import nibabel

        return "".join(nibabel.aff2axcodes(self.affine.numpy()))

    @checked
    def world_mm(self, index: Sequence[float]) -> tuple[float, float, float]:
        """RAS+ mm of the voxel index (x, y, z).

        Raises:
            ShapeError: other than three numbers.
        """
        if len(index) != 3:
            raise ShapeError(f"Volume.world_mm: expected the index (x, y, z), got {index}")
        point = torch.tensor([*index, 1.0], dtype=torch.float64)
        x, y, z, _ = (self.affine @ point).tolist()
        return x, y, z

    @checked
    def with_data(self, data: Tensor) -> Volume:
        """Other voxels at the same places.

        Raises:
            ShapeError: ``data`` has another shape than these voxels.
        """
        if data.shape != self.data.shape:
            raise ShapeError(
                f"Volume.with_data: expected {tuple(self.data.shape)}, got {tuple(data.shape)}; "
                "the affine holds for this grid only"
            )
        return replace(self, data=data)
