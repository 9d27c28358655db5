"""Where source, detector and volume are: one geometry object for every CT scan.

Lengths are mm, angles radians, points ``(x, y, z)`` with the origin at the volume's centre: ``x``
grows with the volume's last index, ``y`` with the one before, ``z`` with the first. At view angle
``theta`` detector columns run along ``u = (cos theta, sin theta, 0)`` and rows along ``+z``, and
X-rays travel along ``(-sin theta, cos theta, 0)``: the source is at ``source_mm (sin theta,
-cos theta)``, above the picture at ``theta = 0``, and turns clockwise in a picture whose ``y``
points down. As the source goes to infinity, column coordinates become those of
`medinv.operators.ct`, ``s = x cos theta + y sin theta``. A negative angular step turns the other
way; a short scan or a limited angle is nothing but its angles.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medinv.errors import ShapeError
from medinv.operators import ct_checks
from medinv.operators.ct_detector import curved_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Triple = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class CTGeometry:
    """Source, detector and volume of a CT scan, view by view.

    Make one with `parallel`, `fan`, `cone`, `helical` or `free`. ``print(geometry)`` describes
    it, `check` lists what may be wrong with it, `plot` draws it.

    Args:
        shape: voxels, ``(z, y, x)``.
        voxel_mm: size of a voxel, ``(z, y, x)``.
        sources: ``(view, 3)``, position of the source; for parallel beams the direction in which
            the X-rays travel, a unit vector.
        detectors: ``(view, 3)``, position of the detector's centre.
        col_axes: ``(view, 3)``, the step from a column to the next.
        row_axes: ``(view, 3)``, the step from a row to the next.
        n_rows, n_cols: detector rows and columns.
        parallel: parallel rays.
        curved: the detector is a cylinder whose axis passes through the source: columns are
            equiangular, and ``col_axes`` (the tangent at its centre) has the arc's length.
        angles: view angles in radians, ``(view,)``, for circular and helical scans.

    Raises:
        ShapeError: a tensor of the wrong shape, a value that is not finite, degenerate detector
            axes, a source inside the volume, or a detector that no ray through the volume meets.

    Example:
        >>> angles = torch.arange(360) * (torch.pi / 180)
        >>> print(cone((64, 64, 64), angles, 2.0, source_mm=500, detector_mm=400,
        ...            n_rows=150, n_cols=150, row_mm=2.0, col_mm=2.0))
        cone beam, flat detector, full turn
          views     360 over 359.0 degrees
          distances source to axis 500 mm, source to detector 900 mm, magnification 1.8
          detector  150 rows x 150 columns of 2 x 2 mm
          sees      164.4 mm across, 166.7 mm high at the axis
          volume    64 x 64 x 64 voxels (z, y, x) of 2 x 2 x 2 mm, 128 x 128 x 128 mm
    """

    shape: tuple[int, int, int]
    voxel_mm: tuple[float, float, float]
    sources: Tensor
    detectors: Tensor
    col_axes: Tensor
    row_axes: Tensor
    n_rows: int
    n_cols: int
    parallel: bool = False
    curved: bool = False
    angles: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("sources", "detectors", "col_axes", "row_axes"):
            object.__setattr__(self, name, ct_checks.vectors(name, getattr(self, name)))
        if self.angles is not None:
            object.__setattr__(self, "angles", self.angles.detach().to("cpu", torch.float64))
        ct_checks.validate(self)

    @property
    def n_views(self) -> int:
        """Number of views."""
        return len(self.sources)

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Size of the volume, ``(z, y, x)``."""
        z, y, x = (n * mm for n, mm in zip(self.shape, self.voxel_mm, strict=True))
        return z, y, x

    @property
    def normals(self) -> Tensor:
        """Unit normals of the detector, away from the source, ``(view, 3)``."""
        normals: Tensor = torch.linalg.cross(self.col_axes, self.row_axes)
        normals = normals / torch.linalg.vector_norm(normals, dim=1, keepdim=True)
        rays = self.sources if self.parallel else self.detectors - self.sources
        return normals * torch.sign((normals * rays).sum(1, keepdim=True))

    @property
    def magnifications(self) -> Tensor:
        """Of the volume's centre on the detector, ``(view,)``; 1 for parallel beams."""
        if self.parallel:
            return torch.ones(self.n_views, dtype=torch.float64)
        along = self.normals
        detector = ((self.detectors - self.sources) * along).sum(1)
        return detector / (-self.sources * along).sum(1)

    def views(self, index: Tensor) -> CTGeometry:
        """The geometry of the views ``index``, ``(n,)``, in that order."""
        part = copy.copy(self)  # not made anew: some views of a helix may miss the volume
        for name in ("sources", "detectors", "col_axes", "row_axes", "angles"):
            values = getattr(self, name)
            object.__setattr__(part, name, None if values is None else values[index])
        return part

    def project(self, points: Tensor) -> Tensor:
        """Where points appear on the detector.

        Args:
            points: ``(point, 3)``, ``(x, y, z)`` in mm.

        Returns:
            ``(view, point, 2)``: fractional (row, column) index; infinite for a point behind the
            source.

        Example:
            >>> beam = parallel((3, 3, 3), torch.zeros(1), 1.0, n_cols=3)
            >>> beam.project(torch.tensor([[1.0, 0.0, 0.0]])).tolist()
            [[[1.0, 2.0]]]
        """
        points = points.to(torch.float64)
        if self.curved:
            row, col = self._project_curved(points)
        else:
            row, col = self._project_flat(points)
        centre = torch.tensor([(self.n_rows - 1) / 2, (self.n_cols - 1) / 2], dtype=torch.float64)
        return torch.stack([row, col], -1) + centre

    def _project_flat(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Steps from the detector's centre along its two axes, ``(view, point)`` each."""
        normals = self.normals[:, None]
        rays = self.sources[:, None] if self.parallel else points - self.sources[:, None]
        start = points if self.parallel else self.sources[:, None]
        depth = (rays * normals).sum(-1, keepdim=True)
        along = ((self.detectors[:, None] - start) * normals).sum(-1, keepdim=True) / depth
        hit = start + along * rays - self.detectors[:, None]
        basis = torch.stack([self.row_axes, self.col_axes], 1)
        steps = hit @ torch.linalg.pinv(basis)
        if not self.parallel:
            steps = torch.where(depth > 0, steps, torch.inf)
        row, col = steps.unbind(-1)
        return row, col

    def _project_curved(self, points: Tensor) -> tuple[Tensor, Tensor]:
        frame = curved_frame(self)
        rays = points - self.sources[:, None]
        a, b, c = (torch.einsum("vpi,vi->vp", rays, axis)
                   for axis in (frame.forward, frame.across, frame.up))
        row = c / torch.hypot(a, b) * (frame.radius / frame.row_mm)[:, None] - frame.lift[:, None]
        col = torch.atan2(b, a) / frame.pitch[:, None]
        return torch.where(a > 0, row, torch.inf), torch.where(a > 0, col, torch.inf)

    def __str__(self) -> str:
        """A few lines for a person: type, views, distances, detector, field of view, volume."""
        from medinv.operators.ct_report import describe

        return describe(self)

    def check(self) -> list[str]:
        """What may be wrong, in sentences; an empty list if nothing is.

        Truncation, views that miss the volume, too few views or directions, and a detector or
        voxel too coarse for the other.

        Example:
            >>> wide = parallel((9, 9, 9), torch.arange(20) * torch.pi / 20, 1.0, n_cols=13)
            >>> wide.check()
            []
        """
        from medinv.operators.ct_report import findings

        return findings(self)

    def plot(self) -> Figure:
        """Source path, detector and volume in 3D, as a matplotlib figure."""
        from medinv.operators.ct_report import plot

        return plot(self)


def parallel(shape: tuple[int, int, int], angles: Tensor, voxel_mm: float | Triple,
             n_cols: int | None = None, col_mm: float | None = None, *,
             n_rows: int | None = None, row_mm: float | None = None, col_offset_mm: float = 0.0,
             row_offset_mm: float = 0.0, tilt: float = 0.0) -> CTGeometry:
    """Parallel beams that turn around z; tilted ones for laminography.

    Args:
        shape: voxels, ``(z, y, x)``.
        angles: view angles in radians, ``(view,)``.
        voxel_mm: side of a voxel, or ``(z, y, x)`` sizes.
        n_cols: detector columns; by default the slice's diagonal, if it were square.
        col_mm: width of a column; the voxel's x size by default.
        n_rows: detector rows; one per slice by default.
        row_mm: height of a row; the voxel's z size by default.
        col_offset_mm: the detector's shift along its columns; the axis then appears at
            ``-col_offset_mm``.
        row_offset_mm: the detector's shift along its rows.
        tilt: angle by which the rays rise towards ``+z``, radians.

    Returns:
        The geometry.

    Raises:
        ShapeError: arguments that make no geometry.

    Example:
        >>> parallel((8, 32, 32), torch.zeros(1), 0.5).n_cols
        46
    """
    size = _triple(voxel_mm)
    col_mm = size[2] if col_mm is None else col_mm
    row_mm = size[0] if row_mm is None else row_mm
    n_cols = math.ceil(math.sqrt(2) * max(shape[1:])) if n_cols is None else n_cols
    across, forward, up = _frame("parallel", angles)
    rays = math.cos(tilt) * forward + math.sin(tilt) * up
    rows = math.cos(tilt) * up - math.sin(tilt) * forward
    return CTGeometry(shape, size, rays, col_offset_mm * across + row_offset_mm * rows,
                      col_mm * across, row_mm * rows, shape[0] if n_rows is None else n_rows,
                      n_cols, parallel=True, angles=angles)


def fan(shape: tuple[int, int], angles: Tensor, pixel_mm: float, source_mm: float,
        detector_mm: float, n_cols: int, col_mm: float, *, curved: bool = False,
        col_offset_mm: float = 0.0, axis_offset_mm: float = 0.0) -> CTGeometry:
    """A fan beam in the plane of one slice ``(y, x)``; arguments as in `cone`.

    Returns:
        The geometry of a volume of one slice and a detector of one row.

    Raises:
        ShapeError: arguments that make no geometry.

    Example:
        >>> fan((32, 32), torch.zeros(1), 1.0, 500, 500, 80, 1.0).magnifications.tolist()
        [2.0]
    """
    return cone((1, *shape), angles, pixel_mm, source_mm, detector_mm, 1, n_cols, pixel_mm, col_mm,
                curved=curved, col_offset_mm=col_offset_mm, axis_offset_mm=axis_offset_mm)


def cone(shape: tuple[int, int, int], angles: Tensor, voxel_mm: float | Triple, source_mm: float,
         detector_mm: float, n_rows: int, n_cols: int, row_mm: float, col_mm: float, *,
         curved: bool = False, col_offset_mm: float = 0.0, row_offset_mm: float = 0.0,
         axis_offset_mm: float = 0.0) -> CTGeometry:
    """A cone beam on a circle around z.

    Args:
        shape: voxels, ``(z, y, x)``.
        angles: view angles in radians, ``(view,)``; any arc, either direction.
        voxel_mm: side of a voxel, or ``(z, y, x)`` sizes.
        source_mm: from the source to the axis.
        detector_mm: from the axis to the detector.
        n_rows: detector rows.
        n_cols: detector columns.
        row_mm: height of a row, on the detector.
        col_mm: width of a column, on the detector.
        curved: columns lie on a circle around the source, ``col_mm`` apart along the arc.
        col_offset_mm: the detector's shift along its columns, in its plane or along its arc.
        row_offset_mm: the detector's shift along its rows.
        axis_offset_mm: distance of the rotation axis from the line through the source at right
            angles to the detector, towards larger columns.

    Returns:
        The geometry.

    Raises:
        ShapeError: arguments that make no geometry.

    Example:
        >>> beam = cone((8, 8, 8), torch.zeros(1), 1.0, 100, 50, 16, 16, 1.5, 1.5)
        >>> beam.sources.tolist()
        [[0.0, -100.0, 0.0]]
    """
    return _turning("cone", shape, angles, voxel_mm, (source_mm, detector_mm), (n_rows, n_cols),
                    (row_mm, col_mm), curved, (col_offset_mm, row_offset_mm, axis_offset_mm))


def helical(shape: tuple[int, int, int], angles: Tensor, voxel_mm: float | Triple,
            source_mm: float, detector_mm: float, n_rows: int, n_cols: int, row_mm: float,
            col_mm: float, *, pitch_mm: float, curved: bool = True, col_offset_mm: float = 0.0,
            row_offset_mm: float = 0.0, axis_offset_mm: float = 0.0) -> CTGeometry:
    """A cone beam on a helix around z, centred on the volume; arguments as in `cone`.

    ``pitch_mm`` is the source's way along ``+z`` while ``angles`` grow by a full turn, negative
    for the other way.

    Returns:
        The geometry.

    Raises:
        ShapeError: arguments that make no geometry.

    Example:
        >>> angles = torch.linspace(0, 4 * torch.pi, 9)
        >>> scan = helical((8, 8, 8), angles, 1.0, 100, 50, 16, 16, 1.5, 1.5, pitch_mm=6.0)
        >>> [round(z, 3) for z in scan.sources[:, 2].tolist()]
        [-6.0, -4.5, -3.0, -1.5, 0.0, 1.5, 3.0, 4.5, 6.0]
    """
    return _turning("helical", shape, angles, voxel_mm, (source_mm, detector_mm),
                    (n_rows, n_cols), (row_mm, col_mm), curved,
                    (col_offset_mm, row_offset_mm, axis_offset_mm), pitch_mm)


def free(shape: tuple[int, int, int], voxel_mm: float | Triple, sources: Tensor,
         detectors: Tensor, col_axes: Tensor, row_axes: Tensor, n_rows: int, n_cols: int, *,
         parallel: bool = False, curved: bool = False) -> CTGeometry:
    """Any source and detector in each view; arguments as `CTGeometry`'s.

    Returns:
        The geometry.

    Raises:
        ShapeError: arguments that make no geometry.

    Example:
        >>> view = [torch.tensor([v]) for v in ([0., -9, 0], [0., 9, 0], [1., 0, 0], [0., 0, 1])]
        >>> free((4, 4, 4), 1.0, *view, n_rows=8, n_cols=8).n_views
        1
    """
    return CTGeometry(shape, _triple(voxel_mm), sources, detectors, col_axes, row_axes, n_rows,
                      n_cols, parallel, curved)


def _turning(name: str, shape: tuple[int, int, int], angles: Tensor, voxel_mm: float | Triple,
             distances: tuple[float, float], counts: tuple[int, int], sizes: tuple[float, float],
             curved: bool, offsets: Triple, pitch_mm: float = 0.0) -> CTGeometry:
    """A cone beam on a circle or helix; offsets of columns, rows and axis."""
    source_mm, detector_mm = distances
    for label, value in (("source_mm", source_mm), ("detector_mm", detector_mm),
                         ("row_mm", sizes[0]), ("col_mm", sizes[1])):
        if not 0 < value < math.inf:
            raise ShapeError(f"{name}: {label} is {value}; pass a positive length in mm.")
    across, forward, up = _frame(name, angles)
    turn = angles.detach().to("cpu", torch.float64) / (2 * math.pi)
    height = pitch_mm * (turn - (turn.min() + turn.max()) / 2)[:, None] * up
    shift = height - offsets[2] * across
    fan_angle = offsets[0] / (source_mm + detector_mm) if curved else 0.0
    ahead = math.cos(fan_angle) * forward + math.sin(fan_angle) * across
    along = math.cos(fan_angle) * across - math.sin(fan_angle) * forward
    sources = shift - source_mm * forward
    detectors = sources + (source_mm + detector_mm) * ahead
    if not curved:
        detectors = detectors + offsets[0] * across
    return CTGeometry(shape, _triple(voxel_mm), sources, detectors + offsets[1] * up,
                      sizes[1] * along, sizes[0] * up, *counts, curved=curved, angles=angles)


def _frame(name: str, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors along columns, along the central ray and up, ``(view, 3)`` each."""
    ct_checks.check_angles(name, angles)
    theta = angles.detach().to("cpu", torch.float64)
    cos, sin, zero = theta.cos(), theta.sin(), torch.zeros_like(theta)
    return (torch.stack([cos, sin, zero], 1), torch.stack([-sin, cos, zero], 1),
            torch.stack([zero, zero, zero + 1], 1))


def _triple(voxel_mm: float | Triple) -> Triple:
    return voxel_mm if isinstance(voxel_mm, tuple) else (voxel_mm, voxel_mm, voxel_mm)
