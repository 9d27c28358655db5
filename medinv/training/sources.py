"""From a `Source` of a recipe to stacks of slices in prior units, on the disk.

Each volume becomes one `SliceStack` for each plane: decoded, put into prior units, cut to its
split and pooled once, whatever the number of runs and workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medinv.data.geometry import to_ras
from medinv.data.manifests import Manifest, Split, SubjectSplit, load_manifest
from medinv.data.nifti import read_nifti
from medinv.data.slices import PLANES, Plane, SliceStack
from medinv.data.subjects import place, subject_files
from medinv.errors import DataError
from medinv.training.config import Images, Source

Part = Literal["train", "validation"]
Volume = tuple[SliceStack, ...]  # one stack for each plane


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
    """

    kind: Literal["complex-mr", "ct"]
    percentile: float
    plane: int | Plane
    pool: tuple[int, int, int] = (1, 1, 1)
    key: str | None = None
    split: tuple[int, int, int] | None = None

    def __call__(self, path: Path) -> Tensor:
        """Decode ``path``."""
        if isinstance(self.plane, int):
            volume, axis = read_array(path, self.key), self.plane
        elif self.split is not None or self.key is not None:
            raise DataError(
                f"{path.name}: the plane {self.plane!r} needs a NIfTI file without a split of its "
                "slices; name the array axis instead"
            )
        else:
            volume, axis = to_ras(read_nifti(path)).data, PLANES.index(self.plane)
        volume = self._units(volume)
        if self.split is not None:
            along, start, stop = self.split
            volume = volume.narrow(along, start, stop - start)
        if self.pool != (1, 1, 1):
            volume = F.avg_pool3d(volume[None, None], self.pool)[0, 0]
        slices = volume.movedim(axis, 0)
        return slices.transpose(1, 2) if isinstance(self.plane, int) else slices  # rows first

    def _units(self, volume: Tensor) -> Tensor:
        if self.kind == "ct":
            return (1 + volume / 1000).clamp_(min=0, max=4)
        return volume / float(np.quantile(volume.numpy(), self.percentile / 100))


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
        return [_stacks(path, source, images, planes, key)]
    axis = "ijk".index(split.axis)
    if part == "validation":  # too thin for whole images in the other planes
        planes = (axis,)
    return [_stacks(path, source, images, planes, key, (axis, split.start, split.stop))]


def _stacks(path: Path, source: Source, images: Images, planes: tuple[int | Plane, ...],
            key: str | None = None, split: tuple[int, int, int] | None = None) -> Volume:
    return tuple(
        SliceStack(path, TrainingSlices(images.kind, images.percentile, plane, source.pool, key,
                                        split))
        for plane in planes
    )


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
