"""A CT geometry in words and as a picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medinv.operators.ct_checks import sees_volume
from medinv.operators.ct_detector import column_places

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from medinv.operators.ct_geometry import CTGeometry

_DEGREES = 180 / math.pi


def describe(geometry: CTGeometry) -> str:
    """Type, views, distances, detector, field of view and volume, one per line."""
    z, y, x = geometry.shape
    lines = {
        "views": _views(geometry),
        "distances": _distances(geometry),
        "detector": f"{geometry.n_rows} rows x {geometry.n_cols} columns of "
                    f"{_mean_length(geometry.row_axes):.4g} x "
                    f"{_mean_length(geometry.col_axes):.4g} mm",
        "sees": _sees(geometry),
        "volume": f"{z} x {y} x {x} voxels (z, y, x) of {_sizes(geometry.voxel_mm)} mm, "
                  f"{_sizes(geometry.extent_mm)} mm",
    }
    body = [f"  {name:9} {text}" for name, text in lines.items() if text]
    return "\n".join([_kind(geometry), *body])


def field_of_view(geometry: CTGeometry) -> tuple[float, float]:
    """What the detector's edges see at the volume's centre.

    Returns:
        The diameter of the circle around z that a full turn sees with one half of the detector
        at least, and the height of the detector there, both in mm and the smallest of all views.
    """
    columns, rows = geometry.col_axes, geometry.row_axes
    if geometry.parallel:
        _, col = geometry.project(torch.zeros(1, 3))[:, 0].unbind(-1)
        steps = torch.maximum(col + 0.5, geometry.n_cols - 0.5 - col)
        reach = steps * torch.linalg.vector_norm(columns, dim=1)
    else:
        reach = _edge_distance(geometry)
    height = geometry.n_rows * torch.linalg.vector_norm(rows, dim=1) / geometry.magnifications
    return 2 * float(reach.min()), float(height.abs().min())


def _edge_distance(geometry: CTGeometry) -> Tensor:
    """Of the z axis from the ray to the farther edge of the detector, ``(view,)``."""
    edges = torch.tensor([-0.5, 0.5], dtype=torch.float64) * geometry.n_cols
    source = geometry.sources[:, None, :2]
    ray = column_places(geometry, edges)[..., :2] - source
    area = source[..., 0] * ray[..., 1] - source[..., 1] * ray[..., 0]
    distances: Tensor = area.abs() / torch.linalg.vector_norm(ray, dim=-1)
    return distances.amax(1)


def findings(geometry: CTGeometry) -> list[str]:
    """What may be wrong with a geometry, in sentences."""
    return [*_position(geometry), *_truncation(geometry), *_coverage(geometry),
            *_sizes_that_differ(geometry), *_undersampling(geometry)]


def _position(geometry: CTGeometry) -> list[str]:
    found = []
    missed = int((~sees_volume(geometry)).sum())
    if missed:
        found.append(f"The volume misses the detector in {missed} of {geometry.n_views} views; "
                     "they carry no information.")
    if geometry.parallel:
        return found
    beyond = _rim(geometry) - geometry.detectors[:, None]
    cut = int(((beyond * geometry.normals[:, None]).sum(-1) > 0).any(1).sum())
    if cut:
        found.append(f"The volume reaches behind the detector in {cut} of {geometry.n_views} "
                     "views; matter there is counted as if it were in front.")
    return found


def _truncation(geometry: CTGeometry) -> list[str]:
    index = geometry.project(_rim(geometry))
    index = index.where(index.isfinite(), 0)
    sizes = {"columns": (1, geometry.n_cols)}
    if not (_rise(geometry) > 0 or geometry.n_rows == geometry.shape[0] == 1):
        sizes["rows"] = (0, geometry.n_rows)
    found = []
    for name, (axis, size) in sizes.items():
        place = index[..., axis]
        outside = torch.maximum(-0.5 - place, place - (size - 0.5)).amax(1)
        views = int((outside > 0.5).sum())
        if views:
            found.append(
                f"Truncation: the cylinder that fits the volume reaches up to "
                f"{float(outside.max()):.3g} {name} beyond the detector's {size} in {views} of "
                f"{geometry.n_views} views; matter there is measured in a part of the views only.")
    return found


def _coverage(geometry: CTGeometry) -> list[str]:
    if geometry.angles is None:
        return []
    arc = sum(_arc(geometry.angles))
    needed = math.pi if geometry.parallel else math.pi + 2 * _half_fan(geometry)
    if arc >= needed - 1e-3:
        return []
    return [f"Limited angle: the views cover {arc * _DEGREES:.1f} degrees, and "
            f"{needed * _DEGREES:.1f} are needed to see every direction once."]


def _sizes_that_differ(geometry: CTGeometry) -> list[str]:
    magnification = float(geometry.magnifications.abs().mean())
    if not 1 <= magnification < 50:
        return [f"Magnification is {magnification:.4g}; the detector is usually behind the object "
                "and less than 50 times as far from the source."]
    column, voxel = _column_at_centre(geometry), min(geometry.voxel_mm[1:])
    if voxel / 2 <= column <= 2 * voxel:
        return []
    return [f"A column is {column:.3g} mm wide at the axis and a voxel {voxel:.3g} mm; sizes that "
            "differ by more than twice blur the image or waste time."]


def _undersampling(geometry: CTGeometry) -> list[str]:
    if geometry.angles is None:
        return []
    arc = sum(_arc(geometry.angles))
    if not _rise(geometry) > 0:
        arc = min(arc, 2 * math.pi)
    radius = min(field_of_view(geometry)[0], *geometry.extent_mm[1:]) / 2
    needed = math.ceil(arc * radius / max(*geometry.voxel_mm[1:], _column_at_centre(geometry)))
    if geometry.n_views >= needed / 2:
        return []
    return [f"Undersampling: {geometry.n_views} views, where views a voxel apart at the edge of "
            f"the field of view would be {needed}; FBP and FDK will show streaks."]


def _column_at_centre(geometry: CTGeometry) -> float:
    return _mean_length(geometry.col_axes) / float(geometry.magnifications.abs().mean())


def _rim(geometry: CTGeometry) -> Tensor:
    """Points on both rims of the elliptic cylinder that fits the volume, ``(64, 3)``."""
    z, y, x = (mm / 2 for mm in geometry.extent_mm)
    angle = torch.arange(32, dtype=torch.float64) * (math.pi / 16)
    rim = torch.stack([x * angle.cos(), y * angle.sin(), z + 0 * angle], 1)
    return torch.cat([rim, rim * torch.tensor([1.0, 1.0, -1.0])])


def plot(geometry: CTGeometry) -> Figure:
    """Source path, first and last detector, and volume in 3D."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6))
    axes = figure.add_subplot(projection="3d")
    for edge in _box(torch.tensor(geometry.extent_mm[::-1], dtype=torch.float64) / 2):
        axes.plot(*edge.T.tolist(), color="black", linewidth=1)
    if geometry.parallel:
        starts = -geometry.sources * max(geometry.extent_mm) * 1.5
        axes.quiver(*starts.T.tolist(), *geometry.sources.T.tolist(), color="tab:red",
                    length=max(geometry.extent_mm) / 4, label="rays")
    else:
        axes.plot(*geometry.sources.T.tolist(), ".-", color="tab:red", label="source")
    axes.plot(*geometry.detectors.T.tolist(), ".", color="tab:blue", markersize=2,
              label="detector")
    for view in {0, geometry.n_views - 1}:
        axes.plot(*_outline(geometry, view).T.tolist(), color="tab:blue", linewidth=1)
    axes.set(xlabel="x / mm", ylabel="y / mm", zlabel="z / mm", aspect="equal",
             title=_kind(geometry))
    axes.legend()
    return figure


