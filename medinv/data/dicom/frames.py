"""The slices of a file, whatever its layout: one image, enhanced multi-frame, or Siemens mosaic.

A `Frame` knows where a slice lies in the patient (DICOM's LPS millimetres), how its stored numbers
become values, and which traits tell it from another slice at the same place. Sources: DICOM PS3.3
C.7.6.2 (image plane), C.7.6.16 (functional groups); mosaics: the tiles run row by row, and the
position in the header belongs to the corner of the whole mosaic
(https://nipy.org/nibabel/dicom/dicom_mosaic.html).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from medinv.data.dicom.files import refusing
from medinv.data.dicom.header import (
    CSA_HEADER,
    PHILIPS_FRAME,
    PHILIPS_INTERCEPT,
    PHILIPS_SLOPE,
    Header,
    items,
    numbers,
    words,
)
from medinv.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset

Vector = np.ndarray[Any, np.dtype[np.float64]]
Trait = str | float | tuple[float, ...]

_TRAITS = {
    "echo time (ms)": "EffectiveEchoTime", "inversion time (ms)": "InversionTime",
    "b-value (s/mm2)": "DiffusionBValue", "time point": "TemporalPositionIndex",
    "trigger time (ms)": "NominalCardiacTriggerDelayTime", "acquisition": "FrameAcquisitionNumber",
}
_CLASSIC_TRAITS = {
    "echo time (ms)": "EchoTime", "inversion time (ms)": "InversionTime",
    "b-value (s/mm2)": "DiffusionBValue", "time point": "TemporalPositionIdentifier",
    "trigger time (ms)": "TriggerTime", "acquisition": "AcquisitionNumber",
    "instance": "InstanceNumber",
}
_MAX_FRAMES = 100_000
_FAR_MM = 1e5  # no scanner places a slice 100 m away
_MAX_SPACING_MM = 1e3


@dataclass(frozen=True, repr=False)
class Frame:
    """One slice.

    Attributes:
        header: of the file that holds it.
        index: of the frame in the file.
        shape: rows, columns.
        position: LPS mm of the centre of the first voxel.
        row: unit vector along a row, towards higher columns.
        col: unit vector along a column, towards higher rows.
        spacing: mm between rows, between columns.
        slope: value = slope * stored + intercept.
        intercept: see ``slope``.
        philips: private scale slope and intercept, where the file has them.
        thickness: distance to the next slice as the file states it, for a slice that is alone.
        tile: row and column in a mosaic at which the slice starts.
    """

    header: Header
    index: int
    shape: tuple[int, int]
    position: Vector
    row: Vector
    col: Vector
    spacing: tuple[float, float]
    slope: float
    intercept: float
    philips: tuple[float, float] | None
    thickness: float | None
    tile: tuple[int, int] = (0, 0)

    @cached_property
    def traits(self) -> Mapping[str, Trait]:
        """What tells slices at one place apart (echo, b-value, time point...)."""
        return _traits(self.header, self.index)

    @cached_property
    def normal(self) -> Vector:
        """Unit vector from slice to slice: row, col and normal are right-handed."""
        cross: Vector = np.cross(self.row, self.col)
        return cross / float(np.linalg.norm(cross))


def frames_of(header: Header) -> list[Frame]:
    """The slices of a file.

    Raises:
        DataError: a broken or absurd tag, or a multi-frame file that does not place its frames.
    """
    if items(header.dataset, "PerFrameFunctionalGroupsSequence"):
        return list(_enhanced(header))
    if header.count("NumberOfFrames", 1) > 1:
        raise DataError(
            f"{header.name}: its frames have no positions (a multi-frame file without functional "
            "groups, as ultrasound and angiography are); medinv reads cross-sections only"
        )
    frame = _frame(header, 0, [header.dataset])
    return _mosaic(frame) if "MOSAIC" in header.words("ImageType") else [frame]


def is_placed(header: Header) -> bool:
    """Whether a file says anything of where it lies in the patient; screen captures do not."""
    places = ("ImagePositionPatient", "ImageOrientationPatient")
    return any(words(group, keyword) for group in frame_groups(header, 0) for keyword in places)


def _enhanced(header: Header) -> Iterator[Frame]:
    """The frames of an enhanced file: a frame's own groups come before the shared ones."""
    frames = items(header.dataset, "PerFrameFunctionalGroupsSequence")
    n_frames = header.count("NumberOfFrames", 1)
    if n_frames != len(frames) or n_frames > _MAX_FRAMES:
        raise DataError(f"{header.name}: it states {n_frames} frames but describes {len(frames)} "
                        f"(at most {_MAX_FRAMES}); export the series again")
    common = _common_groups(header)
    for index, item in enumerate(frames):
        yield _frame(header, index, _groups(item) + common)


def frame_groups(header: Header, index: int) -> list[Dataset]:
    """Where to look for a frame's tags, its own groups first; the file itself comes last."""
    frames = items(header.dataset, "PerFrameFunctionalGroupsSequence")
    own = _groups(frames[index]) if frames else []
    return own + _common_groups(header)


def _common_groups(header: Header) -> list[Dataset]:
    shared = items(header.dataset, "SharedFunctionalGroupsSequence")
    return [group for item in shared[:1] for group in _groups(item)] + [header.dataset]


