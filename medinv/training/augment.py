"""Random variations of clean images, in prior units: geometry, contrast and phase.

Each takes images (b, y, x) and a generator, and decides per image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Generator, Tensor


def uniform(low: float, high: float, shape: tuple[int, ...], rng: Generator) -> Tensor:
    """Uniform numbers in [low, high).

    Example:
        >>> uniform(2, 3, (4,), Generator().manual_seed(0)).floor().tolist()
        [2.0, 2.0, 2.0, 2.0]
    """
    return low + (high - low) * torch.rand(shape, generator=rng)


def random_affine(x: Float[Tensor, "b y x"], rng: Generator, *, share: float = 0.5,
                  zoom: float = 1.3, angle: float = torch.pi) -> Float[Tensor, "b y x"]:
    """Rotate by up to ``angle`` radians and zoom by ``1/zoom .. zoom`` a share of the images.

    Example:
        >>> x = torch.rand(3, 8, 8)
        >>> torch.equal(random_affine(x, Generator().manual_seed(0), share=0.0), x)
        True
    """
    n = len(x)
    turn = uniform(-angle, angle, (n,), rng)
    scale = zoom ** uniform(-1, 1, (n,), rng)
    chosen = torch.rand(n, generator=rng) < share
    cos, sin = turn.cos() * scale, turn.sin() * scale
    zero = torch.zeros(n)
    theta = torch.stack([cos, -sin, zero, sin, cos, zero], 1).reshape(n, 2, 3)
    grid = F.affine_grid(theta, [n, 1, *x.shape[1:]], align_corners=False)
    moved = F.grid_sample(x[:, None], grid, "bicubic", "reflection", align_corners=False)[:, 0]
    return torch.where(chosen[:, None, None], moved, x)


def random_flip(x: Float[Tensor, "b y x"], rng: Generator) -> Float[Tensor, "b y x"]:
    """One of the eight symmetries of the square, for each image.

    Example:
        >>> x = torch.rand(3, 8, 8)
        >>> y = random_flip(x, Generator().manual_seed(0))
        >>> torch.equal(x.flatten(1).sort().values, y.flatten(1).sort().values)
        True
    """
    pick = torch.randint(0, 8, (len(x),), generator=rng).tolist()
    turned = [torch.rot90(image, k % 4) for image, k in zip(x, pick, strict=True)]
    return torch.stack([image.flip(0) if k >= 4 else image
                        for image, k in zip(turned, pick, strict=True)])


def random_mirror(x: Float[Tensor, "b y x"], rng: Generator) -> Float[Tensor, "b y x"]:
    """Mirror half of the images left to right.

    Example:
        >>> x = torch.arange(2.0).expand(4, 1, 2)
        >>> random_mirror(x, Generator().manual_seed(0))[:, 0].tolist()
        [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    """
    mirrored = torch.rand(len(x), 1, 1, generator=rng) < 0.5
    return torch.where(mirrored, x.flip(-1), x)


def random_contrast(x: Float[Tensor, "b y x"], rng: Generator) -> Float[Tensor, "b y x"]:
    """Another MR contrast: a gamma curve (30 %), any piecewise-linear curve (20 %), or none.

    The curves map [0, 1.5] with 0 fixed, so that air stays dark.

    Example:
        >>> x = torch.zeros(8, 4, 4)
        >>> torch.equal(random_contrast(x, Generator().manual_seed(0)), x)
        True
    """
    n = len(x)
    choice = torch.rand(n, 1, 1, generator=rng)
    gamma = 2 ** uniform(-0.8, 0.8, (n, 1, 1), rng)
    knots = torch.cat([torch.zeros(n, 1), torch.rand(n, 6, generator=rng) * 1.2], 1)
    position = (x.clamp(0, 1.499) * 4).flatten(1)
    left = position.floor().long()
    low, high = knots.gather(1, left), knots.gather(1, left + 1)
    curve = (low + (high - low) * (position - left)).reshape(x.shape)
    out = torch.where(choice < 0.3, x.clamp(min=0) ** gamma, x)
    return torch.where((choice >= 0.3) & (choice < 0.5), curve, out)


def random_phase(x: Float[Tensor, "b y x"], rng: Generator) -> Complex[Tensor, "b y x"]:
    """Give each image a smooth phase: any constant, a linear ramp, and slow variations.

    Example:
        >>> x = torch.rand(3, 8, 8)
        >>> torch.allclose(random_phase(x, Generator().manual_seed(0)).abs(), x, atol=1e-6)
        True
    """
    n, size = len(x), x.shape[1:]
    grid = torch.randn(n, 1, 4, 4, generator=rng) * uniform(0, 1.5, (n, 1, 1, 1), rng)
    slow = F.interpolate(grid, size=tuple(size), mode="bicubic", align_corners=True)[:, 0]
    ramp = uniform(-1.5, 1.5, (2, n, 1, 1), rng)
    y, x_axis = (torch.linspace(-1, 1, m) for m in size)
    phase = slow + ramp[0] * y[:, None] + ramp[1] * x_axis
    return torch.polar(x, phase + uniform(-3.1416, 3.1416, (n, 1, 1), rng))
