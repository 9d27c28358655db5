"""The series of an export, from their headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from medinv.data.dicom.files import File, PathOrPaths, find_files, label, quiet
from medinv.data.dicom.header import Header, items, pixels_digest, read_header
from medinv.errors import DataError

_FEWEST_SLICES = 3  # localizers, too, have series of one or two slices
_SHARED = ("FrameOfReferenceUID", "StudyInstanceUID", "Modality", "SeriesDescription", "Rows",
           "Columns")
_GRID = {"ImageOrientationPatient": 6, "PixelSpacing": 2}


@dataclass(frozen=True)
class Series:
    """Images that a scanner made in one go.

    Attributes:
        number: as the scanner counts; None where the files do not say.
        description: as the scanner's user named it.
        modality: ``CT``, ``MR``, ``PT``...
        n_images: images (frames, where a file holds several).
        rows: of the first image.
        cols: of the first image.
        notes: what was repaired or left out.
    """

    number: int | None
    description: str
    modality: str
    n_images: int
    rows: int
    cols: int
    notes: tuple[str, ...] = ()
    headers: tuple[Header, ...] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        """One line for people, without identifiers."""
        number = "without a number" if self.number is None else str(self.number)
        return (f"series {number}, {self.description or 'no description'!r}, {self.modality}, "
                f"{self.n_images} images of {self.rows} x {self.cols}")


def list_series(path: PathOrPaths) -> list[Series]:
    """The series of a folder, zip, DICOMDIR, file or list of files, ordered by their number.

    Only headers are read. Files that are not DICOM, or hold no image, are passed over.

    Raises:
        DataError: nothing there, no DICOM image, a damaged header, or an unsafe zip.

    Example:
        >>> [str(series) for series in list_series("exports/")]  # doctest: +SKIP
        ["series 4, 'T1 MPRAGE', MR, 176 images of 256 x 256"]
    """
    name = label(path)
    with quiet():
        files = find_files(path)
        headers = [header for file in files if (header := _image(file, name, len(files)))]
        groups: dict[str, list[Header]] = {}
        for header in headers:
            groups.setdefault(header.text("SeriesInstanceUID"), []).append(header)
        series = [_series(group) for group in groups.values()]
        series = _joined(series)
    if not series:
        raise DataError(f"{name}: expected DICOM images, found none in {len(files)} files; check "
                        "the path")
    return sorted(series, key=lambda item: (item.number is None, item.number or 0,
                                            item.description))


def _image(file: File, name: str, n_files: int) -> Header | None:
    """The header of a file that holds an image; None where it does not."""
    place = name if n_files == 1 else f"{name}, file {file.number} of {n_files}"
    header = read_header(file, place)
    if header is None or "Rows" not in header.dataset or "Columns" not in header.dataset:
        return None
    return header


def _series(headers: Sequence[Header]) -> Series:
    """Describe a series; a file that is there twice counts once."""
    kept = _without_copies(headers)
    first, notes = kept[0], []
    if len(headers) > len(kept):
        notes.append(f"{len(headers) - len(kept)} files are copies of others and were left out")
    if len({_uid(header) for header in kept}) < len(kept):
        notes.append("different images bear one SOPInstanceUID (an anonymiser's mistake?); they "
                     "were told apart by their places and pixels")
    n_images = sum(len(items(header.dataset, "PerFrameFunctionalGroupsSequence"))
                   or header.count("NumberOfFrames", 1) for header in kept)
    number = first.number("SeriesNumber")
    return Series(
        None if number is None else int(number),
        first.text("SeriesDescription") or first.text("ProtocolName"), first.text("Modality"),
        n_images, first.count("Rows"), first.count("Columns"), tuple(notes), kept,
    )


def _uid(header: Header) -> str:
    return header.text("SOPInstanceUID") or f"file {header.file.number}"


def _without_copies(headers: Sequence[Header]) -> tuple[Header, ...]:
    """The different images: one UID does not make a copy, the same header and pixels do."""
    kept: list[Header] = []
    alike: dict[tuple[str, ...], list[Header]] = {}
    for header in headers:
        place = (*header.words("ImagePositionPatient"), *header.words("InstanceNumber"))
        same = alike.setdefault((_uid(header), *place), [])
        if not any(_are_equal(header, other) for other in same):
            same.append(header)
            kept.append(header)
    return tuple(kept)


def _are_equal(one: Header, other: Header) -> bool:
    try:
        same = bool(one.dataset == other.dataset)
    except Exception:  # pydicom decodes a value when it is first used
        return False
    return same and pixels_digest(one) == pixels_digest(other)


def _joined(series: Sequence[Series]) -> list[Series]:
    """Series of one slice each become one, where frame of reference and grid agree.

    Some scanners (Canon) and anonymisers give every slice a SeriesInstanceUID of its own.
    """
    groups: dict[tuple[str, ...], list[Series]] = {}
    for number, item in enumerate(series):
        groups.setdefault(_stack(item) or (str(number),), []).append(item)
    joined: list[Series] = []
    for group in groups.values():
        joined += [_join(group)] if len(group) >= _FEWEST_SLICES else group
    return joined


def _stack(series: Series) -> tuple[str, ...] | None:
    """What slices of one stack have in common; None for a series that is not a single slice."""
    header = series.headers[0]
    if series.n_images != 1 or not header.text("FrameOfReferenceUID"):
        return None
    try:
        grid = [header.numbers(keyword, count) or () for keyword, count in _GRID.items()]
    except DataError:  # reading the series says what is wrong
        return None
    rounded = [f"{value:.3f}" for values in grid for value in values]
    return (*map(header.text, _SHARED), *rounded) if all(grid) else None


def _join(group: Sequence[Series]) -> Series:
    note = (f"{len(group)} series of one slice each were joined: their frame of reference, "
            "orientation and grid agree")
    notes = dict.fromkeys(text for item in group for text in item.notes)
    headers = tuple(header for item in group for header in item.headers)
    return replace(group[0], n_images=len(headers), notes=(*notes, note), headers=headers)
