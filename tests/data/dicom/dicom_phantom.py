"""Small DICOM series made by pydicom: classic, enhanced and mosaic, at any place and angle."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MARKERS = {"PatientName": "MARKERNAME^JANE", "PatientID": "MARKERID77",
           "PatientBirthDate": "19330303"}
UID_ROOT = "1.2.826.0.1.3680043.10.999."  # every UID of these files holds 10.999


@dataclass
class Grid:
    """Where slices lie in DICOM's LPS millimetres; ``spacing`` is (x, y, z)."""

    row: np.ndarray = field(default_factory=lambda: np.array([1.0, 0, 0]))
    col: np.ndarray = field(default_factory=lambda: np.array([0.0, 1, 0]))
    origin: np.ndarray = field(default_factory=lambda: np.array([-10.0, 20, 30]))
    spacing: tuple[float, float, float] = (0.7, 0.9, 2.5)

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.row, self.col)

    def position(self, z: float) -> np.ndarray:
        return self.origin + z * self.spacing[2] * self.normal

    def ras(self, x: float, y: float, z: float) -> np.ndarray:
        """RAS+ mm of a voxel, from the definition of the DICOM standard (C.7.6.2.1.1)."""
        lps = self.position(z) + x * self.spacing[0] * self.row + y * self.spacing[1] * self.col
        return lps * [-1, -1, 1]


def rotated(a: float, b: float, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Row and column directions of a grid turned about x, y and z."""
    turn = np.eye(3)
    for (i, j), angle in zip(((1, 2), (0, 2), (0, 1)), (a, b, c), strict=True):
        step = np.eye(3)
        step[i, i] = step[j, j] = math.cos(angle)
        step[i, j], step[j, i] = -math.sin(angle), math.sin(angle)
        turn = step @ turn
    return turn[:, 0], turn[:, 1]


def decimal(values) -> list[str]:
    """Numbers as DICOM writes them, in at most 16 characters."""
    return [f"{value:.9f}"[:16] for value in values]


def image(pixels: np.ndarray, **tags: object) -> Dataset:
    """A file that holds these stored numbers and no geometry."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    uid = generate_uid(UID_ROOT)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.StudyInstanceUID = UID_ROOT + "1"
    dataset.SeriesInstanceUID = UID_ROOT + "2"
    dataset.Modality = "MR"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in {**MARKERS, **tags}.items():
        setattr(dataset, name, value)
    dataset["PixelData"].VR = "OW"
    return dataset


def slices(voxels: np.ndarray, grid: Grid | None = None, **tags: object) -> list[Dataset]:
    """A classic series, one file per slice; a tag may be a function of the slice's index."""
    grid = grid or Grid()
    series = []
    for z, pixels in enumerate(voxels):
        own = {name: tag(z) if callable(tag) else tag for name, tag in tags.items()}
        series.append(image(pixels, **{
            "ImagePositionPatient": decimal(grid.position(z)),
            "ImageOrientationPatient": decimal([*grid.row, *grid.col]),
            "PixelSpacing": decimal([grid.spacing[1], grid.spacing[0]]),
            "InstanceNumber": len(voxels) - z, "SliceThickness": "9", **own,
        }))
    return series


def enhanced(voxels: np.ndarray, grid: Grid, n_echoes: int = 1) -> Dataset:
    """A multi-frame file; the frames of several echoes follow each other at each place."""
    dataset = image(voxels, NumberOfFrames=len(voxels), SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1")
    shared = Dataset()
    shared.PlaneOrientationSequence = item(
        ImageOrientationPatient=decimal([*grid.row, *grid.col]))
    shared.PixelMeasuresSequence = item(
        PixelSpacing=decimal([grid.spacing[1], grid.spacing[0]]), SliceThickness="9")
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for k in range(len(voxels)):
        frame = Dataset()
        place = decimal(grid.position(k // n_echoes))
        frame.PlanePositionSequence = item(ImagePositionPatient=place)
        frame.MREchoSequence = item(EffectiveEchoTime=10.0 * (1 + k % n_echoes))
        frame.PixelValueTransformationSequence = item(
            RescaleSlope="2", RescaleIntercept=str(k), RescaleType="US")
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return dataset


def item(**tags: object) -> Sequence:
    """A sequence of one item."""
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return Sequence([dataset])


def mosaic(voxels: np.ndarray, grid: Grid, **tags: object) -> Dataset:
    """Slices tiled into one image, as Siemens stores time series."""
    n_slices, rows, cols = voxels.shape
    n_side = math.ceil(math.sqrt(n_slices))
    tiles = np.zeros((n_side * rows, n_side * cols), voxels.dtype)
    for k, pixels in enumerate(voxels):
        y, x = k // n_side * rows, k % n_side * cols
        tiles[y : y + rows, x : x + cols] = pixels
    margin = (n_side - 1) / 2  # the header places the corner of the whole mosaic
    corner = grid.origin - margin * (
        cols * grid.spacing[0] * grid.row + rows * grid.spacing[1] * grid.col)
    dataset = slices(tiles[None], Grid(grid.row, grid.col, corner, grid.spacing), **{
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"], "Manufacturer": "SIEMENS",
        "SpacingBetweenSlices": decimal([grid.spacing[2]])[0], **tags})[0]
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", csa_header({
        "NumberOfImagesInMosaic": ("US", [str(n_slices)]),
        "SliceNormalVector": ("FD", decimal(grid.normal))}))
    return dataset


def csa_header(tags: dict[str, tuple[str, list[str]]]) -> bytes:
    """Siemens' private header, version SV10."""
    content = b"SV10\4\3\2\1" + struct.pack("<2I", len(tags), 77)
    for name, (vr, values) in tags.items():
        content += struct.pack("<64si4s3i", name.encode(), len(values), vr.encode(), 0,
                               len(values), 77)
        for value in values:
            raw = value.encode() + b"\0"
            content += struct.pack("<4i", len(raw), len(raw), 77, len(raw))
            content += raw + b"\0" * (-len(raw) % 4)
    return content


def save(folder: Path, datasets: list[Dataset], prefix: str = "image") -> Path:
    """Write the files under names that say nothing of their order."""
    folder.mkdir(exist_ok=True, parents=True)
    for number, dataset in enumerate(datasets):
        name = f"{prefix}{(number * 7) % 1009:04d}.dcm"
        dataset.save_as(folder / name, enforce_file_format=True)
    return folder