def _box(half: Tensor) -> list[Tensor]:
    """The 12 edges of a box, ``(2, 3)`` each."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    corners = signs * half
    return [corners[[i, j]] for i in range(8) for j in range(i)
            if int((signs[i] != signs[j]).sum()) == 1]


def _outline(geometry: CTGeometry, view: int) -> Tensor:
    """The detector's border in one view, ``(point, 3)``."""
    steps = torch.linspace(-0.5, 0.5, 33, dtype=torch.float64) * geometry.n_cols
    middle = column_places(geometry, steps)[view]
    edge = geometry.row_axes[view] * geometry.n_rows / 2
    return torch.cat([middle + edge, (middle - edge).flip(0), (middle + edge)[:1]])


def _kind(geometry: CTGeometry) -> str:
    beam = "fan beam" if geometry.n_rows == 1 and geometry.shape[0] == 1 else "cone beam"
    name = "parallel beam" if geometry.parallel else beam
    detector = "curved detector" if geometry.curved else "flat detector"
    return f"{name}, {detector}, {_orbit(geometry)}"


def _orbit(geometry: CTGeometry) -> str:
    if geometry.angles is None:
        return "free geometry"
    span, gap = _arc(geometry.angles)
    if _rise(geometry) > 0:
        pitch = _rise(geometry) / span * 2 * math.pi
        return f"helix with a pitch of {pitch:.4g} mm per turn"
    return "full turn" if span + gap > 2 * math.pi - 1e-3 else "part of a turn"


