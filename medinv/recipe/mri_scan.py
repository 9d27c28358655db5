"""Raw MRI from a file, before the reconstruction: no oversampling, white noise, fewer coils."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from medinv.data import (
    FastMRIFile,
    KSpace,
    NonCartesianKSpace,
    load_manifest,
    read_maps,
    read_scan,
)
from medinv.data.mri.fastmri import REFERENCES
from medinv.data.mri.ismrmrd import is_ismrmrd
from medinv.data.mri.kspace import centre
from medinv.data.readers import HDF5
from medinv.errors import DataError, MedinvWarning
from medinv.operators.coil_data import CoilTransform, prewhitening_matrix, svd_compression
from medinv.recipe.blocks import Caipirinha, Columns, KSpaceSource, MRIFile, PoissonDisc
from medinv.recipe.measurement import check_slices
from medinv.recipe.mri_noise import corner_noise
from medinv.recipe.mri_sampling import draw_mask


@dataclass(frozen=True, eq=False)
class Scan:
    """k-space and what came with it.

    Attributes:
        kspace: the samples.
        maps: coil maps, (slice or 1, coil, *grid), where they were given.
        reference: the centre of the image by the file itself, (slice, y, x), where it holds one.
    """

    kspace: KSpace | NonCartesianKSpace
    maps: Tensor | None
    reference: Tensor | None = None


def read_prepared(recipe: MRIFile, path: Path | KSpace | NonCartesianKSpace | None,
                  seed: int = 0) -> Scan:
    """Read a scan and do to k-space and maps what the recipe says.

    Args:
        recipe: the measurement block.
        path: a file or k-space to use instead of the recipe's.
        seed: of a mask.

    Raises:
        DataError: no such file, array or slices, or it lacks what an option needs.
        InputError: noise that cannot be whitened, a mask that cannot be met, or more virtual coils
            than coils.
        ShapeError: maps of another size.
    """
    if isinstance(path, KSpace | NonCartesianKSpace):
        scan = _given(recipe, path)
    else:
        scan = _read(recipe, path)
    if recipe.remove_oversampling:
        scan = _cropped(scan)
    if recipe.mask is not None:
        scan = replace(scan, kspace=undersampled(scan.kspace, recipe.mask, seed))
    if recipe.prewhiten == "corners":
        scan = _whitened(scan, corner_noise(scan.kspace))
    elif recipe.prewhiten == "auto" and scan.kspace.noise is not None:
        scan = _whitened(scan, scan.kspace.noise)
    if recipe.compress_coils is not None:
        samples = scan.kspace.data.flatten(2).unsqueeze(-1)
        scan = _mixed(scan, svd_compression(samples, recipe.compress_coils))
    return scan


def undersampled(kspace: KSpace | NonCartesianKSpace, recipe: Columns | PoissonDisc | Caipirinha,
                 seed: int) -> KSpace:
    """What the mask leaves of the measured samples; readouts are kept whole where lines are drawn.

    Columns are lines along the readout; of a 3D scan the mask lies in the plane of the two phase
    encodings.

    Raises:
        DataError: samples on a trajectory.
        InputError: an acceleration that cannot be met.
    """
    if not isinstance(kspace, KSpace):
        raise DataError("measurement.mask: expected samples on a grid, found a trajectory; leave "
                        "`mask` out")
    axis, grid = kspace.readout_axis, kspace.grid
    rng = Generator().manual_seed(seed)
    if len(grid) == 3:
        plane = [n for i, n in enumerate(grid, -3) if i != axis]
        mask = draw_mask(recipe, (plane[0], plane[1]), rng).mask.unsqueeze(axis)
    elif isinstance(recipe, Columns) and axis == -1:
        mask = draw_mask(recipe, (grid[1], grid[0]), rng).mask.T
    else:
        mask = draw_mask(recipe, (grid[0], grid[1]), rng).mask
    kept = kspace.mask & mask
    data = torch.where(kept.unsqueeze(-len(grid) - 1), kspace.data, 0)
    return replace(kspace, data=data, mask=kept)


def _read(recipe: MRIFile, path: Path | None) -> Scan:
    source = recipe.kspace
    file, key = _locate(source, path)
    wanted = None if recipe.slices is None else slice(*recipe.slices)
    with warnings.catch_warnings():  # repairs are told with the other notes
        warnings.simplefilter("ignore", MedinvWarning)
        kspace = read_scan(file, key, slices=wanted, axes=source.axes, select=source.select,
                           reversed_readouts=source.reversed_readouts,
                           trajectory=source.trajectory)
    if recipe.slices is not None and not is_volume(kspace):
        check_slices(recipe.slices, recipe.slices[0] + len(kspace.data))
    if is_volume(kspace) and len(kspace.data) > 1:
        raise DataError(f"measurement: the 3D scan has {len(kspace.data)} slabs; choose one, as "
                        "in kspace.select: {slice: 0}")
    maps = None
    if recipe.maps is not None:
        maps = read_maps(recipe.maps, kspace)
        maps = maps.reshape(-1, *maps.shape[-1 - len(kspace.grid):])
    return Scan(kspace, maps, _reference(file, wanted))


def _reference(file: Path, slices: slice | None) -> Tensor | None:
    """What a fastMRI-layout file holds beside k-space: root sum of squares, or one coil."""
    if file.suffix.lower() not in HDF5 or is_ismrmrd(file):
        return None
    with FastMRIFile(file) as scan:
        held = any(name in scan.names for name in REFERENCES)
        return scan.reference(slices).data if held else None


def _given(recipe: MRIFile, kspace: KSpace | NonCartesianKSpace) -> Scan:
    """k-space that is in memory already."""
    if recipe.slices is not None and not is_volume(kspace):
        check_slices(recipe.slices, len(kspace.data))
        kspace = kspace.part(slice(*recipe.slices))
    maps = None
    if recipe.maps is not None:
        maps = read_maps(recipe.maps, kspace)
        maps = maps.reshape(-1, *maps.shape[-1 - len(kspace.grid):])
    return Scan(kspace, maps)


def is_volume(kspace: KSpace | NonCartesianKSpace) -> bool:
    """Whether one Fourier transform acts on three axes."""
    return len(kspace.grid) == 3


def _mixed(scan: Scan, transform: CoilTransform) -> Scan:
    """The same combinations of the coils in k-space and maps."""
    def mix(x: Tensor) -> Tensor:
        flat = transform.kspace(x.flatten(2).unsqueeze(-1))
        return flat.reshape(len(x), -1, *x.shape[2:])

    kspace = replace(scan.kspace, data=mix(scan.kspace.data), noise=None)
    return replace(scan, kspace=kspace, maps=None if scan.maps is None else mix(scan.maps))


def _whitened(scan: Scan, noise: Tensor) -> Scan:
    """Coils with white noise; their images are of another scale than the file's reference."""
    mixed = _mixed(scan, CoilTransform(prewhitening_matrix(noise)))
    return replace(mixed, reference=None)


def _cropped(scan: Scan) -> Scan:
    """Without the readout's oversampling; a trajectory's image has the wanted field anyway."""
    if not isinstance(scan.kspace, KSpace):
        return scan
    axis = scan.kspace.readout_axis
    kspace = scan.kspace.crop_readout()
    maps = None if scan.maps is None else centre(scan.maps, axis, kspace.data.shape[axis])
    return replace(scan, kspace=kspace, maps=maps)


def _locate(source: KSpaceSource, path: Path | None) -> tuple[Path, str | None]:
    if path is not None:
        return path, source.key
    if source.path is not None:
        return Path(source.path), source.key
    manifest = load_manifest(source.manifest or "")
    if source.file not in manifest.files:
        raise DataError(
            f"{manifest.name}: no file {source.file!r}; it has {', '.join(sorted(manifest.files))}"
        )
    return manifest.fetch()[source.file], source.key or manifest.files[source.file].key
