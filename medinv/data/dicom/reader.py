"""A DICOM series as `Volume`: HU or scanner units, at its place in the patient."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from medinv.data.dicom.acquisition import acquisition_of
from medinv.data.dicom.files import PathOrPaths, label, quiet
from medinv.data.dicom.frames import Frame, frames_of, is_placed
from medinv.data.dicom.header import Header
from medinv.data.dicom.pixels import MAX_VOXELS, Stored, fill_padding, fill_values, stored_pixels
from medinv.data.dicom.regrid import Voxels, regrid
from medinv.data.dicom.series import Series, list_series
from medinv.data.dicom.stack import Stack, stack_slices
from medinv.data.dicom.volumes import split_volumes, summary
from medinv.data.volume import Volume
from medinv.errors import DataError, MedinvWarning

AIR_HU = -1000.0
_THREADS = min(4, os.cpu_count() or 1)  # reading and scaling leave Python's lock


def read_dicom(
    path: PathOrPaths,
    series: int | None = None,
    volume: int | None = None,
    *,
    resample: bool = False,
    precise_philips: bool = False,
    padding_hu: float | None = AIR_HU,
) -> Volume:
    """Read one volume of a DICOM series.

    Slices are ordered by position along their normal; the distance between them comes from the
    positions. Values are ``RescaleSlope * stored + RescaleIntercept`` of each file: HU for CT.
    MONOCHROME1 says how an image is shown, not what it holds: its values stay as they are, with a
    note. A repair gives a `MedinvWarning` and stands in ``metadata["notes"]``.

    Args:
        path: a folder, a zip, a DICOMDIR, a file, or a list of files.
        series: which of `list_series`, from 0; needed where there are several.
        volume: which volume of the series (echo, time point, b-value, orientation...), from 0;
            needed where there are several.
        resample: interpolate a tilted or unevenly spaced stack onto a grid at right angles.
        precise_philips: Philips' floating-point values, comparable between series, instead of
            its display values (where the files hold their private scale).
        padding_hu: value of the voxels that a CT marks as padding, outside its field of view;
            None leaves what is stored.

    Raises:
        DataError: nothing to read, a choice is needed, a damaged file, or slices that are not a
            regular grid.
        DependencyError: no codec for this compression is installed.

    Example:
        >>> read_dicom("exports/", series=1).spacing_mm  # doctest: +SKIP
        (0.977, 0.977, 2.0)
    """
    chosen = choose_series(list_series(path), series, label(path))
    with quiet():
        chosen = without_captures(chosen)
        frames = choose_volume(series_volumes(chosen), volume, label(path))
        result = _read(chosen, frames, label(path), resample, precise_philips, padding_hu)
    notes = result.metadata.get("notes", ())
    for note in notes if isinstance(notes, tuple) else ():
        warnings.warn(f"{label(path)}: {note}", MedinvWarning, stacklevel=2)
    return result


def series_volumes(series: Series) -> list[list[Frame]]:
    """The volumes of a series, each a list of slices.

    Raises:
        DataError: a header is damaged, or places no slice in the patient.
    """
    return split_volumes([frame for header in series.headers for frame in frames_of(header)])


def without_captures(series: Series) -> Series:
    """The series without images that have no place in the patient, if others have one.

    Scanners put screen captures and reports into the series that they belong to.
    """
    placed = tuple(header for header in series.headers if is_placed(header))
    n_captures = len(series.headers) - len(placed)
    if not placed or not n_captures:
        return series
    note = (f"{n_captures} images without position and orientation (screen captures?) were left "
            "out")
    return replace(series, headers=placed, notes=(*series.notes, note))


def choose_series(found: Sequence[Series], index: int | None, name: str) -> Series:
    """The only series, the only one of cross-sections, or the one with this index.

    Raises:
        DataError: there are several, or none with this index; lists them.
    """
    if index is None and len(found) == 1:
        return found[0]
    placed = [item for item in found if any(map(is_placed, item.headers))]
    if index is None and len(placed) == 1:
        note = (f"{len(found) - 1} series without position and orientation (screen captures?) "
                "were left out")
        return replace(placed[0], notes=(*placed[0].notes, note))
    if index is not None and 0 <= index < len(found):
        return found[index]
    wanted = "expected one series" if index is None else f"there is no series {index}"
    listed = "\n".join(f"  series={number}: {item}" for number, item in enumerate(found))
    raise DataError(f"{name}: {wanted}, found {len(found)}; choose one of\n{listed}")


def choose_volume(volumes: Sequence[list[Frame]], index: int | None, name: str) -> list[Frame]:
    """The only volume, or the one with this index.

    Raises:
        DataError: there are several, or none with this index; lists them.
    """
    if index is None and len(volumes) == 1:
        return volumes[0]
    if index is not None and 0 <= index < len(volumes):
        return volumes[index]
    wanted = f"there is no volume {index} in this series"
    if index is None:
        wanted = f"expected slices of one volume, found {_difference(volumes)}"
    listed = "\n".join(f"  volume={number}: {line}"
                       for number, line in enumerate(summary(volumes)))
    raise DataError(f"{name}: {wanted}; choose one of\n{listed}")


def _difference(volumes: Sequence[list[Frame]]) -> str:
    """What keeps the volumes of a series apart."""
    first = [frames[0] for frames in volumes]
    if len({frame.shape for frame in first}) > 1:
        return f"images of {len({frame.shape for frame in first})} sizes"
    turned = [frame for frame in first if abs(float(frame.normal @ first[0].normal)) < 0.999]
    if turned:
        localizer = "LOCALIZER" in first[0].header.words("ImageType") or len(volumes[0]) <= 3
        return "slices in several orientations" + (" (a localizer?)" if localizer else "")
    return f"{len(volumes)} volumes"


def _read(
    series: Series, frames: list[Frame], name: str, resample: bool, precise: bool,
    padding_hu: float | None,
) -> Volume:
    stack = stack_slices(frames)
    if stack.problem and not resample:
        raise DataError(f"{name}: {stack.problem}; export the series again, or interpolate onto a "
                        "regular grid with resample=True")
    first = stack.frames[0]
    is_ct = first.header.text("Modality") == "CT"
    voxels, n_padding = _voxels(stack, name, precise, padding_hu if is_ct else None)
    notes = [*series.notes]
    if stack.repeats:
        notes.append(f"{len(stack.repeats)} slices lie at the same place as others and hold the "
                     "same values; they were left out")
    if n_padding:
        notes.append(f"{n_padding} padding voxels were set to {padding_hu:g} HU")
    if first.header.text("PhotometricInterpretation") == "MONOCHROME1":
        notes.append("low values are meant to be shown bright (MONOCHROME1); values are as stored")
    affine = stack.affine
    if stack.problem:
        notes.append(f"{stack.problem}: interpolated onto a regular grid")
        voxels, affine = regrid(voxels, stack), stack.upright_affine
    unit = "HU" if is_ct else first.header.text("Units") or "arbitrary"
    metadata = {"space": "scanner", "unit": unit, "notes": tuple(notes)}
    return Volume(torch.from_numpy(voxels), torch.from_numpy(affine), metadata,
                  acquisition_of(first))


def _voxels(
    stack: Stack, name: str, precise: bool, padding: float | None
) -> tuple[Voxels, int]:
    """The values of all slices, and how many of them are padding; each file is read once."""
    shape = (len(stack.frames), *stack.frames[0].shape)
    if shape[0] * shape[1] * shape[2] > MAX_VOXELS:
        raise DataError(f"{name}: {shape} voxels exceed the limit of {MAX_VOXELS}; "
                        "the header is damaged, or pass a part of the series")
    files = _by_file(stack.frames)
    first = stored_pixels(files[0][0])  # whether the header's sizes are true, before the memory
    voxels: Voxels = torch.empty(shape).numpy()

    def fill(header: Header, slices: Sequence[tuple[int, Frame]]) -> int:
        stored = first if header is files[0][0] else stored_pixels(header)
        n_padding = 0
        for z, frame in slices:
            fill_values(voxels[z], stored, frame, precise)
            if padding is not None:
                n_padding += fill_padding(voxels[z], stored, frame, padding)
        return n_padding

    with ThreadPoolExecutor(_THREADS) as threads:
        n_padding = sum(threads.map(fill, *zip(*files, strict=True)))
    _check_repeats(stack, name)
    return voxels, n_padding


def _by_file(frames: Sequence[Frame]) -> list[tuple[Header, list[tuple[int, Frame]]]]:
    """Slices of the same file together, each with its place in the volume."""
    groups: dict[int, tuple[Header, list[tuple[int, Frame]]]] = {}
    for z, frame in enumerate(frames):
        groups.setdefault(id(frame.header), (frame.header, []))[1].append((z, frame))
    return list(groups.values())


def _check_repeats(stack: Stack, name: str) -> None:
    """Two slices at one place must hold the same values."""
    for kept, other in stack.repeats:
        if not np.array_equal(_stored_slice(kept), _stored_slice(other)):
            place = float(kept.position @ kept.normal)
            raise DataError(
                f"{name}: two different slices lie at the same place, {place:.4g} mm along the "
                "normal, and no tag tells them apart; remove one of them"
            )


def _stored_slice(frame: Frame) -> Stored:
    return stored_pixels(frame.header)[frame.index : frame.index + 1]
