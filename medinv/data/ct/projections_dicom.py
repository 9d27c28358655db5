"""DICOM-CT-PD: projections of clinical scanners, one file per view, as Mayo Clinic defined it.

Coordinates of the format are left-handed: seen from the patient's table, ``x`` grows to the right,
``y`` up and ``z`` away, into the gantry; at azimuth ``phi`` (0 at 12 o'clock, growing
anticlockwise) a point is at ``(-rho sin phi, rho cos phi, z)``. The detector is bent around its
*focal centre* ``(rho0, phi0, z0)``; the focal spot is displaced from there by ``(d_rho, d_phi,
d_z)``, from view to view where it flies. With the detector at 6 o'clock, column 1 is the leftmost
and row 1 the farthest. The element ``DetectorCentralElement`` (column, row; from 1) lies on the
line from the focal centre to the isocentre, ``ConstantRadialDistance`` from the former. Turning
``y`` down gives the right-handed coordinates of `medinv.operators.ct_geometry`.

Source: Chen et al., "Development and validation of an open data format for CT projection data",
Medical Physics 42 (2015), 6964; DICOM-CT-PD user manual, version 3; Moen et al., Medical Physics
48 (2021), 902, table IV.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medinv.data.ct.sinogram import Sinogram, fitted
from medinv.data.dicom.files import File, find_files, label, quiet, refusing
from medinv.data.metadata import Metadata
from medinv.data.mri.arrays import check_finite
from medinv.data.safety import check_memory
from medinv.errors import DataError, ShapeError
from medinv.operators import ct_geometry
from medinv.operators.ct_checks import check_angles
from medinv.operators.ct_geometry import CTGeometry

if TYPE_CHECKING:
    from pydicom import Dataset

ROWS, COLUMNS = (0x7029, 0x1010), (0x7029, 0x1011)
COL_MM, ROW_MM, SHAPE = (0x7029, 0x1002), (0x7029, 0x1006), (0x7029, 0x100B)
PHI, Z, RHO = (0x7031, 0x1001), (0x7031, 0x1002), (0x7031, 0x1003)
RADIUS, CENTRE = (0x7031, 0x1031), (0x7031, 0x1033)
D_PHI, D_Z, D_RHO = (0x7033, 0x100B), (0x7033, 0x100C), (0x7033, 0x100D)
SPECTRUM, PHOTONS = (0x7033, 0x1063), (0x7033, 0x1065)
KIND, LOG = (0x7037, 0x1009), (0x7039, 0x1009)
WATER = (0x7041, 0x1001)
_SHORT = (ROWS, COLUMNS, SPECTRUM)  # 16 bits; the other numbers are single floats
_DECODED = {**dict.fromkeys(_SHORT, "H"), **dict.fromkeys(
    (COL_MM, ROW_MM, PHI, Z, RHO, RADIUS, CENTRE, D_PHI, D_Z, D_RHO, PHOTONS), "f")}
_MAX_VIEWS = 500_000
_FAR_MM = 1e5
_META_BYTES = 1024
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_PER_MM = (0.01, 0.05)  # where the attenuation of water in 1/mm can lie

# Where x (right), y (down) and z (away) of the geometry point in the patient, seen from the table.
_ORIENTATIONS = {"HFS": "LPS", "HFP": "RAS", "HFDR": "PRS", "HFDL": "ALS",
                 "FFS": "RPI", "FFP": "LAI", "FFDR": "ARI", "FFDL": "PLI"}


@dataclass(frozen=True, eq=False)
class _View:
    """One file: its integrals (row, col), geometry and noise."""

    integrals: np.ndarray[Any, np.dtype[np.float32]]
    order: float
    focus: tuple[float, float, float]
    shift: tuple[float, float, float]
    photons: float | None


def is_projection_dicom(path: str | Path) -> bool:
    """Whether the first file of a folder, zip or list is a projection, not an image.

    >>> is_projection_dicom("nothing")
    False
    """
    try:
        files = find_files(path)
        return bool(files) and RHO in _dataset(files[0], label(path), pixels=False)
    except DataError:
        return False


def read_projection_dicom(path: str | Path) -> Sinogram:
    """Line integrals of an axial or helical scan in DICOM-CT-PD format.

    Rays start at the true focal spot. `CTGeometry` bends a detector around the source, the scanner
    around its focal centre: columns are taken equiangular between the outermost two as seen from
    the spot, and ``metadata["largest_column_error"]`` says by how much of a column that misplaces
    the others (below 0.1 for the millimetre that focal spots fly).

    Args:
        path: a folder, zip or file of one series of projections.

    Raises:
        DataError: no projections, damaged ones, several series or spectra, a spherical detector,
            or values before the logarithm.

    >>> read_projection_dicom("nothing")
    Traceback (most recent call last):
    medinv.errors.DataError: nothing: expected a DICOM folder, file or zip, found nothing; check \
