"""Volumes of the named data sets, with their geometry and only the wanted split."""

from __future__ import annotations

from pathlib import Path

import torch

from medinv.arguments import checked
from medinv.data.geometry import crop, orientation_affine
from medinv.data.mri.arrays import read_array
from medinv.data.nifti import read_nifti
from medinv.data.sets.manifests import Manifest, load_manifest
from medinv.data.volume import Volume
from medinv.errors import DataError


@checked
def load_volume(
    name: str, role: str = "image", *, split: str | None = None,
    root: str | Path | None = None, progress: bool = False,
) -> Volume:
    """A volume of the data set ``name``, fetched if it is not here yet.

    Args:
        name: a packaged manifest's name, or the path of one.
        role: which of its files (``image``, ``labels``...).
        split: ``train``, ``test``...; the whole volume if not given.
        root: a folder that already holds the files.
        progress: show a spinner while downloading.

    Raises:
        DataError: no such data set, file, or split, or the file is not what it should be.
        DownloadError: the file could not be fetched.
    """
    manifest = load_manifest(name)
    if role not in manifest.files:
        raise DataError(f"{name}: no file {role!r}; it has {', '.join(sorted(manifest.files))}")
    part = manifest.volume_split(split).index() if split is not None else None
    path = manifest.fetch(root, progress=progress)[role]
    if path.name.endswith((".nii", ".nii.gz")):
        volume = read_nifti(path)
    else:
        volume = _from_array(manifest, role, path)
    return crop(volume, part) if part is not None else volume


def _from_array(manifest: Manifest, role: str, path: Path) -> Volume:
    """A file without an affine: its axes are (i, j, k) and the manifest knows where they point."""
    geometry = manifest.geometry
    spacing = tuple(size for size in geometry.spacing_mm or () if size is not None)
    shape = tuple(size for size in geometry.shape if size is not None)
    data = read_array(path, manifest.files[role].key)
    if geometry.orientation is None or len(shape) != 3 or len(spacing) != 3:
        raise DataError(f"{manifest.name}: {role} is not a volume with a known geometry")
    if tuple(data.shape) != shape:
        raise DataError(f"{path}: expected {shape}, found {tuple(data.shape)}; fetch it again")
    affine = orientation_affine(
        geometry.orientation, (spacing[0], spacing[1], spacing[2]), (shape[0], shape[1], shape[2])
    )
    return Volume(data.to(torch.float32).permute(2, 1, 0).contiguous(), affine)
