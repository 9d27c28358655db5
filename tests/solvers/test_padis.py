"""Patch priors: exact where pixels are independent, for every shift; PaDIS on Gaussians."""

import pytest
import torch

from medinv.errors import InputError
from medinv.priors import GaussianPrior, PatchPrior, SlicePrior
from medinv.priors.patches import positions
from medinv.problem import Problem
from medinv.solvers import PaDIS
from tests.solvers.matrix_operator import random_image, random_operator

DOUBLE = torch.float64
SIDE = 32


class DiagonalPatches:
    """Denoises patches of an image of independent pixels, which it finds by their positions."""

    def __init__(self, mean, variance):
        self.mean, self.variance = mean, variance

    def lookup(self, image, where):
        ny, nx = image.shape
        column = (where[:, 0] * SIDE / 2 + (nx - 1) / 2).round().long()
        row = (where[:, 1] * SIDE / 2 + (ny - 1) / 2).round().long()
        inside = (row >= 0) & (row < ny) & (column >= 0) & (column < nx)
        values = image[row.clamp(0, ny - 1), column.clamp(0, nx - 1)]
        return torch.where(inside, values, 0)  # the border is 0 for certain

    def __call__(self, patches, sigma, where):
        mean, variance = self.lookup(self.mean, where), self.lookup(self.variance, where)
        gain = variance / (variance + sigma[:, None, None] ** 2)
        return mean + gain * (patches - mean)


def diagonal(shape, dtype=DOUBLE, patch=4):
    """A patch prior and the prior of whole images that it equals."""
    mean = random_image(shape, dtype, seed=3)
    variance = random_image(shape, seed=4).square() + 0.1
    whole = GaussianPrior(mean, torch.diag(variance.flatten()).to(dtype))
    return PatchPrior(DiagonalPatches(mean, variance), patch, SIDE, dtype=dtype), whole


@pytest.mark.parametrize("dtype", [DOUBLE, torch.complex128])
@pytest.mark.parametrize("shape", [(9, 9), (8, 11), (3, 4)])
def test_independent_pixels_are_denoised_exactly_whatever_the_shift(shape, dtype):
    prior, whole = diagonal(shape, dtype)
    x = random_image((40, *shape), dtype)  # forty images, forty shifts
    torch.testing.assert_close(prior(x, 0.7), whole(x, 0.7))


def test_every_shift_occurs_and_covers_each_pixel_once():
    starts = set()
    prior = PatchPrior(lambda x, sigma, where: torch.ones_like(x), 4, SIDE)
    for image in random_image((300, 6, 5), torch.float32):
        start = prior._tiling(image, torch.tensor(0.5))[2]
        starts.add(start)
        assert torch.equal(prior(image, 0.5), torch.ones(6, 5))
    assert starts == {(top, left) for top in range(3) for left in range(4)}


def test_the_border_is_noise_of_the_level():
    seen = []
    prior = PatchPrior(lambda x, sigma, where: seen.append(x) or x, 16, SIDE)
    x = torch.zeros(200, 9, 9)
    x[:, 0, 0] = torch.linspace(1e-6, 1e-5, 200)  # each image has its own noise
    prior(x, 2.0)
    border = torch.cat(seen)
    border = border[border.abs() > 1e-5]
    assert border.std().item() == pytest.approx(2, rel=0.02)  # 35,000 pixels: 0.4 %


def test_same_input_same_output_and_no_influence_in_a_batch():
    prior = PatchPrior(lambda x, sigma, where: x * where[:, 0], 4, SIDE, chunk=5)
    x = random_image((3, 9, 10), torch.float32)
    together = prior(x, torch.tensor([0.3, 0.5, 0.7]))
    assert torch.equal(together, prior(x, torch.tensor([0.3, 0.5, 0.7])))
    torch.testing.assert_close(together[1], prior(x[1], 0.5))
    torch.testing.assert_close(SlicePrior(prior)(x, 0.5)[1], together[1])


def test_positions_are_in_fixed_units_from_the_centre():
    """The same place has the same coordinates in images of every size."""
    small, large = (positions(torch.arange(n), torch.arange(n), (n, n), 32) for n in (9, 13))
    torch.testing.assert_close(large[:, 2:-2, 2:-2], small)
    assert small[0, 0, -1] == -small[0, 0, 0] == small[1, -1, 0] == 0.25


def test_padis_follows_langevin_s_law_where_nothing_is_measured():
    """At one level, x <- (1 - a) x + a D + sqrt(step) sigma n has a known stationary law."""
    A = random_operator(1, (2, 2))
    A._norm = 1.0
    A.matrix.zero_()
    prior = GaussianPrior(torch.zeros(2, 2, dtype=DOUBLE), torch.eye(4, dtype=DOUBLE))
    levels, step = [1.0, 1e-3], 0.5
    x = PaDIS(steps=2, inner_steps=50, sigma_max=1.0, sigma_min=1e-3, step=step)(
        Problem(torch.zeros(20_000, 1, dtype=DOUBLE), A), prior,
        rng=torch.Generator().manual_seed(0))
    gain = 1 - step / 2 * levels[0] ** 2 / (1 + levels[0] ** 2)
    variance = step * levels[0] ** 2 / (1 - gain**2)  # after 50 steps at sigma = 1
    shrink = (1 - step / 2 * levels[1] ** 2 / (1 + levels[1] ** 2)) ** 100
    assert x.var().item() == pytest.approx(variance * shrink, rel=0.02)  # 80,000 draws: 0.5 %


def test_padis_approaches_the_measurement_with_a_patch_prior():
    prior, _ = diagonal((6, 7))
    A = random_operator(12, (6, 7))
    y = A(random_image((6, 7), seed=9))
    solver = PaDIS(steps=30, inner_steps=5)
    x = solver(Problem(y, A), prior, rng=torch.Generator().manual_seed(0))
    assert torch.equal(x, solver(Problem(y, A), prior, rng=torch.Generator().manual_seed(0)))
    assert float((A(x) - y).norm() / y.norm()) < 0.3


@pytest.mark.parametrize(("fields", "message"), [
    ({"inner_steps": 0}, "inner_steps: expected at least 1"),
    ({"zeta": 0.0}, "zeta: expected a positive number"),
])
def test_wrong_settings(fields, message):
    with pytest.raises(InputError, match=message):
        PaDIS(**fields)


def test_a_patch_has_a_size():
    with pytest.raises(InputError, match="at least one pixel"):
        PatchPrior(lambda x, sigma, where: x, 0, 8)
