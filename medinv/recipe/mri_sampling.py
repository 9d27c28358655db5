"""The sampling of simulated MRI: a mask or a trajectory as a recipe describes it."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from medinv.operators import sampling, trajectories
from medinv.recipe.blocks import Caipirinha, Columns, PoissonDisc, Spiral, Spokes

_COLUMNS = {
    "random1d": sampling.random1d,
    "equispaced": sampling.equispaced,
    "equispaced-fraction": sampling.equispaced_fraction,
    "magic": sampling.magic,
    "uniform1d": sampling.uniform1d,
    "uniform1d-with-replacement": sampling.uniform1d_with_replacement,
}


def draw_mask(recipe: Columns | PoissonDisc | Caipirinha, shape: tuple[int, int],
              rng: Generator) -> sampling.Mask:
    """The mask (ky, kx) that the recipe describes.

    Raises:
        InputError: an acceleration that cannot be met.
    """
    if isinstance(recipe, PoissonDisc):
        return sampling.poisson_disc(
            shape, recipe.acceleration, calibration_width=recipe.calibration_width, rng=rng
        )
    if isinstance(recipe, Caipirinha):
        return sampling.caipirinha(shape, recipe.acceleration, recipe.shift,
                                   calibration_width=recipe.calibration_width)
    columns = _COLUMNS[recipe.kind](shape, recipe.acceleration,
                                    center_fraction=recipe.center_fraction, rng=rng)
    if recipe.partial_fourier == 1:
        return columns
    return columns & sampling.partial_fourier(shape, recipe.partial_fourier)


def draw_trajectory(recipe: Spokes | Spiral, shape: tuple[int, int]) -> tuple[Tensor, float]:
    """Points (readout, sample, 2) for square pixels (y, x), and the acceleration.

    The trajectory is made for a square of the longer side; a shorter one has a smaller field of
    view, so in its cycles the same spatial frequencies are fewer.
    """
    n = max(shape)
    if isinstance(recipe, Spiral):
        made = trajectories.spiral(recipe.interleaves, n, n_turns=recipe.turns,
                                   n_samples=recipe.samples, density=recipe.power)
    else:
        spokes = {"radial": trajectories.radial, "golden-angle": trajectories.golden_angle}
        made = spokes[recipe.kind](recipe.spokes, n, oversampling=recipe.oversampling)
    return made.points * (torch.tensor(shape) / n), made.acceleration