the path
    """
    name = label(path)
    files = find_files(path)
    if not 0 < len(files) <= _MAX_VIEWS:
        raise DataError(f"{name}: expected projections, one file for each view, found "
                        f"{len(files)} files; pass the folder of one series")
    first = _dataset(files[0], name)
    scan = _Scan.of(first, name)
    check_memory(name, (len(files), scan.n_rows, scan.n_cols), itemsize=16)
    views = [scan.view(first, name)]
    views += [scan.view(_dataset(file, name), name) for file in files[1:]]
    views.sort(key=lambda view: view.order)
    data = torch.from_numpy(np.stack([view.integrals for view in views]))
    check_finite(data, Path(name), "line integrals")
    try:
        geometry, error = scan.geometry(views)
        geometry = fitted(geometry)
    except ShapeError as problem:
        raise DataError(f"{name}: its tags make no scan: {problem}") from problem
    check_memory(name, geometry.shape, itemsize=8)
    facts = {"format": "DICOM-CT-PD", "scan": scan.kind, "largest_column_error": error,
             "middle_z_mm": _middle(views)}
    if scan.water_per_mm is not None:
        facts["mu_water_per_mm"] = scan.water_per_mm
    return Sinogram(data, geometry, _noise_std(data, views), _ORIENTATIONS.get(scan.position),
                    facts, scan.acquisition)


@dataclass(frozen=True)
class _Scan:
    """What all views of a scan share."""

    n_rows: int
    n_cols: int
    row_mm: float
    col_mm: float
    radius: float
    centre: tuple[float, float]
    curved: bool
    kind: str
    identity: tuple[str, ...]
    water_per_mm: float | None
    position: str
    acquisition: Metadata

    @classmethod
    def of(cls, dataset: Dataset, name: str) -> _Scan:
        """From the first file."""
        shape = _text(dataset, SHAPE).upper() or "CYLINDRICAL"
        if shape not in ("CYLINDRICAL", "FLAT"):
            raise DataError(f"{name}: expected a cylindrical or flat detector, found "
                            f"{'a spherical one' if shape == 'SPHERICAL' else 'another one'}, "
                            "whose rows are bent too; rebin the projections first")
        if _text(dataset, LOG).upper() == "NO":
            raise DataError(f"{name}: expected line integrals (LogFlag YES), found values before "
                            "the logarithm; convert them first")
        n_rows, n_cols = (int(_number(dataset, tag, name)) for tag in (ROWS, COLUMNS))
        lengths = [_number(dataset, tag, name) for tag in (ROW_MM, COL_MM, RADIUS)]
        if min(n_rows, n_cols) < 1 or not all(1e-3 <= mm <= _FAR_MM for mm in lengths):
            raise DataError(f"{name}: expected a detector of positive size, found {n_rows} rows, "
                            f"{n_cols} columns and lengths {lengths} mm; the header is damaged")
        column, row = _numbers(dataset, CENTRE, 2, name)
        water = _numbers(dataset, WATER, 1, name) if WATER in dataset else (0.0,)
        usable = _PER_MM[0] <= water[0] <= _PER_MM[1]
        row_mm, col_mm, radius = lengths
        return cls(n_rows, n_cols, row_mm, col_mm, radius, (row, column), shape == "CYLINDRICAL",
                   "helical" if _text(dataset, KIND).upper() == "HELICAL" else "axial",
                   _identity(dataset), water[0] if usable else None,
                   _text(dataset, "PatientPosition").upper(), _acquisition(dataset))

    def view(self, dataset: Dataset, name: str) -> _View:
        """One file of the scan."""
        if _identity(dataset) != self.identity:
            raise DataError(f"{name}: expected one series of one spectrum, found several; pass "
                            "the folder of one")
        rho, phi, z = (_number(dataset, tag, name) for tag in (RHO, PHI, Z))
        shift = tuple(_number(dataset, tag, name) if tag in dataset else 0.0
                      for tag in (D_RHO, D_PHI, D_Z))
        if max(abs(value) for value in (rho, phi, z, *shift)) > _FAR_MM:
            raise DataError(f"{name}: expected the focal spot within {_FAR_MM:g} mm, found it "
                            "farther away; the header is damaged")
        order = _numbers(dataset, "InstanceNumber", 1, name)[0]
        photons = None
        if PHOTONS in dataset:
            found = np.asarray(_decoded(dataset, PHOTONS))
            if len(found) and np.isfinite(found).all() and (found > 0).all():
                photons = 1 / float((1 / found).mean())
        return _View(self._integrals(dataset, name), order, (rho, phi, z),
                     (shift[0], shift[1], shift[2]), photons)

    def _integrals(self, dataset: Dataset, name: str
                   ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(row, col); some files store the transposed picture, first all rows of column 1."""
        rows, cols = (int(_numbers(dataset, key, 1, name)[0]) for key in ("Rows", "Columns"))
        size = (self.n_rows, self.n_cols)
        if (rows, cols) not in (size, size[::-1]):
            raise DataError(f"{name}: expected {size} detector elements, found {rows} x {cols} "
                            "stored values; the header is damaged")
        with refusing(name, "the projections cannot be read"):
            stored = np.asarray(dataset.pixel_array)
        if stored.shape != (rows, cols) or stored.dtype.kind not in "iu":
            raise DataError(f"{name}: expected one projection per file, found {stored.dtype} "
                            f"{stored.shape}; the file is damaged")
        slope, = _numbers(dataset, "RescaleSlope", 1, name)
        intercept, = _numbers(dataset, "RescaleIntercept", 1, name)
        values = (stored * slope + intercept).astype(np.float32)
        return values if (rows, cols) == size else np.ascontiguousarray(values.T)

    def geometry(self, views: Sequence[_View]) -> tuple[CTGeometry, float]:
        """Source and detector of each view, and the largest misplacement in columns."""
        focus = torch.tensor([view.focus for view in views], dtype=torch.float64)
        check_angles("azimuths of the focal spot", focus[:, 1])
        shift = torch.tensor([view.shift for view in views], dtype=torch.float64)
        middle = torch.tensor([0, 0, _middle(views)], dtype=torch.float64)
        centres = _cartesian(focus) - middle
        sources = _cartesian(focus + shift) - middle
        inwards, across = _axes(focus[:, 1])
        column = torch.arange(1, self.n_cols + 1, dtype=torch.float64) - self.centre[1]
        elements = centres[:, None] + self._arc(inwards[:, None], across[:, None], column)
        up = torch.tensor([0, 0, 1.0], dtype=torch.float64)
        height = (self.centre[0] - (self.n_rows + 1) / 2) * self.row_mm
        row_axes = (-self.row_mm * up).expand(len(views), 3)
        if self.curved:
            detectors, col_axes, error = _seen_from(sources, elements)
        else:
            detectors, error = elements[:, [0, -1]].mean(1), 0.0
            col_axes = self.col_mm * across
        return ct_geometry.free((1, 1, 1), 0.01, sources, detectors + height * up, col_axes,
                                row_axes, self.n_rows, self.n_cols, curved=self.curved), error

    def _arc(self, inwards: Tensor, across: Tensor, column: Tensor) -> Tensor:
        """Columns relative to the focal centre, (view, col, 3)."""
        along = (column * self.col_mm)[:, None]
        if not self.curved:
            return self.radius * inwards + along * across
        angle = along / self.radius
        return self.radius * (angle.cos() * inwards + angle.sin() * across)


