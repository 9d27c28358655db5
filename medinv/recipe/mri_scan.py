"""Raw MRI from a file, before the reconstruction: white noise, fewer coils, no oversampling."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from medinv.data import KSpace, NonCartesianKSpace, load_manifest, read_maps, read_scan
from medinv.data.mri.kspace import centre
from medinv.errors import DataError, MedinvWarning
from medinv.operators.coil_data import CoilTransform, prewhitening_matrix, svd_compression
from medinv.recipe.blocks import KSpaceSource, MRIFile
from medinv.recipe.measurement import check_slices
from medinv.recipe.mri_noise import corner_noise


@dataclass(frozen=True, eq=False)
class Scan:
    """k-space and the coil maps that were given with it, (slice or 1, coil, *grid)."""

    kspace: KSpace | NonCartesianKSpace
    maps: Tensor | None


def read_prepared(recipe: MRIFile, path: Path | None) -> Scan:
    """Read a scan and do to k-space and maps what the recipe says.

    Args:
        recipe: the measurement block.
        path: a file to use instead of the recipe's k-space.

    Raises:
        DataError: no such file, array or slices, or it lacks what an option needs.
        InputError: noise that cannot be whitened, or more virtual coils than coils.
        ShapeError: maps of another size.
    """
    scan = _read(recipe, path)
    if recipe.prewhiten == "corners":
        scan = _mixed(scan, CoilTransform(prewhitening_matrix(corner_noise(scan.kspace))))
    elif recipe.prewhiten == "auto" and scan.kspace.noise is not None:
        scan = _mixed(scan, CoilTransform(prewhitening_matrix(scan.kspace.noise)))
    if recipe.remove_oversampling:
        scan = _cropped(scan)
    if recipe.compress_coils is not None:
        samples = scan.kspace.data.flatten(2).unsqueeze(-1)
        scan = _mixed(scan, svd_compression(samples, recipe.compress_coils))
    return scan


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
    return Scan(kspace, None if scan.maps is None else mix(scan.maps))


def _cropped(scan: Scan) -> Scan:
    """Without the readout's oversampling; a trajectory's image has the wanted field anyway."""
    if not isinstance(scan.kspace, KSpace):
        return scan
    axis = scan.kspace.readout_axis
    kspace = scan.kspace.crop_readout()
    maps = None if scan.maps is None else centre(scan.maps, axis, kspace.data.shape[axis])
    return Scan(kspace, maps)


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
