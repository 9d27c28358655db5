"""Projections in NumPy arrays, with a YAML file that says how they were measured.

    kind: fan                       # parallel, fan, cone or helical
    data: projections.npy           # beside this file
    angles: {start: 0, stop: 360, count: 720}   # degrees, stop left out; or a list
    source_mm: 410.66               # source to axis
    detector_mm: 143.08             # axis to detector
    col_mm: 0.2

Directions are those of `medinv.operators.ct_geometry`; negative angles turn the other way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from medinv.data.ct.angles import AngleUnit, in_radians, noted
from medinv.data.ct.sinogram import Sinogram, fitted
from medinv.data.metadata import Metadata
from medinv.data.mri.arrays import check_finite, read_array
from medinv.errors import DataError, ShapeError
from medinv.operators import ct_geometry
from medinv.operators.ct_geometry import CTGeometry
from medinv.operators.noise import log_transform

GEOMETRY_FILE = "geometry.yaml"
_MAX_BYTES = 10_000_000
_MAX_VIEWS = 1_000_000

Millimetres = Annotated[float, Field(gt=0, lt=1e6)]
Offset = Annotated[float, Field(gt=-1e6, lt=1e6)]
Angle = Annotated[float, Field(gt=-1e6, lt=1e6)]
Count = Annotated[int, Field(gt=0, le=100_000)]


class Arc(BaseModel):
    """Equispaced angles, the last one a step before ``stop``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: Angle = 0.0
    stop: Angle
    count: int = Field(gt=0, le=_MAX_VIEWS)


class ScanGeometry(BaseModel):
    """What `geometry.yaml` may say; lengths in mm, angles in degrees unless it says radians.

    >>> ScanGeometry(kind="parallel", data="scan.npy", angles=[0, 90], col_mm=0.5).values
    'line-integrals'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["parallel", "fan", "cone", "helical"]
    data: str = Field(description=".npy or .npz file beside this one")
    key: str | None = Field(None, description="array to read, where an .npz holds several")
    axes: Literal["view row col", "row view col", "view col row", "view col"] | None = Field(
        None, description="order of the array's axes; by default view [row] col")
    values: Literal["line-integrals", "transmission"] = "line-integrals"
    angles: Arc | tuple[Angle, ...]
    angle_unit: AngleUnit | None = Field(
        None, description="degrees or radians; told by the angles' span if left out")
    col_mm: Millimetres = Field(description="width of a column, on the detector")
    row_mm: Millimetres | None = Field(None, description="height of a row; col_mm by default")
    source_mm: Millimetres | None = Field(None, description="from the source to the axis")
    detector_mm: Millimetres | None = Field(None, description="from the axis to the detector")
    pitch_mm: Offset | None = Field(None, description="helical: way along z in a turn")
    curved: bool = Field(False, description="columns lie on an arc around the source")
    col_offset_mm: Offset = Field(0.0, description="shift of the detector along its columns")
    row_offset_mm: Offset = Field(0.0, description="shift of the detector along its rows")
    axis_offset_mm: Offset = Field(0.0, description="shift of the axis towards larger columns")
    shape: tuple[Count, Count, Count] | None = Field(None, description="voxels, z, y, x")
    voxel_mm: tuple[Millimetres, Millimetres, Millimetres] | None = Field(
        None, description="size of a voxel, z, y, x")

    @model_validator(mode="after")
    def _complete(self) -> ScanGeometry:
        needed = {"parallel": (), "helical": ("source_mm", "detector_mm", "pitch_mm")}.get(
            self.kind, ("source_mm", "detector_mm"))
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a {self.kind} beam needs {' and '.join(missing)}")
        if self.kind != "helical" and self.pitch_mm is not None:
            raise ValueError(f"a {self.kind} beam has no pitch_mm; choose kind: helical")
        parts = Path(self.data).parts
        if Path(self.data).is_absolute() or ".." in parts or not self.data.endswith(
                (".npy", ".npz")):
            raise ValueError(f"data: expected an .npy or .npz file in the folder, got "
                             f"{self.data!r}")
        return self


def read_projection_arrays(path: str | Path, *, angle_unit: AngleUnit | None = None
                           ) -> Sinogram:
    """Projections whose geometry is in a YAML file, see `ScanGeometry`.

    Args:
        path: the YAML file.
        angle_unit: of its angles, where it does not state it.

    Raises:
        DataError: no such file, not YAML, an unknown or wrong field, or an array that does not
            fit.
    """
    path = Path(path)
    scan = _parse(path)
    data = read_array(path.parent / scan.data, scan.key)
    if data.is_complex() or data.ndim not in (2, 3) or not data.numel():
        raise DataError(f"{path.parent / scan.data}: expected real projections (view, [row,] col),"
                        f" found {data.dtype} {tuple(data.shape)}; save the array again")
    integrals = _ordered(data.float(), scan, path)
    check_finite(integrals, path.parent / scan.data, "projections")
    if scan.values == "transmission":
        integrals = log_transform(integrals, floor=1e-6)
    angles, told = in_radians(_angles(scan), scan.angle_unit or angle_unit, str(path))
    try:
        geometry = _geometry(scan, angles, integrals.shape[1], integrals.shape[2])
    except ShapeError as error:
        raise DataError(f"{path}: its fields make no scan: {error}") from error
    if len(integrals) != geometry.n_views:
        raise DataError(f"{path}: angles: expected one for each of the {len(integrals)} views, "
                        f"got {geometry.n_views}; correct them or the array's axes")
    return Sinogram(integrals, geometry, metadata={"format": "NumPy", **noted(told)},
                    acquisition=Metadata(modality="CT"))


def _parse(path: Path) -> ScanGeometry:
    if not path.is_file():
        raise DataError(f"{path}: expected a YAML file with the scan's geometry, found no file; "
                        "write one beside the array (docs/data.md)")
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path}: expected a short YAML file, found over {_MAX_BYTES} bytes")
    try:
        text = path.read_text(encoding="utf-8")
        if "&" in text or "*" in text:  # aliases could multiply without end
            raise DataError(f"{path}: expected plain YAML, found an anchor or alias (& or *); "
                            "write the values out")
        content = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return ScanGeometry.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(_explain(item["loc"], item["msg"]) for item in error.errors()[:5])
        raise DataError(f"{path}: {problems}") from None
    except (yaml.YAMLError, OSError, ValueError, RecursionError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not valid YAML: {error}") from error


def _explain(location: tuple[int | str, ...], message: str) -> str:
    field = ".".join(map(str, location))
    text = message.removeprefix("Value error, ")
    return f"{field}: {text}" if field else text


def _ordered(data: Tensor, scan: ScanGeometry, path: Path) -> Tensor:
    """The array as (view, row, col)."""
    names = (scan.axes or ("view col" if data.ndim == 2 else "view row col")).split()
    if len(names) != data.ndim:
        raise DataError(f"{path}: axes: expected a name for each axis of {tuple(data.shape)}, got "
                        f"{scan.axes!r}")
    if data.ndim == 2:
        return data[:, None]
    return data.permute([names.index(name) for name in ("view", "row", "col")]).contiguous()


def _angles(scan: ScanGeometry) -> Tensor:
    """In the file's unit."""
    if isinstance(scan.angles, Arc):
        arc = scan.angles
        steps = torch.arange(arc.count, dtype=torch.float64) / arc.count
        return arc.start + (arc.stop - arc.start) * steps
    return torch.tensor(scan.angles, dtype=torch.float64)


