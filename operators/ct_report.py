"""A CT geometry in words and as a picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medinv.operators.ct_checks import footprint, sees_volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from medinv.operators.ct_geometry import CTGeometry

_DEGREES = 180 / math.pi


def describe(geometry: CTGeometry) -> str:
    """Type, views, distances, detector, field of view and volume, one per line."""
    across, high = field_of_view(geometry)
    z, y, x = geometry.shape
    lines = {
        "views": _views(geometry),
        "distances": _distances(geometry),
        "detector": f"{geometry.n_rows} rows x {geometry.n_cols} columns of "
                    f"{_mean_length(geometry.row_axes):.4g} x "
                    f"{_mean_length(geometry.col_axes):.4g} mm",
        "view": f"{across:.4g} mm across, {high:.4g} mm high at the axis",
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
    centre = torch.zeros(1, 3, dtype=torch.float64)
    row, col = geometry.project(centre)[:, 0].unbind(-1)
    edges = torch.stack([col + 0.5, geometry.n_cols - 0.5 - col], 1)
    if geometry.parallel:
        reach = edges.amax(1) * torch.linalg.vector_norm(columns, dim=1)
    else:
        reach = _edge_distance(geometry, edges.amax(1))
    height = geometry.n_rows * torch.linalg.vector_norm(rows, dim=1) / geometry.magnifications
    return 2 * float(reach.min()), float(height.abs().min())


def _edge_distance(geometry: CTGeometry, columns: Tensor) -> Tensor:
    """Distance of the z axis from the ray that many columns away from it, ``(view,)``."""
    source = torch.linalg.vector_norm(geometry.sources[:, :2], dim=1)
    width = torch.linalg.vector_norm(geometry.col_axes, dim=1)
    distance = ((geometry.detectors - geometry.sources) * geometry.normals).sum(1)
    angle = columns * width / distance
    distances: Tensor = source * torch.sin(angle if geometry.curved else torch.atan(angle))
    return distances


def findings(geometry: CTGeometry) -> list[str]:
    """What may be wrong with a geometry, in sentences."""
    found = [*_missed_views(geometry), *_truncation(geometry), *_coverage(geometry),
             *_sampling(geometry)]
    return found


def _missed_views(geometry: CTGeometry) -> list[str]:
    missed = int((~sees_volume(geometry)).sum())
    if missed == 0:
        return []
    return [f"The volume misses the detector in {missed} of {geometry.n_views} views; they "
            "carry no information."]


def _truncation(geometry: CTGeometry) -> list[str]:
    low, high = footprint(geometry)
    found = []
    for axis, (name, size) in enumerate((("rows", geometry.n_rows), ("columns", geometry.n_cols))):
        outside = torch.maximum(-0.5 - low[:, axis], high[:, axis] - (size - 0.5))
        views = int((outside > 0.5).sum())
        if views:
            found.append(
                f"Truncation: the volume's corners reach {float(outside.max()):.4g} {name} beyond "
                f"the detector's {size} in {views} of {geometry.n_views} views; matter there is "
                "measured in a part of the views only.")
    return found


def _coverage(geometry: CTGeometry) -> list[str]:
    if geometry.angles is None:
        return []
    span, gap = _arc(geometry.angles)
    needed = math.pi if geometry.parallel else math.pi + 2 * _half_fan(geometry)
    missing = needed - span - gap
    if missing <= 1e-3:
        return []
    return [f"Limited angle: the views cover {span * _DEGREES:.1f} degrees, and "
            f"{needed * _DEGREES:.1f} are needed to see every direction once."]


def _sampling(geometry: CTGeometry) -> list[str]:
    found = []
    magnification = float(geometry.magnifications.abs().mean())
    smallest = min(_mean_length(geometry.col_axes), _mean_length(geometry.row_axes))
    if not geometry.parallel and not 1 <= magnification < 50:
        found.append(f"Magnification is {magnification:.4g}; the detector is usually behind the "
                     "object and less than 50 times as far from the source.")
    column = _mean_length(geometry.col_axes) / magnification
    voxel = min(geometry.voxel_mm[1:])
    if column > 2 * voxel or (column < voxel / 2 and smallest > 0):
        found.append(f"A column is {column:.3g} mm wide at the axis and a voxel {voxel:.3g} mm; "
                     "sizes that differ by more than twice blur the image or waste time.")
    diameter = min(field_of_view(geometry)[0], math.hypot(*geometry.extent_mm[1:]))
    if geometry.angles is not None:
        span, gap = _arc(geometry.angles)
        needed = math.ceil((span + gap) * diameter / 2 / max(voxel, column))
        if geometry.n_views < needed / 2:
            found.append(f"Undersampling: {geometry.n_views} views, where the width of a voxel "
                         f"at the edge of the field of view asks for about {needed}; "
                         "FBP and FDK will show streaks.")
    return found


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
    from medinv.operators.ct_geometry import curved_frame

    steps = torch.linspace(-geometry.n_cols / 2, geometry.n_cols / 2, 33, dtype=torch.float64)
    if geometry.curved:
        frame = curved_frame(geometry)
        angle = (steps * frame.pitch[view])[:, None]
        turned = torch.cos(angle) * frame.forward[view] + torch.sin(angle) * frame.across[view]
        lift = frame.lift[view] * geometry.row_axes[view]
        middle = geometry.sources[view] + frame.radius[view] * turned + lift
    else:
        middle = geometry.detectors[view] + steps[:, None] * geometry.col_axes[view]
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
    rise = 0.0 if geometry.parallel else float(torch.diff(geometry.sources[:, 2]).abs().sum())
    if rise > 1e-9 and span > 0:
        pitch = rise / (span / (2 * math.pi))
        return f"helix with a pitch of {pitch:.4g} mm per turn"
    if span + gap > 2 * math.pi - 1e-3:
        return "full turn"
    return "part of a turn"


def _views(geometry: CTGeometry) -> str:
    if geometry.angles is None:
        return str(geometry.n_views)
    span, _ = _arc(geometry.angles)
    return f"{geometry.n_views} over {span * _DEGREES:.1f} degrees"


def _distances(geometry: CTGeometry) -> str:
    if geometry.parallel:
        return ""
    axis = float(torch.linalg.vector_norm(geometry.sources[:, :2], dim=1).mean())
    rays = geometry.detectors - geometry.sources
    detector = float((rays * geometry.normals).sum(1).mean())
    return (f"source to axis {axis:.4g} mm, source to detector {detector:.4g} mm, "
            f"magnification {float(geometry.magnifications.mean()):.4g}")


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
