"""Three planes of a volume side by side: the reference, each method, and each method's error.

All images share one window, all error maps another; the caption says which, in the unit of the
values. Letters at the edges name the patient's sides, where these are known. Planes are shown as a
radiologist sees them: axial from the feet, coronal from the front, the patient's right on the left
of the image.
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
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLANES = ("axial", "coronal", "sagittal")
_ERROR_SHARE = 0.2
_COLUMN_INCHES = 2.2
_WORD_INCHES = 0.5  # of "coronal", upright
_LETTERS_PER_INCH = 14
_BRIGHTEST = 0.998
_THINNEST = 0.02
_TALL = 0.25  # height over width of a picture that has room for letters above each other
_CAPTION = "images: {low:.4g} to {top:.4g}{unit}"
_ERRORS = "; error maps: 0 to {error:.3g}{unit} ({share:.0%} of the window)"
_SIDES = "; the patient's right is on the left"
_UNKNOWN = "; how the patient lay is not known"
AIR_HU = -1000.0


@dataclass(frozen=True)
class Scale:
    """Of the values that are drawn.

    Attributes:
        low: the value of air, which is black.
        unit: as captions name it; empty for none.
    """

    low: float = 0.0
    unit: str = ""


@dataclass(frozen=True)
class Plane:
    """One plane as it is drawn: rows from top to bottom, columns from left to right."""

    name: str
    pixels: Tensor
    height_mm: float
    width_mm: float
    sides: tuple[str, str, str, str] | None = None
    """Of the patient: left, right, top and bottom of the picture; None where it is not known."""


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
    known = not str(volume.metadata.get("position", "")).startswith("assumed")
    return (
        Plane("axial", data[z].flip(0, 1), y_mm, x_mm, ("R", "L", "A", "P") if known else None),
        Plane("coronal", data[:, y].flip(0, 1), z_mm, x_mm,
              ("R", "L", "S", "I") if known else None),
        Plane("sagittal", data[:, :, x].flip(0, 1), z_mm, y_mm,
              ("A", "P", "S", "I") if known else None),
    )


def comparison(reference: Volume, methods: Mapping[str, Tensor],
               scale: Scale = Scale()) -> bytes:  # noqa: B008  (frozen)
    """A PNG: rows are planes; columns are the reference, each method, each method's error.

    Args:
        reference: the truth; the window goes from air to the 99.8th percentile of its magnitude
            (a catheter or contrast agent would darken the rest), error maps go to 20 % of that.
        methods: name to voxels (z, y, x) on the reference's grid.
        scale: of the values.

    Raises:
        ShapeError: a method has another shape, or there is none.
    """
    if not methods:
        raise ShapeError("comparison: expected at least one method beside the reference, got none")
    truth = _shown(reference)
    columns = {name: _shown(reference.with_data(data)) for name, data in methods.items()}
    window = scale.low, _brightness(reference, scale.low)
    panels = [("reference", [plane.pixels for plane in truth], False)]
    panels += [(name, [p.pixels for p in column], False) for name, column in columns.items()]
    for name, column in columns.items():
        errors = [(p.pixels - t.pixels).abs() for p, t in zip(column, truth, strict=True)]
        panels.append((f"|{name} - reference|", errors, True))
    return _png(_draw(panels, truth, window, _caption(truth, window, scale.unit, errors=True)))


def gallery(methods: Mapping[str, Volume],
            scale: Scale = Scale()) -> bytes:  # noqa: B008  (frozen)
    """A PNG for measurements without a reference: rows are planes, columns are methods.

    Args:
        methods: name to volume, all on one grid; the window goes from air to the 99.8th percentile
            of the last one's magnitude.
        scale: of the values.

    Raises:
        ShapeError: there is no method.
    """
    if not methods:
        raise ShapeError("gallery: expected at least one method, got none")
    columns = {name: _shown(volume) for name, volume in methods.items()}
    window = scale.low, _brightness(list(methods.values())[-1], scale.low)
    panels = [(name, [p.pixels for p in column], False) for name, column in columns.items()]
    truth = next(iter(columns.values()))
    return _png(_draw(panels, truth, window, _caption(truth, window, scale.unit, errors=False)))


def _caption(shown: tuple[Plane, ...], window: tuple[float, float], unit: str, *,
             errors: bool) -> str:
    """What the greys mean, and where the patient's right is."""
    low, top = window
    facts = {"low": low, "top": top, "unit": f" {unit}" if unit else "",
             "error": _ERROR_SHARE * (top - low), "share": _ERROR_SHARE}
    text = _CAPTION + (_ERRORS if errors else "")
    return text.format(**facts) + (_UNKNOWN if shown[0].sides is None else _SIDES)


