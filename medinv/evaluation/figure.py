"""Three planes of a volume side by side: the reference, each method, and each method's error.

All images share one window, all error maps another. Planes are shown as a radiologist sees them:
axial from the feet, coronal from the front, the patient's right on the left of the image.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medinv.data.atomic import replacing
from medinv.data.geometry import to_ras
from medinv.data.volume import Volume
from medinv.errors import ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLANES = ("axial", "coronal", "sagittal")
_ERROR_SHARE = 0.2
_COLUMN_INCHES = 2.2
_WORD_INCHES = 0.5  # of "coronal", upright
_LETTERS_PER_INCH = 14
_BRIGHTEST = 0.998
_THINNEST = 0.02
_CAPTION = (
    "images: 0 to {peak:.3g}; error maps: 0 to {error:.3g} "
    f"({_ERROR_SHARE:.0%} of it); the patient's right is on the left"
)


@dataclass(frozen=True)
class Plane:
    """One plane as it is drawn: rows from top to bottom, columns from left to right."""

    name: str
    pixels: Tensor
    height_mm: float
    width_mm: float


def planes(volume: Volume) -> tuple[Plane, Plane, Plane]:
    """The three central planes, upright; complex voxels by magnitude.

    >>> volume = Volume(torch.rand(4, 6, 8), torch.diag(torch.tensor([1.0, 1, 3, 1]).double()))
    >>> [(p.name, tuple(p.pixels.shape), p.height_mm, p.width_mm) for p in planes(volume)]
    [('axial', (6, 8), 6.0, 8.0), ('coronal', (4, 8), 12.0, 8.0), ('sagittal', (4, 6), 12.0, 6.0)]
    """
    upright = to_ras(volume)
    data = upright.data.detach().cpu()
    data = data.abs() if data.is_complex() else data
    z, y, x = (n // 2 for n in data.shape)
    x_mm, y_mm, z_mm = (
        step * n for step, n in zip(upright.spacing_mm, reversed(data.shape), strict=True)
    )
    return (
        Plane("axial", data[z].flip(0, 1), y_mm, x_mm),
        Plane("coronal", data[:, y].flip(0, 1), z_mm, x_mm),
        Plane("sagittal", data[:, :, x].flip(0, 1), z_mm, y_mm),
    )


def comparison(reference: Volume, methods: Mapping[str, Tensor]) -> bytes:
    """A PNG: rows are planes; columns are the reference, each method, each method's error.

    Args:
        reference: the truth; the window goes from 0 to the 99.8th percentile of its magnitude
            (a catheter or contrast agent would darken the rest), error maps go to 20 % of that.
        methods: name to voxels (z, y, x) on the reference's grid.

    Raises:
        ShapeError: a method has another shape, or there is none.
    """
    if not methods:
        raise ShapeError("comparison: expected at least one method beside the reference, got none")
    truth = _shown(reference)
    columns = {name: _shown(reference.with_data(data)) for name, data in methods.items()}
    peak = _brightness(reference)
    panels = [("reference", [plane.pixels for plane in truth], False)]
    panels += [(name, [p.pixels for p in column], False) for name, column in columns.items()]
    for name, column in columns.items():
        errors = [(p.pixels - t.pixels).abs() for p, t in zip(column, truth, strict=True)]
        panels.append((f"|{name} - reference|", errors, True))
    return _png(_draw(panels, truth, peak, _CAPTION.format(peak=peak, error=_ERROR_SHARE * peak)))


def gallery(methods: Mapping[str, Volume]) -> bytes:
    """A PNG for measurements without a reference: rows are planes, columns are methods.

    Args:
        methods: name to volume, all on one grid; the window goes from 0 to the 99.8th percentile
            of the last one's magnitude.

    Raises:
        ShapeError: there is no method.
    """
    if not methods:
        raise ShapeError("gallery: expected at least one method, got none")
    columns = {name: _shown(volume) for name, volume in methods.items()}
    peak = _brightness(list(methods.values())[-1])
    panels = [(name, [p.pixels for p in column], False) for name, column in columns.items()]
    truth = next(iter(columns.values()))
    return _png(_draw(panels, truth, peak, f"images: 0 to {peak:.3g}"))


def write_comparison(path: str | Path, reference: Volume, methods: Mapping[str, Tensor]) -> None:
    """Write `comparison` to ``path``, atomically.

    Raises:
        ShapeError: as `comparison`.
        OutputError: the file could not be written.
    """
    content = comparison(reference, methods)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _brightness(volume: Volume) -> float:
    """The top of the window: nearly all voxels are darker; positive also for an empty volume."""
    values = volume.data.detach().abs().flatten()
    bright = values.kthvalue(max(1, round(_BRIGHTEST * values.numel()))).values
    return max(float(bright), torch.finfo(torch.float32).tiny)


def _shown(volume: Volume) -> tuple[Plane, ...]:
    """The planes worth drawing: a few thin slices have only one that is not a line."""
    found = planes(volume)
    return tuple(plane for plane in found if not _is_line(plane)) or found


def _is_line(plane: Plane) -> bool:
    short, long = sorted((plane.height_mm, plane.width_mm))
    return min(plane.pixels.shape) == 1 or short < _THINNEST * long


def _draw(
    panels: list[tuple[str, list[Tensor], bool]], truth: tuple[Plane, ...], peak: float,
    caption: str,
) -> Figure:
    from matplotlib.figure import Figure

    widest = max(plane.width_mm for plane in truth)
    heights = [plane.height_mm / widest * _COLUMN_INCHES for plane in truth]
    figure = Figure(
        figsize=(_COLUMN_INCHES * len(panels), sum(heights) + 0.6), layout="constrained"
    )
    axes = figure.subplots(len(truth), len(panels), squeeze=False, height_ratios=heights)
    for column, (title, images, is_error) in enumerate(panels):
        top, colours = (_ERROR_SHARE * peak, "magma") if is_error else (peak, "gray")
        for row, (image, plane) in enumerate(zip(images, truth, strict=True)):
            axis = axes[row][column]
            extent = (0.0, plane.width_mm, plane.height_mm, 0.0)
            axis.imshow(image.numpy(), cmap=colours, vmin=0, vmax=top, extent=extent)
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(title, fontsize=9)
            if column == 0:
                low = heights[row] < _WORD_INCHES
                axis.set_ylabel(plane.name, fontsize=9, rotation=0 if low else 90,
                                ha="right" if low else "center", va="center" if low else "bottom")
    letters_per_line = int(_LETTERS_PER_INCH * _COLUMN_INCHES * len(panels))
    figure.supxlabel(textwrap.fill(caption, letters_per_line), fontsize=8)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