def _groups(item: Dataset) -> list[Dataset]:
    """The functional groups of a frame; Philips' private one, a copy of the classic tags, last."""
    tags = sorted(item.keys(), key=lambda tag: tag == PHILIPS_FRAME)
    return [group for tag in tags for group in items(item, int(tag))[:1]]


def _frame(header: Header, index: int, groups: Sequence[Dataset]) -> Frame:
    orientation = _required(header, groups, "ImageOrientationPatient", 6)
    position = _required(header, groups, "ImagePositionPatient", 3)
    dy, dx = _required(header, groups, "PixelSpacing", 2)
    row, col = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(col)
    if max(abs(n - 1) for n in lengths) > 1e-2 or abs(row @ col) > 1e-2:
        raise DataError(f"{header.name}: ImageOrientationPatient {list(orientation)} is not two "
                        "unit vectors at right angles; export the series again")
    if not all(0 < d < _MAX_SPACING_MM for d in (dy, dx)) or max(map(abs, position)) > _FAR_MM:
        raise DataError(f"{header.name}: PixelSpacing {[dy, dx]} mm at position {list(position)} "
                        "mm cannot be; export the series again")
    slope = _number(header, groups, "RescaleSlope")
    precise = _number(header, groups, PHILIPS_SLOPE), _number(header, groups, PHILIPS_INTERCEPT)
    thickness = (_number(header, groups, "SpacingBetweenSlices")
                 or _number(header, groups, "SliceThickness"))
    return Frame(
        header, index, (header.count("Rows"), header.count("Columns")), np.array(position),
        row / lengths[0], col / lengths[1], (dy, dx), 1.0 if slope is None else slope,
        _number(header, groups, "RescaleIntercept") or 0.0,
        (precise[0], precise[1] or 0.0) if precise[0] else None, thickness,
    )


def _find(header: Header, groups: Sequence[Dataset], key: str | int, count: int
          ) -> tuple[float, ...] | None:
    """The numbers of the first group that has them."""
    for group in groups:
        if key in group:
            found = numbers(group, key, count, header.name)
            if found is not None:
                return found
    return None


def _number(header: Header, groups: Sequence[Dataset], key: str | int) -> float | None:
    found = _find(header, groups, key, 1)
    return None if found is None else found[0]


def _required(
    header: Header, groups: Sequence[Dataset], keyword: str, count: int
) -> tuple[float, ...]:
    found = _find(header, groups, keyword, count)
    if found is None:
        raise DataError(f"{header.name}: {keyword} is missing, so the slice has no place in the "
                        "patient; medinv reads cross-sections (CT, MR, PET) only")
    return found


def _traits(header: Header, index: int) -> dict[str, Trait]:
    groups = frame_groups(header, index)
    is_classic = len(groups) == 1
    wanted = _CLASSIC_TRAITS if is_classic else _TRAITS
    found = {name: _number(header, groups, keyword) for name, keyword in wanted.items()}
    traits: dict[str, Trait] = {name: value for name, value in found.items() if value is not None}
    gradient = _find(header, groups, "DiffusionGradientOrientation", 3)
    if gradient is not None:
        traits["gradient"] = gradient
    if not is_classic:
        traits["instance"] = float(index)
    kinds = ("ImageType",) if is_classic else ("StackID", "ComplexImageComponent", "FrameType")
    texts = [word for key in kinds for group in groups for word in words(group, key)]
    return {"image type": " ".join(texts[2:] if is_classic else texts), **traits}


def _mosaic(frame: Frame) -> list[Frame]:
    """The slices that Siemens tiles into one image; Siemens' own header says how many."""
    header = frame.header
    n_slices, normal = _csa(header)
    n_side = math.ceil(math.sqrt(n_slices))
    rows, cols = frame.shape[0] // n_side, frame.shape[1] // n_side
    if rows * n_side != frame.shape[0] or cols * n_side != frame.shape[1] or not frame.thickness:
        raise DataError(f"{header.name}: a mosaic of {n_slices} slices does not fit an image of "
                        f"{frame.shape}, or has no slice distance; export it as single slices")
    margin = (frame.shape[0] - rows) / 2, (frame.shape[1] - cols) / 2
    corner = (frame.position + frame.row * frame.spacing[1] * margin[1]
              + frame.col * frame.spacing[0] * margin[0])
    return [
        Frame(header, 0, (rows, cols), corner + k * frame.thickness * normal, frame.row,
              frame.col, frame.spacing, frame.slope, frame.intercept, None, frame.thickness,
              (k // n_side * rows, k % n_side * cols))
        for k in range(n_slices)
    ]


def _csa(header: Header) -> tuple[int, Vector]:
    """Number of slices and slice normal from Siemens' private header."""
    from nibabel.nicom import csareader

    with refusing(header.name, "Siemens' private header of a mosaic is missing or broken"):
        tags = csareader.read(header.dataset[CSA_HEADER].value)["tags"]
        n_slices = int(tags["NumberOfImagesInMosaic"]["items"][0])
        normal = np.array([float(item) for item in tags["SliceNormalVector"]["items"]])
        if not 0 < n_slices <= _MAX_FRAMES or abs(float(np.linalg.norm(normal)) - 1) > 1e-2:
            raise ValueError
    return n_slices, normal / float(np.linalg.norm(normal))