def write_comparison(path: str | Path, reference: Volume, methods: Mapping[str, Tensor]) -> None:
    """Write `comparison` to ``path``, atomically.

    Raises:
        ShapeError: as `comparison`.
        OutputError: the file could not be written.
    """
    content = comparison(reference, methods)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _brightness(volume: Volume, low: float) -> float:
    """The top of the window: nearly all voxels are darker; above ``low`` for an empty volume."""
    data = volume.data.detach()
    values = (data.abs() if data.is_complex() else (data - low).abs()).flatten()
    bright = float(values.kthvalue(max(1, round(_BRIGHTEST * values.numel()))).values)
    return low + max(bright, max(abs(low), 1.0) * torch.finfo(torch.float32).eps)


def _shown(volume: Volume) -> tuple[Plane, ...]:
    """The planes worth drawing: a few thin slices have only one that is not a line."""
    found = planes(volume)
    return tuple(plane for plane in found if not _is_line(plane)) or found


def _is_line(plane: Plane) -> bool:
    short, long = sorted((plane.height_mm, plane.width_mm))
    return min(plane.pixels.shape) == 1 or short < _THINNEST * long


def _draw(
    panels: list[tuple[str, list[Tensor], bool]], truth: tuple[Plane, ...],
    window: tuple[float, float], caption: str,
) -> Figure:
    from matplotlib.figure import Figure

    widest = max(plane.width_mm for plane in truth)
    heights = [plane.height_mm / widest * _COLUMN_INCHES for plane in truth]
    figure = Figure(
        figsize=(_COLUMN_INCHES * len(panels), sum(heights) + 0.6), layout="constrained"
    )
    axes = figure.subplots(len(truth), len(panels), squeeze=False, height_ratios=heights)
    for column, (title, images, is_error) in enumerate(panels):
        low, top = (0.0, _ERROR_SHARE * (window[1] - window[0])) if is_error else window
        colours = "magma" if is_error else "gray"
        for row, (image, plane) in enumerate(zip(images, truth, strict=True)):
            axis = axes[row][column]
            extent = (0.0, plane.width_mm, plane.height_mm, 0.0)
            axis.imshow(image.numpy(), cmap=colours, vmin=low, vmax=top, extent=extent)
            axis.set(xticks=[], yticks=[])
            if not is_error:
                _name_sides(axis, plane)
            if row == 0:
                axis.set_title(title, fontsize=9)
            if column == 0:
                flat = heights[row] < _WORD_INCHES
                axis.set_ylabel(plane.name, fontsize=9, rotation=0 if flat else 90,
                                ha="right" if flat else "center",
                                va="center" if flat else "bottom")
    letters_per_line = int(_LETTERS_PER_INCH * _COLUMN_INCHES * len(panels))
    figure.supxlabel(textwrap.fill(caption, letters_per_line), fontsize=8)
    return figure


def _name_sides(axis: Axes, plane: Plane) -> None:
    """A letter in the middle of each edge; thin pictures have room for those of their ends."""
    if plane.sides is None:
        return
    places = ((0.02, 0.5, "left", "center"), (0.98, 0.5, "right", "center"),
              (0.5, 0.97, "center", "top"), (0.5, 0.03, "center", "bottom"))
    tall = plane.height_mm > _TALL * plane.width_mm
    for letter, (x, y, ha, va) in list(zip(plane.sides, places, strict=True))[:4 if tall else 2]:
        axis.text(x, y, letter, ha=ha, va=va, fontsize=7, color="yellow",
                  transform=axis.transAxes)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
