"""Random ellipses in a disc: training images that hold no anatomy.

A prior of them is what one has where no clean images of the anatomy exist; adaptation starts from
it. After the phantoms of Barbano et al. (arXiv:2308.14409) and Adler and Öktem, "Solving ill-posed
inverse problems using iterative deep neural networks" (2017).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from medinv.training.augment import uniform


def random_ellipses(n: int, size: int, rng: Generator, *, most: int = 70) -> Tensor:
    """``n`` images (n, size, size): up to ``most`` overlapping ellipses in a disc.

    Values add up where ellipses overlap and are clamped to 0..2; the disc has 0.3 to 1.1.

    Example:
        >>> x = random_ellipses(2, 32, Generator().manual_seed(0))
        >>> x.shape, bool((x >= 0).all()), x[:, 0, 0].tolist()
        (torch.Size([2, 32, 32]), True, [0.0, 0.0])
    """
    axis = torch.linspace(-1, 1, size)
    y, x = axis[:, None], axis
    disc = (x**2 + y**2 < 0.9).float()
    level = uniform(0.3, 1.1, (n, 1, 1), rng)
    images = [
        disc * (base + _ellipses(x, y, int(torch.randint(5, most + 1, (), generator=rng)), rng))
        for base in level
    ]
    return torch.stack(images).clamp_(0, 2)


def _ellipses(x: Tensor, y: Tensor, count: int, rng: Generator) -> Tensor:
    """The sum of ``count`` ellipses on the grid of ``x`` and ``y``."""
    x0, y0 = uniform(-0.8, 0.8, (2, count, 1, 1), rng)
    a, b = 0.02 * 20 ** uniform(0, 1, (2, count, 1, 1), rng)  # half axes from 0.02 to 0.4
    angle = uniform(0, torch.pi, (count, 1, 1), rng)
    value = uniform(-0.5, 0.5, (count, 1, 1), rng)
    u = (x - x0) * angle.cos() + (y - y0) * angle.sin()
    v = (y - y0) * angle.cos() - (x - x0) * angle.sin()
    total: Tensor = (value * ((u / a).square() + (v / b).square() < 1)).sum(0)
    return total