def _cartesian(cylindrical: Tensor) -> Tensor:
    """(x, y, z) of the geometry, with y down, from (rho, phi, z)."""
    rho, phi, z = cylindrical.unbind(1)
    return torch.stack([-rho * phi.sin(), -rho * phi.cos(), z], 1)


def _axes(phi: Tensor) -> tuple[Tensor, Tensor]:
    """From the focal centre to the isocentre, and along columns; unit vectors (view, 3)."""
    zero = torch.zeros_like(phi)
    return (torch.stack([phi.sin(), phi.cos(), zero], 1),
            torch.stack([phi.cos(), -phi.sin(), zero], 1))


def _seen_from(sources: Tensor, elements: Tensor) -> tuple[Tensor, Tensor, float]:
    """The arc around each source that meets the outermost columns: its middle and column step.

    Returns:
        Middles and steps, (view, 3), and the largest misplacement in columns.
    """
    rays = elements[..., :2] - sources[:, None, :2]
    n_cols = elements.shape[1]
    middle = rays[:, [0, -1]].sum(1)
    forward = middle / torch.linalg.vector_norm(middle, dim=1, keepdim=True)
    across = torch.stack([-forward[:, 1], forward[:, 0]], 1)
    across = across * torch.sign(((rays[:, -1] - rays[:, 0]) * across).sum(1, keepdim=True))
    angle = torch.atan2((rays * across[:, None]).sum(-1), (rays * forward[:, None]).sum(-1))
    centred = angle - angle[:, [0, -1]].mean(1, keepdim=True)
    step = (angle[:, -1] - angle[:, 0]) / max(n_cols - 1, 1)
    even = (torch.arange(n_cols) - (n_cols - 1) / 2) * step[:, None]
    error = float(((centred - even) / step[:, None]).abs().max()) if n_cols > 1 else 0.0
    turn = angle[:, [0, -1]].mean(1, keepdim=True)
    ahead = turn.cos() * forward + turn.sin() * across
    beside = turn.cos() * across - turn.sin() * forward
    radius = torch.linalg.vector_norm(rays, dim=2).mean(1, keepdim=True)
    flat = torch.zeros_like(radius)
    detectors = torch.cat([sources[:, :2] + radius * ahead, elements[:, 0, 2:]], 1)
    return detectors, torch.cat([radius * step[:, None] * beside, flat], 1), error