def _geometry(scan: ScanGeometry, angles: Tensor, n_rows: int, n_cols: int) -> CTGeometry:
    """The scan on the grid that the file states, or on the one that fits its detector."""
    row_mm = scan.row_mm or scan.col_mm
    if (scan.shape is None) != (scan.voxel_mm is None):
        raise ShapeError("shape and voxel_mm belong together; give both or neither")
    make = {"parallel": _parallel, "helical": _helical}.get(scan.kind, _cone)
    shape, voxel_mm = scan.shape or (1, 1, 1), scan.voxel_mm or (row_mm, scan.col_mm, scan.col_mm)
    made = make(scan, shape, voxel_mm, angles, (n_rows, n_cols), row_mm)
    return made if scan.shape else fitted(made)


def _parallel(scan: ScanGeometry, shape: tuple[int, int, int],
              voxel_mm: tuple[float, float, float], angles: Tensor, counts: tuple[int, int],
              row_mm: float) -> CTGeometry:
    return ct_geometry.parallel(
        shape, angles, voxel_mm, counts[1], scan.col_mm, n_rows=counts[0], row_mm=row_mm,
        col_offset_mm=scan.col_offset_mm - scan.axis_offset_mm, row_offset_mm=scan.row_offset_mm)


def _cone(scan: ScanGeometry, shape: tuple[int, int, int],
          voxel_mm: tuple[float, float, float], angles: Tensor, counts: tuple[int, int],
          row_mm: float) -> CTGeometry:
    if scan.kind == "fan" and counts[0] != 1:
        raise ShapeError(f"a fan beam has one detector row, the array has {counts[0]}; choose "
                         "kind: cone")
    return ct_geometry.cone(
        shape, angles, voxel_mm, scan.source_mm or 0.0, scan.detector_mm or 0.0, *counts, row_mm,
        scan.col_mm, curved=scan.curved, col_offset_mm=scan.col_offset_mm,
        row_offset_mm=scan.row_offset_mm, axis_offset_mm=scan.axis_offset_mm)


def _helical(scan: ScanGeometry, shape: tuple[int, int, int],
             voxel_mm: tuple[float, float, float], angles: Tensor, counts: tuple[int, int],
             row_mm: float) -> CTGeometry:
    return ct_geometry.helical(
        shape, angles, voxel_mm, scan.source_mm or 0.0, scan.detector_mm or 0.0, *counts, row_mm,
        scan.col_mm, pitch_mm=scan.pitch_mm or 0.0, curved=scan.curved,
        col_offset_mm=scan.col_offset_mm, row_offset_mm=scan.row_offset_mm,
        axis_offset_mm=scan.axis_offset_mm)
