"""Multi-coil MRI: measured k-space from a file, or simulated from a real magnitude volume."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from medinv.data import KSpace, NonCartesianKSpace, Volume, to_ras
from medinv.errors import DataError
from medinv.operators.base import LinearOperator
from medinv.operators.mri import CartesianMRI
from medinv.operators.noncartesian import NonCartesianMRI
from medinv.recipe.blocks import MRIFile, MRISimulated, Spiral, Spokes
from medinv.recipe.measurement import Measured, add_noise, central, load_source, select
from medinv.recipe.mri_problem import density, make_problem, rms
from medinv.recipe.mri_sampling import draw_mask, draw_trajectory
from medinv.recipe.mri_scan import read_prepared

_ASSUMED = (
    "raw k-space does not say how the patient lay: axial slices, centred, are assumed, and left "
    "and right may be swapped",
)
_METHODS = {"espirit": "ESPIRiT", "walsh": "Walsh", "low-resolution": "low resolution",
            "jsense": "JSENSE"}
_REFERENCE = "the reference is the file's own image of all its samples, by magnitude"
_NO_VOXEL = "the file holds no voxel size: 1 mm is assumed, so distances are not to scale"


def measure_file(recipe: MRIFile, path: Path | KSpace | NonCartesianKSpace | None,
                 seed: int = 0) -> Measured:
    """Read k-space; masks and trajectories come from the file, maps from there or estimated.

    Args:
        recipe: the measurement block.
        path: a file to use instead of the recipe's k-space.
        seed: of a mask.

    Raises:
        DataError: no such file or array, samples that are not finite, or only zeros.
        InputError: what an option needs is missing, or the maps cannot be estimated.
        ShapeError: a mask or maps of another size.
    """
    scan = read_prepared(recipe, path, seed)
    kspace = scan.kspace
    problem = make_problem(scan, recipe)
    batch = problem.y.shape[:problem.A.codomain.batch_ndim(problem.y)]
    shape = (*batch, *problem.A.domain.shape)
    reference = None if scan.reference is None else central(scan.reference, shape)
    how = _METHODS[recipe.estimate_maps.method]
    sampling_name = "" if problem.kind == "Cartesian" else f" ({problem.kind})"
    *outer, rows, columns = shape
    return Measured(
        y=problem.y, A=problem.A, noise_std=problem.noise_std, unit="arbitrary",
        reference=reference, to_volume=problem.to_volume,
        origin=(
            f"measured k-space{sampling_name}: {prod(outer)} slice(s), {kspace.n_coils} coils, "
            f"{rows} x {columns}, {kspace.acceleration:.3g}x undersampled"
            + (f" in retrospect ({recipe.mask.kind})" if recipe.mask else "")
        ),
        notes=(*_place_notes(kspace), *((_REFERENCE,) if reference is not None else ())),
        facts={
            "simulated": False, "shape": list(shape), "coils": kspace.n_coils,
            "acceleration": kspace.acceleration, "maps": "from a file" if recipe.maps else how,
        },
    )


def _place_notes(kspace: KSpace | NonCartesianKSpace) -> tuple[str, ...]:
    """What people should know of the image's place and scale."""
    noted = kspace.metadata.get("notes", ())
    notes = noted if isinstance(noted, tuple) else ()
    if kspace.affine is not None:
        return notes
    return (*notes, *_ASSUMED) if kspace.voxel_mm else (*notes, *_ASSUMED, _NO_VOXEL)


def measure_simulated(recipe: MRISimulated, path: Path | Volume | None, seed: int) -> Measured:
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
    samples = _sample(x, recipe, recipe.noise * peak, rng)
    return Measured(
        y=samples.y, A=samples.A, noise_std=samples.noise_std, unit="arbitrary", reference=x,
        to_volume=volume.with_data,
        origin=(
            f"k-space simulated from {source.title}: smooth phase, {recipe.coils} birdcage coils, "
            f"{recipe.sampling.kind} {samples.kind}, noise {100 * recipe.noise:g} % of the "
            "largest voxel"
        ),
        notes=source.notes,
        facts={
            "simulated": True, "shape": list(x.shape), "coils": recipe.coils,
            "acceleration": samples.acceleration, "noise_std": samples.noise_std,
            "spacing_mm": [round(mm, 5) for mm in volume.spacing_mm],
        },
    )


class _Samples(NamedTuple):
    """Simulated samples, their operator and noise, and what people call them."""

    y: Tensor
    A: LinearOperator
    noise_std: float
    kind: str
    acceleration: float


def birdcage(n_coils: int, shape: tuple[int, int]) -> Tensor:
    """Coil maps (coil, y, x) of a simulated birdcage, ``sum |S|^2 = 1``, by sigpy."""
    from sigpy.mri import birdcage_maps

    maps: np.ndarray[tuple[int, ...], np.dtype[np.complex64]]
    maps = birdcage_maps((n_coils, *shape)).astype(np.complex64)
    return torch.from_numpy(maps)


def _sample(x: Tensor, recipe: MRISimulated, noise_std: float, rng: Generator) -> _Samples:
    """Noisy k-space of an image (z, y, x); on a trajectory with its density weights."""
    shape = (x.shape[1], x.shape[2])
    maps, how = birdcage(recipe.coils, shape), recipe.sampling
    if isinstance(how, Spokes | Spiral):
        points, acceleration = draw_trajectory(how, shape)
        weights = density(points, shape, how.density)
        y = add_noise(NonCartesianMRI(maps, points)(x), noise_std, rng)
        y = y * weights.sqrt().to(y.real.dtype)
        A = NonCartesianMRI(maps, points, weights=weights)
        return _Samples(y, A, noise_std * rms(weights), f"trajectory at {acceleration:.3g}x",
                        acceleration)
    mask = draw_mask(how, shape, rng)
    cartesian = CartesianMRI(maps, mask.mask)
    y = torch.where(mask.mask, add_noise(cartesian(x), noise_std, rng), 0)
    return _Samples(y, cartesian, noise_std, f"mask with {mask.acceleration:.3g}x",
                    mask.acceleration)


def smooth_field(shape: torch.Size, rng: Generator) -> Tensor:
    """A random field (z, y, x) of unit variance at its 4 x 4 x 4 knots, linear between them."""
    knots = torch.randn(1, 1, 4, 4, 4, generator=rng)
    return F.interpolate(knots, tuple(shape), mode="trilinear", align_corners=True)[0, 0]