def _middle(views: Sequence[_View]) -> float:
    heights = [view.focus[2] for view in views]
    return (min(heights) + max(heights)) / 2


def _noise_std(data: Tensor, views: Sequence[_View]) -> float | None:
    """From the incident photons: the variance of ``-log(N / I0)`` is ``exp(p) / I0``."""
    photons = [view.photons for view in views if view.photons is not None]
    if len(photons) != len(views):
        return None
    incident = torch.tensor(photons, dtype=torch.float64)
    variance = data.double().clamp(0, 20).exp().mean((1, 2)) / incident
    return math.sqrt(float(variance.mean()))


def _dataset(file: File, name: str, *, pixels: bool = True) -> Dataset:
    import pydicom

    with file.open() as stream:
        start = stream.read(_META_BYTES)
        if start[128:132] != b"DICM" or _DEFLATED in start:  # deflated: it could fill the memory
            raise DataError(f"{name}: expected DICOM-CT-PD, not deflated, found a file of "
                            "another kind; pass a folder that holds projections only")
        stream.seek(0)
        with refusing(name, "the DICOM file cannot be read"), quiet():
            return pydicom.dcmread(stream, stop_before_pixels=not pixels)


def _values(dataset: Dataset, key: tuple[int, int] | str) -> Any:  # noqa: ANN401
    """A tag's value; private numbers of unknown type are decoded, as the format defines them."""
    element: Any = dataset.get(key)
    value = element.value if isinstance(key, tuple) and element is not None else element
    if isinstance(value, bytes) and isinstance(key, tuple):
        code = _DECODED.get(key)
        if code is None:
            return value.decode("ascii", errors="replace").strip(" \0")
        return struct.unpack(f"<{len(value) // struct.calcsize(code)}{code}", value)
    return value


def _numbers(dataset: Dataset, key: tuple[int, int] | str, count: int, name: str
             ) -> tuple[float, ...]:
    title = key if isinstance(key, str) else f"({key[0]:04X},{key[1]:04X})"
    found = _decoded(dataset, key)
    if len(found) != count or not all(math.isfinite(item) for item in found):
        raise DataError(f"{name}: expected {count} finite number(s) in {title}, found none or "
                        "something else; the file is damaged, or no DICOM-CT-PD")
    return found


def _decoded(dataset: Dataset, key: tuple[int, int] | str) -> tuple[float, ...]:
    """The numbers of a tag; none where it is absent or broken."""
    try:
        with quiet():
            value = _values(dataset, key)
        many = isinstance(value, Sequence) and not isinstance(value, str)
        return tuple(float(item) for item in (value if many else [value]))
    except Exception:  # pydicom decodes a value when it is first used; its errors quote values
        return ()


def _number(dataset: Dataset, key: tuple[int, int], name: str) -> float:
    return _numbers(dataset, key, 1, name)[0]


def _text(dataset: Dataset, key: tuple[int, int] | str) -> str:
    try:
        with quiet():
            return str(_values(dataset, key) or "").strip()
    except Exception:  # pydicom decodes a value when it is first used
        return ""


def _identity(dataset: Dataset) -> tuple[str, ...]:
    return _text(dataset, "SeriesInstanceUID"), _text(dataset, SPECTRUM)


def _acquisition(dataset: Dataset) -> Metadata:
    kvp = _text(dataset, "KVP")
    try:
        return Metadata(modality="CT", manufacturer=_text(dataset, "Manufacturer")[:64] or None,
                        anatomy=_text(dataset, "BodyPartExamined").lower()[:64] or None,
                        patient_position=_text(dataset, "PatientPosition")[:16] or None,
                        kvp=float(kvp) if kvp else None)
    except (ValueError, DataError):
        return Metadata(modality="CT")
