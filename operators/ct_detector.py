"""Where the columns of a detector are, flat or curved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from medinv.operators.ct_geometry import CTGeometry

_CUT = 0.1  # of the largest column mean: where the outermost columns see more, the object goes on


@dataclass(frozen=True)
class CurvedFrame:
    """The cylinder of a curved detector in each view; its axis passes through the source.

    Attributes:
        radius: ``(view,)``, mm.
        forward, across, up: unit vectors ``(view, 3)`` from the source to the middle column,
            along columns there, and along rows.
        pitch: angle between columns, radians ``(view,)``.
        row_mm: height of a row ``(view,)``.
        lift: height of the detector's centre above the source along ``up``, in rows ``(view,)``.
    """

    radius: Tensor
    forward: Tensor
    across: Tensor
    up: Tensor
    pitch: Tensor
    row_mm: Tensor
    lift: Tensor


def curved_frame(geometry: CTGeometry) -> CurvedFrame:
    """The frame of a geometry's curved detector.

    Example:
        >>> from medinv.operators.ct_geometry import fan
        >>> beam = fan((8, 8), torch.zeros(1), 1.0, 60, 40, 20, 1.5, curved=True)
        >>> frame = curved_frame(beam)
        >>> frame.radius.item(), frame.pitch.item()
        (100.0, 0.015)
    """
    arc = torch.linalg.vector_norm(geometry.col_axes, dim=1, keepdim=True)
    row_mm = torch.linalg.vector_norm(geometry.row_axes, dim=1, keepdim=True)
    up = geometry.row_axes / row_mm
    ray = geometry.detectors - geometry.sources
    lift = (ray * up).sum(1, keepdim=True)
    forward = ray - lift * up
    radius = torch.linalg.vector_norm(forward, dim=1, keepdim=True)
    return CurvedFrame(radius[:, 0], forward / radius, geometry.col_axes / arc, up,
                       (arc / radius)[:, 0], row_mm[:, 0], (lift / row_mm)[:, 0])


def column_places(geometry: CTGeometry, steps: Tensor) -> Tensor:
    """Points of the middle row, ``steps`` columns from the detector's centre.

    Args:
        geometry: the scan.
        steps: ``(n,)``, float64.

    Returns:
        ``(view, n, 3)``, mm.

    Example:
        >>> from medinv.operators.ct_geometry import fan
        >>> beam = fan((8, 8), torch.zeros(1), 1.0, 60, 40, 20, 1.5)
        >>> column_places(beam, torch.tensor([2.0]).double())[0].tolist()
        [[3.0, 40.0, 0.0]]
    """
    if not geometry.curved:
        return geometry.detectors[:, None] + steps[:, None] * geometry.col_axes[:, None]
    frame = curved_frame(geometry)
    angle = (steps * frame.pitch[:, None])[..., None]
    turned = angle.cos() * frame.forward[:, None] + angle.sin() * frame.across[:, None]
    height = frame.lift[:, None] * geometry.row_axes
    return (geometry.sources + height)[:, None] + frame.radius[:, None, None] * turned


def cut_side(sinogram: Tensor) -> int:
    """The one side of the detector beyond which the object goes on.

    Args:
        sinogram: line integrals, ``(..., col)``.

    Returns:
        -1 for the first column's side, 1 for the last one's; 0 for neither, or both.

    Example:
        >>> [cut_side(torch.tensor([row])) for row in ([3.0, 3, 2, 0, 0], [0.0, 0, 1, 0, 0])]
        [-1, 0]
    """
    seen = sinogram.detach().abs().flatten(0, -2).mean(0)
    limit = _CUT * float(seen.max())
    first, last = float(seen[:2].max()) > limit, float(seen[-2:].max()) > limit
    return int(last) - int(first)
