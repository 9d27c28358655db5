"""The series of an export, from their headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from medinv.data.dicom.files import File, PathOrPaths, find_files, label, quiet
from medinv.data.dicom.header import Header, items, read_header
from medinv.errors import DataError


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
    distinct: dict[str, Header] = {}
    for header in headers:
        distinct.setdefault(header.text("SOPInstanceUID") or f"file {header.file.number}", header)
    kept = tuple(distinct.values())
    n_copies = len(headers) - len(kept)
    notes = (f"{n_copies} files are copies of others and were left out",) if n_copies else ()
    first = kept[0]
    n_images = sum(len(items(header.dataset, "PerFrameFunctionalGroupsSequence"))
                   or header.count("NumberOfFrames", 1) for header in kept)
    number = first.number("SeriesNumber")
    return Series(
        None if number is None else int(number),
        first.text("SeriesDescription") or first.text("ProtocolName"), first.text("Modality"),
        n_images, first.count("Rows"), first.count("Columns"), notes, kept,
    )
