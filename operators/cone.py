"""X-ray transforms of volumes: cone beams on circles, helices and any other path, tilted beams."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from medinv.arguments import checked
from medinv.errors import DependencyError, ShapeError
from medinv.operators import ct_geometry
from medinv.operators.base import LinearOperator, Space
from medinv.operators.ct_geometry import CTGeometry


@runtime_checkable
class VolumeProjector(Protocol):
    """A projection engine for one geometry."""

    def project(self, volumes: Float[Tensor, "n z y x"]) -> Float[Tensor, "n view row col"]:
        """Line integrals of each volume."""

    def backproject(self, projections: Float[Tensor, "n view row col"]
                    ) -> Float[Tensor, "n z y x"]:
        """The adjoint, volume by volume."""


class ConeBeam(LinearOperator):
    """Line integrals of a volume, measured with a cone beam (or any other `CTGeometry`).

    The constructor makes a circular scan; `from_geometry` takes helical, free and tilted parallel
    ones. On the CPU, Joseph's projector runs on all of torch's threads, with its exact transpose
    as adjoint; neither allocates more than its result. Its first call compiles for some seconds,
    which numba caches. On a CUDA device ASTRA's kernels run (flat detectors, float32), whose
    backprojection is only close to the adjoint: how close is measured and logged once.

    Args:
        shape: voxels, ``(z, y, x)``.
        angles: view angles in radians, ``(view,)``; any arc, either direction.
        voxel_mm: side of a voxel, or ``(z, y, x)`` sizes.
        source_mm: from the source to the rotation axis.
        detector_mm: from the rotation axis to the detector.
        n_rows: detector rows.
        n_cols: detector columns.
        row_mm: height of a row, on the detector.
        col_mm: width of a column, on the detector; along its arc if it is curved.
        curved: the detector is bent around the source, with equiangular columns.
        col_offset_mm: shift of the detector along its columns.
        row_offset_mm: shift of the detector along its rows.
        axis_offset_mm: distance of the rotation axis from the line through the source at right
            angles to the detector, towards larger columns.
        dtype: ``torch.float32`` or ``torch.float64``.

    Attributes:
        domain: ``(z, y, x)``, in 1/mm.
        codomain: ``(view, row, col)``, line integrals.
        geometry: the scan in mm and radians; its doc states all directions.

    Raises:
        ShapeError: arguments that make no geometry, or one that misses the volume.

    Source:
        Joseph, IEEE Trans. Med. Imaging 1 (1982), 192; van Aarle et al., "Fast and flexible X-ray
        tomography using the ASTRA toolbox", Optics Express 24 (2016).

    Example:
        >>> A = ConeBeam((4, 4, 4), torch.zeros(1), 1.0, source_mm=100.0, detector_mm=100.0,
        ...              n_rows=3, n_cols=3, row_mm=2.0, col_mm=2.0)
        >>> A(torch.full((4, 4, 4), 0.5))[0, 1, 1].item()  # the central ray, 4 mm
        2.0
    """

    @checked
    def __init__(self, shape: tuple[int, int, int], angles: Tensor,
                 voxel_mm: float | tuple[float, float, float], source_mm: float,
                 detector_mm: float, n_rows: int, n_cols: int, row_mm: float, col_mm: float, *,
                 curved: bool = False, col_offset_mm: float = 0.0, row_offset_mm: float = 0.0,
                 axis_offset_mm: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        self._set_up(ct_geometry.cone(
            shape, angles, voxel_mm, source_mm, detector_mm, n_rows, n_cols, row_mm, col_mm,
            curved=curved, col_offset_mm=col_offset_mm, row_offset_mm=row_offset_mm,
            axis_offset_mm=axis_offset_mm), dtype)

    @classmethod
    def from_geometry(cls, geometry: CTGeometry, *,
                      dtype: torch.dtype = torch.float32) -> ConeBeam:
        """The operator of any geometry.

        Raises:
            ShapeError: ``dtype`` is neither ``torch.float32`` nor ``torch.float64``.

        Example:
            >>> angles = torch.linspace(0, 4 * torch.pi, 20)
            >>> scan = ct_geometry.helical((8, 8, 8), angles, 1.0, 100, 50, 4, 16, 1.5, 1.5,
            ...                            pitch_mm=4.0)
            >>> ConeBeam.from_geometry(scan)(torch.zeros(8, 8, 8)).shape
            torch.Size([20, 4, 16])
        """
        operator = cls.__new__(cls)
        operator._set_up(geometry, dtype)
        return operator

    def _set_up(self, geometry: CTGeometry, dtype: torch.dtype) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise ShapeError(f"ConeBeam: dtype is {dtype}; pass torch.float32 or torch.float64.")
        super().__init__(Space(geometry.shape, dtype, ("z", "y", "x")),
                         Space((geometry.n_views, geometry.n_rows, geometry.n_cols), dtype,
                               ("view", "row", "col")))
        self.geometry = geometry
        self._projectors: dict[str, VolumeProjector] = {}

    def views(self, index: Tensor) -> ConeBeam:
        """The operator of the views ``index``, ``(n,)``, in that order."""
        return ConeBeam.from_geometry(self.geometry.views(index), dtype=self.domain.dtype)

    def _forward(self, x: Tensor) -> Tensor:
        projections = self._projector(x.device).project(x.reshape(-1, *self.domain.shape))
        return projections.reshape(*x.shape[:-3], *self.codomain.shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        volumes = self._projector(y.device).backproject(y.reshape(-1, *self.codomain.shape))
        return volumes.reshape(*y.shape[:-3], *self.domain.shape)

    def _projector(self, device: torch.device) -> VolumeProjector:
        if str(device) not in self._projectors:
            self._projectors[str(device)] = _make_projector(self.geometry, device)
        return self._projectors[str(device)]

    def __getstate__(self) -> dict[str, object]:
        """Without the engines: they are found or built again at first use."""
        return {**self.__dict__, "_projectors": {}}


def _make_projector(geometry: CTGeometry, device: torch.device) -> VolumeProjector:
    if device.type == "cpu":
        from medinv.operators.ct_backends import joseph

        return joseph.JosephProjector(geometry)
    if device.type == "cuda":
        from medinv.operators.ct_backends import astra_cuda

        return astra_cuda.CudaVolumeProjector(geometry, device)
    raise DependencyError(f"ConeBeam: runs on cpu and cuda, not on {device.type}; move the input "
                          "with .cpu().")
