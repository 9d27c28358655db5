"""From a `Source` of a recipe to stacks of slices in prior units, on the disk.

Each volume becomes one `SliceStack` for each plane: decoded, put into prior units, cut to its
split and pooled once, whatever the number of runs and workers.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medinv.data import Volume as Volume3D
from medinv.data import read_volume
from medinv.data.geometry import to_ras
from medinv.data.sets.manifests import Geometry, Manifest, Split, SubjectSplit, load_manifest
from medinv.data.sets.slices import PLANES, Plane, SliceStack
from medinv.data.sets.subjects import place, subject_files
from medinv.errors import DataError, MedinvWarning
from medinv.training.config import Images, Source

Part = Literal["train", "validation"]


@dataclass(frozen=True)
class Place:
    """Where a slice lies, as far as it is known.

    Attributes:
        plane: of the slice.
        position: along the plane's normal, from 0 (feet, back, left) to 1 (head, front, right).
    """

    plane: Plane | None = None
    position: float | None = None


@dataclass(frozen=True)
class PlacedSlices:
    """The slices of a volume in one plane, and where they lie in the patient.

    Attributes:
        stack: the slices.
        plane: their plane; None where it is not known.
        span: positions at which the first slice begins and the last ends; falling where slices
            run the other way.
        voxel_mm: from row to row, column to column and slice to slice; None where not known.
    """

    stack: SliceStack
    plane: Plane | None
    span: tuple[float, float]
    voxel_mm: tuple[float, float, float] | None = None

    @property
    def spacing_mm(self) -> tuple[float, float] | None:
        """From pixel to pixel (the geometric mean of both axes) and from slice to slice."""
        if self.voxel_mm is None:
            return None
        return math.sqrt(self.voxel_mm[0] * self.voxel_mm[1]), self.voxel_mm[2]

    def place(self, index: int) -> Place:
        """The place of a slice's centre."""
        if self.plane is None:
            return Place()
        low, high = self.span
        return Place(self.plane, low + (high - low) * (index + 0.5) / len(self.stack))


Volume = tuple[PlacedSlices, ...]  # one for each plane


def read_array(path: Path, key: str | None) -> Tensor:
    """The array of a NIfTI or .npz file, in the file's axis order, float32."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            if key not in archive:
                raise DataError(f"{path.name}: no array {key!r}; it holds {sorted(archive)}")
            return torch.from_numpy(archive[key].astype(np.float32))
    import nibabel

    image: Any = nibabel.load(path)  # typed by nibabel as an image without data
    return torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32))


def _upright(path: Path) -> Volume3D:
    """A volume turned to RAS+; repairs, such as padding that became air, are no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedinvWarning)
        return to_ras(read_volume(path))


@dataclass(frozen=True)
class TrainingSlices:
    """Slices of a volume in prior units (n, y, x); see `SliceStack` for why it is frozen.

    Attributes:
        kind: CT is in attenuations of water, MR in units of a high percentile of the volume.
        percentile: that percentile.
        plane: the slices' plane, or the array axis perpendicular to them.
        pool: averaging factor of each axis.
        key: name of the array, for files that hold several.
        split: (axis, start, stop) that the volume is cut to.
        every: keeps every n-th slice.
    """

    kind: Literal["complex-mr", "ct"]
    percentile: float
    plane: int | Plane
    pool: tuple[int, int, int] = (1, 1, 1)
    key: str | None = None
    split: tuple[int, int, int] | None = None
    every: int = 1

    def __call__(self, path: Path) -> Tensor:
        """Decode ``path``."""
        if isinstance(self.plane, int):
            volume, axis = read_array(path, self.key), self.plane
        elif self.split is not None or self.key is not None:
            raise DataError(
                f"{path.name}: the plane {self.plane!r} needs a file that knows its place, "
                "without a split of its slices; name the array axis instead"
            )
        else:
            volume, axis = _upright(path).data, PLANES.index(self.plane)
        volume = self._units(volume)
        if self.split is not None:
            along, start, stop = self.split
            volume = volume.narrow(along, start, stop - start)
        if self.pool != (1, 1, 1):
            volume = F.avg_pool3d(volume[None, None], self.pool)[0, 0]
        slices = volume.movedim(axis, 0)[:: self.every]
        return slices.transpose(1, 2) if isinstance(self.plane, int) else slices  # rows first

    def _units(self, volume: Tensor) -> Tensor:
        if self.kind == "ct":
            return (1 + volume / 1000).clamp_(min=0, max=4)
        scale = float(np.quantile(volume.numpy(), self.percentile / 100))
        if not scale > 0:
            raise DataError(f"expected an MR volume with positive intensities, got {scale:.4g} as "
                            f"percentile {self.percentile:g}; CT needs images.kind: ct")
        return volume.clamp(min=0) / scale