def _rise(geometry: CTGeometry) -> float:
    """The source's way along z; 0 on a circle."""
    if geometry.parallel or geometry.angles is None:
        return 0.0
    height = geometry.sources[:, 2]
    rise = float(height.max() - height.min())
    return rise if rise > 1e-6 * max(geometry.extent_mm) else 0.0


def _views(geometry: CTGeometry) -> str:
    if geometry.angles is None:
        return str(geometry.n_views)
    span, _ = _arc(geometry.angles)
    return f"{geometry.n_views} over {span * _DEGREES:.1f} degrees"


def _distances(geometry: CTGeometry) -> str:
    if geometry.parallel:
        return ""
    circle = geometry.angles is not None
    axis = torch.linalg.vector_norm(geometry.sources[:, :2 if circle else 3], dim=1)
    detector = ((geometry.detectors - geometry.sources) * geometry.normals).sum(1)
    return (f"source to {'axis' if circle else 'centre'} {_range(axis)} mm, source to detector "
            f"{_range(detector)} mm, magnification {_range(geometry.magnifications)}")


def _sees(geometry: CTGeometry) -> str:
    if geometry.angles is None:
        return ""
    across, high = field_of_view(geometry)
    return f"{across:.4g} mm across, {high:.4g} mm high at the axis"


def _range(values: Tensor) -> str:
    low, high = f"{float(values.min()):.4g}", f"{float(values.max()):.4g}"
    return low if low == high else f"{low} to {high}"


def _arc(angles: Tensor) -> tuple[float, float]:
    """The arc from the first to the last angle and the median step, radians."""
    values = angles.sort().values
    gap = float(torch.diff(values).median()) if len(values) > 1 else 0.0
    return float(values[-1] - values[0]), gap


def _half_fan(geometry: CTGeometry) -> float:
    """Half of the fan angle that the volume or the detector takes, whichever is smaller."""
    across, _ = field_of_view(geometry)
    radius = min(across, math.hypot(*geometry.extent_mm[1:])) / 2
    source = float(torch.linalg.vector_norm(geometry.sources[:, :2], dim=1).mean())
    return math.asin(min(1.0, radius / source))


def _mean_length(vectors: Tensor) -> float:
    return float(torch.linalg.vector_norm(vectors, dim=1).mean())


def _sizes(values: tuple[float, float, float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
