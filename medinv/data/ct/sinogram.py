"""Measured projections: line integrals, where their rays ran, and what is known about them.

Projections say how an object was scanned, not how a patient lay in the scanner. `Sinogram.volume`
therefore centres a volume on the isocentre, and shows it as axial slices are shown (x to the
patient's left, y to the back, z to the head) unless the file told how the patient lay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from medinv.arguments import checked
from medinv.data.geometry import orientation_affine
from medinv.data.metadata import Metadata
from medinv.data.volume import Volume, sizes
from medinv.errors import DataError, ShapeError
from medinv.operators.base import LinearOperator
from medinv.operators.cone import ConeBeam
from medinv.operators.ct import FanBeam, ParallelBeam, PlanarBeam
from medinv.operators.ct_detector import curved_frame
from medinv.operators.ct_geometry import CTGeometry

_ASSUMED = "LPS"
_SAME_COLUMN = 1e-6


@checked
@dataclass(frozen=True, eq=False)
class Sinogram:
    """Line integrals of a scan with their geometry.

    Attributes:
        data: (view, row, col), line integrals without unit; one row for a fan beam.
        geometry: the scan, and the grid to reconstruct on.
        noise_std: of the line integrals (root mean square), where the file tells.
        orientation: where the geometry's x, y and z point in the patient, such as ``LPS``; None
            where that is unknown.
        metadata: what else is known; never a patient identifier.
        acquisition: how the projections were acquired.

    Raises:
        ShapeError: ``data`` has another shape than the geometry's detector, or no real numbers.

    >>> from medinv.operators.ct_geometry import parallel
    >>> scan = parallel((2, 8, 8), torch.arange(6) * torch.pi / 6, 0.5, n_cols=8)
    >>> sinogram = Sinogram(torch.zeros(6, 2, 8), scan)
    >>> sinogram.operator().codomain.shape, sinogram.measurement().shape
    ((6, 8), torch.Size([2, 6, 8]))
    """

    data: Tensor
    geometry: CTGeometry
    noise_std: float | None = None
    orientation: str | None = None
    metadata: Mapping[str, object] = field(default_factory=dict)
    acquisition: Metadata = Metadata(modality="CT")

    def __post_init__(self) -> None:
        expected = (self.geometry.n_views, self.geometry.n_rows, self.geometry.n_cols)
        if tuple(self.data.shape) != expected or not self.data.is_floating_point():
            raise ShapeError(f"Sinogram: expected real line integrals (view, row, col) = "
                             f"{expected}, got {self.data.dtype} {tuple(self.data.shape)}; make "
                             "geometry and data agree")

    def __repr__(self) -> str:
        """Shape and geometry; not the line integrals."""
        grid = " x ".join(map(str, self.geometry.shape))
        return f"Sinogram({sizes(self.data)} (view, row, col) of {grid} voxels (z, y, x))"

    def operator(self, dtype: torch.dtype = torch.float32) -> LinearOperator:
        """The operator of the scan.

        `ParallelBeam` or `FanBeam` where each detector row sees one slice (slices are then a
        batch axis), `ConeBeam` for all else.
        """
        planar = _planar(self.geometry, dtype)
        return ConeBeam.from_geometry(self.geometry, dtype=dtype) if planar is None else planar

    def measurement(self) -> Tensor:
        """The data as `operator` gives them: (z, view, col) for slices, else (view, row, col)."""
        is_stack = _planar(self.geometry, torch.float32) is not None
        return self.data.transpose(0, 1).contiguous() if is_stack else self.data

    def volume(self, image: Tensor) -> Volume:
        """A reconstruction (z, y, x) on the geometry's grid as a volume, centred on the isocentre.

        Raises:
            ShapeError: the image has another shape.
        """
        if tuple(image.shape) != self.geometry.shape:
            raise ShapeError(f"Sinogram.volume: expected an image {self.geometry.shape}, got "
                             f"{tuple(image.shape)}; pass a reconstruction of these projections")
        z, y, x = self.geometry.voxel_mm
        affine = orientation_affine(self.orientation or _ASSUMED, (x, y, z),
                                    (image.shape[2], image.shape[1], image.shape[0]))
        position = ("from the patient's position" if self.orientation
                    else "assumed: axial, centred")
        facts = {**self.metadata, "position": position, "unit": "1/mm"}
        return Volume(image, affine, facts, self.acquisition)

    def noise(self) -> float:
        """Std of the noise: the file's, or estimated from differences of neighbours.

        The estimate is the median magnitude of the mixed difference of two neighbouring views and
        columns, in which smooth signal cancels. What signal remains makes it too high, never too
        low; noise that neighbouring columns share makes it too low.

        Raises:
            DataError: fewer than 2 views or columns.
        """
        if self.noise_std is not None:
            return self.noise_std
        if min(self.data.shape[0], self.data.shape[2]) < 2:
            raise DataError("Sinogram.noise: expected at least 2 views and 2 columns, got "
                            f"{tuple(self.data.shape)}; give the noise by hand")
        mixed = self.data.diff(dim=0).diff(dim=2).abs()
        return float(mixed.median()) / 0.6745 / 2  # the median of |n|, four samples in each

    def on_grid(self, shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]
                ) -> Sinogram:
        """The same projections for a volume of another grid, (z, y, x) both.

        Raises:
            ShapeError: a grid that the scan cannot have.
        """
        return replace(self, geometry=replace(self.geometry, shape=shape, voxel_mm=voxel_mm))

    def shifted(self, columns: float) -> Sinogram:
        """The detector moved by so many columns along its columns; it corrects the axis' place."""
        return replace(self, geometry=_moved(self.geometry, 0.0, columns))

    def every(self, n: int) -> Sinogram:
        """Every ``n``-th view, from the first on."""
        index = torch.arange(0, self.geometry.n_views, n)
        return replace(self, data=self.data[index], geometry=self.geometry.views(index))

    def rows(self, start: int, stop: int) -> Sinogram:
        """Some detector rows; of parallel beams their slices with them, centred anew.

        Raises:
            DataError: there are not that many rows, or none is left.
        """
        n_rows = self.geometry.n_rows
        if not 0 <= start < stop <= n_rows:
            raise DataError(f"Sinogram.rows: expected 0 <= start < stop <= {n_rows}, got "
                            f"{start} and {stop}; choose rows that the detector has")
        geometry, n = self.geometry, stop - start
        if geometry.parallel and geometry.shape[0] == n_rows:
            geometry = replace(geometry, shape=(n, *geometry.shape[1:]), n_rows=n)
        else:
            geometry = replace(_moved(geometry, (start + stop - n_rows) / 2, 0.0), n_rows=n)
        return replace(self, data=self.data[:, start:stop], geometry=geometry)

    def binned(self, rows: int, cols: int) -> Sinogram:
        """Averages over blocks of detector elements; a remainder at the end is cut off.

        The grid follows: slices of parallel beams with the rows, pixels with the columns.

        Raises:
            DataError: a block is larger than the detector.
        """
        geometry = self.geometry
        if not (1 <= rows <= geometry.n_rows and 1 <= cols <= geometry.n_cols):
            raise DataError(f"Sinogram.binned: blocks of {rows} x {cols} do not fit a detector of "
                            f"{geometry.n_rows} rows and {geometry.n_cols} columns; make them "
                            "smaller")
        n_rows, n_cols = geometry.n_rows // rows, geometry.n_cols // cols
        lost_rows = (n_rows * rows - geometry.n_rows) / 2
        if geometry.parallel and geometry.shape[0] == geometry.n_rows:
            lost_rows = 0.0
        moved = _moved(geometry, lost_rows, (n_cols * cols - geometry.n_cols) / 2)
        z, y, x = geometry.shape
        z_mm, y_mm, x_mm = geometry.voxel_mm
        binned = replace(
            moved, n_rows=n_rows, n_cols=n_cols, col_axes=cols * moved.col_axes,
            row_axes=rows * moved.row_axes,
            shape=(max(1, z // rows), max(1, y // cols), max(1, x // cols)),
            voxel_mm=(rows * z_mm, cols * y_mm, cols * x_mm))
        noise_std = None if self.noise_std is None else self.noise_std / (rows * cols) ** 0.5
        return replace(self, data=F.avg_pool2d(self.data, (rows, cols)), geometry=binned,
                       noise_std=noise_std)


def fitted(geometry: CTGeometry) -> CTGeometry:
    """The geometry with a grid of its detector's size and resolution, both taken at the axis.

    As many pixels across as the detector has columns, or as reach to the far end of one that sees
    one half of the object per view (half acquisition); a slice per row, and on a helix as many
    more as the source's way takes.

    >>> from medinv.operators.ct_geometry import cone
    >>> scan = cone((1, 1, 1), torch.zeros(1), 1.0, 100, 100, 4, 16, 2.0, 1.0)
    >>> fitted(scan).shape, fitted(scan).voxel_mm
    ((4, 16, 16), (1.0, 0.5, 0.5))
    """
    magnification = float(geometry.magnifications.median())
    row_mm, col_mm = (float(torch.linalg.vector_norm(axes, dim=1).median()) / magnification
                      for axes in (geometry.row_axes, geometry.col_axes))
    heights = geometry.sources[:, 2]
    way = 0.0 if geometry.parallel else float(heights.max() - heights.min())
    n_slices = geometry.n_rows + (round(way / row_mm) if way > row_mm else 0)
    across = _columns_across(geometry)
    return replace(geometry, shape=(n_slices, across, across), voxel_mm=(row_mm, col_mm, col_mm))


def _columns_across(geometry: CTGeometry) -> int:
    """Columns of the detector; twice those of its long side with the axis in an outer quarter."""
    axis = float(geometry.project(torch.zeros(1, 3))[..., 1].median()) + 0.5
    longest = max(axis, geometry.n_cols - axis)
    return geometry.n_cols if longest <= 0.75 * geometry.n_cols else round(2 * longest)


def _moved(geometry: CTGeometry, rows: float, cols: float) -> CTGeometry:
    """The detector moved along its rows and columns; a curved one along its arc."""
    detectors = geometry.detectors + rows * geometry.row_axes
    if not geometry.curved:
        return replace(geometry, detectors=detectors + cols * geometry.col_axes)
    frame = curved_frame(geometry)
    radius, turn = frame.radius[:, None], cols * frame.pitch[:, None]
    forward = turn.cos() * frame.forward + turn.sin() * frame.across
    across = turn.cos() * frame.across - turn.sin() * frame.forward
    return replace(geometry, detectors=detectors + radius * (forward - frame.forward),
                   col_axes=radius * frame.pitch[:, None] * across)


def _planar(geometry: CTGeometry, dtype: torch.dtype) -> PlanarBeam | None:
    """The operator of one slice, if each row of the detector sees a slice of its own."""
    z, y, x = geometry.voxel_mm
    if geometry.angles is None or y != x or geometry.n_rows != geometry.shape[0]:
        return None
    if geometry.parallel:
        made = _parallel(geometry, dtype)
        is_stack = torch.allclose(geometry.row_axes, torch.tensor([0, 0, z]).to(geometry.row_axes))
    else:
        made = _fan(geometry, dtype)
        is_stack = geometry.n_rows == 1
    return made if is_stack and _agree(made.geometry, geometry) else None


def _parallel(geometry: CTGeometry, dtype: torch.dtype) -> PlanarBeam:
    across = geometry.col_axes / torch.linalg.vector_norm(geometry.col_axes, dim=1, keepdim=True)
    return ParallelBeam(
        geometry.shape[1:], _angles(geometry), geometry.voxel_mm[2], geometry.n_cols,
        float(torch.linalg.vector_norm(geometry.col_axes[0])),
        col_offset_mm=float((geometry.detectors * across).sum(1).mean()), dtype=dtype)


def _fan(geometry: CTGeometry, dtype: torch.dtype) -> PlanarBeam:
    """Distances and offsets from the first view; `_agree` tells whether they hold for all."""
    theta = _angles(geometry)[0]
    across = torch.stack([theta.cos(), theta.sin(), theta * 0])
    forward = torch.stack([-theta.sin(), theta.cos(), theta * 0])
    source, ray = geometry.sources[0], geometry.detectors[0] - geometry.sources[0]
    source_mm = -float(source @ forward)
    along, sideways = float(ray @ forward), float(ray @ across)
    if geometry.curved:
        radius = float(torch.linalg.vector_norm(ray))
        sideways = radius * float(torch.atan2(ray @ across, ray @ forward))
        along = radius
    return FanBeam(
        geometry.shape[1:], _angles(geometry), geometry.voxel_mm[2], source_mm, along - source_mm,
        geometry.n_cols, float(torch.linalg.vector_norm(geometry.col_axes[0])),
        curved=geometry.curved, col_offset_mm=sideways,
        axis_offset_mm=-float(source @ across), dtype=dtype)


def _angles(geometry: CTGeometry) -> Tensor:
    if geometry.angles is None:
        raise ShapeError("Sinogram: expected a circular scan with its angles, got a free one")
    return geometry.angles


def _agree(one: CTGeometry, other: CTGeometry) -> bool:
    """Whether points of the central plane and beyond fall on the same columns, in every view."""
    half = torch.tensor(other.extent_mm, dtype=torch.float64).flip(0) / 2
    signs = torch.tensor([[1.0, 1, 0], [-1, 1, 0], [0.3, -1, 0], [0, 0, 1]], dtype=torch.float64)
    here, there = (geometry.project(signs * half)[..., 1] for geometry in (one, other))
    flat = torch.tensor([[1.0, 0.5, 0]], dtype=torch.float64) * half
    rows = other.project(flat)[..., 0] - (other.n_rows - 1) / 2
    return bool((here - there).abs().max() < _SAME_COLUMN) and bool(
        rows.abs().max() < _SAME_COLUMN)
