"""Multi-coil MRI: measured k-space from a file, or simulated from a real magnitude volume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from medinv.data import KSpace, load_manifest, read_kspace, read_maps, to_ras
from medinv.errors import DataError
from medinv.operators import sampling
from medinv.operators.coils import espirit
from medinv.operators.mri import CartesianMRI
from medinv.recipe.measurement import Measured, add_noise, check_slices, load_source, select
from medinv.recipe.schema import KSpaceSource, MRIFile, MRISimulated, PoissonDisc, Sampling

_ASSUMED = (
    "raw k-space does not say how the patient lay: axial slices, centred, are assumed, and left "
    "and right may be swapped",
)
_NO_VOXEL = "the file holds no voxel size: 1 mm is assumed, so distances are not to scale"


def measure_file(recipe: MRIFile, path: Path | None) -> Measured:
    """Read k-space; the mask comes from the file, the maps from ESPIRiT or a file.

    Args:
        recipe: the measurement block.
        path: a file to use instead of the recipe's k-space.

    Raises:
        DataError: no such file or array, samples that are not finite, or only zeros.
        ShapeError: a mask or maps of another size.
    """
    file, key = _locate(recipe.kspace, path)
    wanted = None if recipe.slices is None else slice(*recipe.slices)
    kspace = read_kspace(file, key, slices=wanted)
    if recipe.slices is not None:
        check_slices(recipe.slices, recipe.slices[0] + len(kspace.data))
    if kspace.data.ndim == 5:
        raise DataError("measurement: recipes reconstruct slices, found a 3D scan; use "
                        "medinv.operators.CartesianMRI with ndim=3")
    maps = None if recipe.maps is None else read_maps(recipe.maps, kspace)
    y = torch.where(kspace.mask.unsqueeze(-3), kspace.data, 0)
    estimated = maps is None
    if maps is None:
        maps = espirit(y, calibration_width=recipe.calibration_width)
    n_slices, n_coils, *grid = y.shape
    A = CartesianMRI(maps.expand(y.shape), kspace.mask)
    return Measured(
        y=y, A=A, noise_std=estimate_noise(y, kspace.mask), unit="arbitrary", reference=None,
        to_volume=kspace.volume,
        origin=(
            f"measured k-space: {n_slices} slice(s), {n_coils} coils, "
            f"{grid[0]} x {grid[1]}, {kspace.acceleration:.3g}x undersampled"
        ),
        notes=_place_notes(kspace),
        facts={
            "simulated": False, "shape": [n_slices, *grid], "coils": n_coils,
            "acceleration": kspace.acceleration, "maps": "ESPIRiT" if estimated else recipe.maps,
        },
    )


def _place_notes(kspace: KSpace) -> tuple[str, ...]:
    """What people should know of the image's place and scale."""
    if kspace.affine is not None:
        return ()
    return _ASSUMED if kspace.voxel_mm else (*_ASSUMED, _NO_VOXEL)


def measure_simulated(recipe: MRISimulated, path: Path | None, seed: int) -> Measured:
    """Simulate axial k-space of a magnitude volume.

    Args:
        recipe: the measurement block.
        path: a NIfTI file to use instead of the recipe's volume.
        seed: of mask, phase and noise.

    Raises:
        DataError: no volume, or an empty one.
    """
    rng = Generator().manual_seed(seed)
    source = load_source(recipe.volume, path)
    volume = select(to_ras(source.volume), recipe.slices, recipe.pool)
    magnitude = volume.data.abs().float()
    peak = float(magnitude.max())
    if not peak > 0:
        raise DataError(f"{source.title}: expected an image, found only zeros; check the file")
    x = torch.polar(magnitude, recipe.phase * smooth_field(magnitude.shape, rng))
    mask = draw_mask(recipe.sampling, (x.shape[1], x.shape[2]), rng)
    A = CartesianMRI(birdcage(recipe.coils, (x.shape[1], x.shape[2])), mask.mask)
    noise_std = recipe.noise * peak
    y = torch.where(mask.mask, add_noise(A(x), noise_std, rng), 0)
    return Measured(
        y=y, A=A, noise_std=noise_std, unit="arbitrary", reference=x,
        to_volume=volume.with_data,
        origin=(
            f"k-space simulated from {source.title}: smooth phase, {recipe.coils} birdcage coils, "
            f"{recipe.sampling.kind} mask with {mask.acceleration:.3g}x, noise "
            f"{100 * recipe.noise:g} % of the largest voxel"
        ),
        notes=source.notes,
        facts={
            "simulated": True, "shape": list(x.shape), "coils": recipe.coils,
            "acceleration": mask.acceleration, "noise_std": noise_std,
            "spacing_mm": [round(mm, 5) for mm in volume.spacing_mm],
        },
    )


def birdcage(n_coils: int, shape: tuple[int, int]) -> Tensor:
    """Coil maps (coil, y, x) of a simulated birdcage, ``sum |S|^2 = 1``, by sigpy."""
    from sigpy.mri import birdcage_maps

    maps: np.ndarray[tuple[int, ...], np.dtype[np.complex64]]
    maps = birdcage_maps((n_coils, *shape)).astype(np.complex64)
    return torch.from_numpy(maps)


def draw_mask(recipe: Sampling, shape: tuple[int, int], rng: Generator) -> sampling.Mask:
    """The mask (ky, kx) that the recipe describes."""
    if isinstance(recipe, PoissonDisc):
        return sampling.poisson_disc(
            shape, recipe.acceleration, calibration_width=recipe.calibration_width, rng=rng
        )
    columns = {
        "random1d": sampling.random1d,
        "equispaced": sampling.equispaced,
        "uniform1d": sampling.uniform1d,
        "uniform1d-with-replacement": sampling.uniform1d_with_replacement,
    }[recipe.kind]
    return columns(shape, recipe.acceleration, center_fraction=recipe.center_fraction, rng=rng)


def smooth_field(shape: torch.Size, rng: Generator) -> Tensor:
    """A random field (z, y, x) of unit variance at its 4 x 4 x 4 knots, linear between them."""
    knots = torch.randn(1, 1, 4, 4, 4, generator=rng)
    return F.interpolate(knots, tuple(shape), mode="trilinear", align_corners=True)[0, 0]


def estimate_noise(y: Tensor, mask: Tensor) -> float:
    """Std of each real component of the noise, from the outermost tenth of the samples.

    The median of the magnitudes there, over that of unit noise (a Rayleigh distribution's). What
    signal the corners of k-space hold makes the estimate too high rather than too low.

    Args:
        y: (slice, coil, ky, kx).
        mask: (ky, kx) or (slice, ky, kx).
    """
    n_rows, n_columns = y.shape[-2:]
    ky = (torch.arange(n_rows) - n_rows // 2) / n_rows
    kx = (torch.arange(n_columns) - n_columns // 2) / n_columns
    radius = torch.hypot(ky[:, None], kx).expand(mask.shape)
    measured = radius[mask]
    limit = measured.kthvalue(max(1, round(0.9 * measured.numel()))).values
    outer = (mask & (radius >= limit)).unsqueeze(-3).expand(y.shape)
    return float(y[outer].abs().median()) / float(np.sqrt(2 * np.log(2)))


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