def source_volumes(source: Source, images: Images, part: Part) -> list[Volume]:
    """The volumes of a source's training or validation part; none where it has no such part.

    Raises:
        DataError: no such role, no volumes in the folder, or a broken manifest.
        DownloadError: a file could not be fetched.
    """
    if source.phantom is not None:
        return []
    if source.manifest is None:
        files = _folder_files(source, part)
        return [_stacks(file, source, images, source.planes) for file in files]
    manifest = load_manifest(source.manifest)
    if source.file in manifest.collections:
        files = _collection_files(manifest, source, part)
        return [_stacks(file, source, images, source.planes) for file in files]
    return _volume_of_manifest(manifest, source, images, part)


def _volume_of_manifest(manifest: Manifest, source: Source, images: Images, part: Part
                        ) -> list[Volume]:
    if part not in (manifest.splits or ("train",)):
        return []
    path = manifest.fetch(source.folder, only=[source.file])[source.file]
    key, split, planes = manifest.files[source.file].key, manifest.splits.get(part), source.planes
    if not isinstance(split, Split):
        return [_stacks(path, source, images, planes, key, geometry=manifest.geometry)]
    axis = "ijk".index(split.axis)
    if part == "validation":  # too thin for whole images in the other planes
        planes = (axis,)
    return [_stacks(path, source, images, planes, key, (axis, split.start, split.stop),
                    manifest.geometry)]


def _stacks(path: Path, source: Source, images: Images, planes: tuple[int | Plane, ...],
            key: str | None = None, split: tuple[int, int, int] | None = None,
            geometry: Geometry | None = None) -> Volume:
    return tuple(
        PlacedSlices(
            SliceStack(path, TrainingSlices(images.kind, images.percentile, plane, source.pool,
                                            key, split, source.every)),
            *_place(plane, split, geometry), _voxel(path, plane, source.pool, geometry))
        for plane in planes
    )


def _voxel(path: Path, plane: int | Plane, pool: tuple[int, int, int],
           geometry: Geometry | None) -> tuple[float, float, float] | None:
    """Millimetres from row to row, column to column and slice to slice, after pooling."""
    named = not isinstance(plane, int)
    sides = _spacing(path, ras=named)
    if sides is None and not named and geometry is not None and geometry.spacing_mm is not None:
        sides = [mm for mm in geometry.spacing_mm if mm is not None]
    if sides is None or len(sides) != 3:
        return None
    pooled = [mm * factor for mm, factor in zip(sides, pool, strict=True)]
    across = plane if isinstance(plane, int) else PLANES.index(plane)
    thickness = pooled.pop(across)
    return pooled[0], pooled[1], thickness


def _spacing(path: Path, *, ras: bool) -> list[float] | None:
    """Spacing along the array's axes of a NIfTI file, or along z, y, x of the patient."""
    if not path.name.endswith((".nii", ".nii.gz")):
        return list(_upright(path).spacing_mm)[::-1] if ras else None
    import nibabel

    image: Any = nibabel.load(path)  # typed by nibabel as an image without a header
    sides = [float(mm) for mm in np.linalg.norm(image.affine[:3, :3], axis=0)]
    if not ras:
        return sides
    order = nibabel.io_orientation(image.affine)[:, 0]  # of each array axis: x, y or z
    along = {int(axis): mm for axis, mm in zip(order, sides, strict=True)}
    return [along[2], along[1], along[0]]


def _place(plane: int | Plane, split: tuple[int, int, int] | None, geometry: Geometry | None
           ) -> tuple[Plane | None, tuple[float, float]]:
    """Anatomical plane and span of slices; an array axis is known through its orientation."""
    if not isinstance(plane, int):
        return plane, (0.0, 1.0)  # the volume was turned to RAS+
    if geometry is None or geometry.orientation is None:
        return None, (0.0, 1.0)
    letter, size = geometry.orientation[plane], geometry.shape[plane]
    ends = (0.0, 1.0)
    if split is not None and split[0] == plane and size is not None:
        ends = (split[1] / size, split[2] / size)
    normal = next(p for p, letters in zip(PLANES, ("IS", "PA", "LR"), strict=True)
                  if letter in letters)
    return normal, ends if letter in "RAS" else (1 - ends[0], 1 - ends[1])


def _collection_files(manifest: Manifest, source: Source, part: Part) -> list[Path]:
    if not isinstance(manifest.splits.get(part), SubjectSplit):
        return []
    root = manifest.fetch(source.folder, only=[source.file])[source.file]
    wanted = set(root.glob(manifest.collections[source.file].pattern))
    groups = subject_files(manifest, part, root)
    return [path for files in groups.values() for path in files if path in wanted]


def _folder_files(source: Source, part: Part) -> list[Path]:
    """The NIfTI files of a folder whose names fall into the part; files never change sides."""
    folder = Path(source.folder or "")
    files = sorted(path for pattern in ("*.nii", "*.nii.gz") for path in folder.glob(pattern))
    if not files:
        raise DataError(f"{folder}: expected a folder of .nii or .nii.gz files, found none")
    kept = [place(path.name.split(".nii")[0]) < source.validation_share for path in files]
    return [path for path, held_out in zip(files, kept, strict=True)
            if held_out == (part == "validation")]
