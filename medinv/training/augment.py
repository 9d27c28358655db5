"""Random variations of clean images, in prior units: geometry, contrast and phase.

Each takes images (b, y, x) or stacks of slices (b, z, y, x) and a generator, and decides per image
or stack.
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


def _each(values: Tensor, x: Tensor) -> Tensor:
    """One value (b,) for each image or stack of ``x``, to be broadcast against it."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def affine(x: Float[Tensor, "b *z y x"], angle: Float[Tensor, " b"], zoom: Float[Tensor, " b"],
           size: tuple[int, int] | None = None) -> Float[Tensor, "b *z v u"]:
    """Turn images by angles (radians) and make their pixels ``zoom`` times as large.

    Args:
        x: images, or stacks whose slices are moved alike.
        angle: of each.
        zoom: of each.
        size: rows and columns of the result, around the same centre; those of ``x`` if None.

    Beyond the border an image is mirrored.

    Example:
        >>> x = torch.rand(2, 8, 8)
        >>> torch.allclose(affine(x, torch.zeros(2), torch.ones(2)), x, atol=1e-5)
        True
    """
    slices = x if x.ndim == 4 else x[:, None]
    shape = (x.shape[-2], x.shape[-1])
    rows, columns = shape if size is None else size
    cos, sin, zero = angle.cos() * zoom, angle.sin() * zoom, torch.zeros_like(angle)
    theta = torch.stack([cos * columns / shape[1], -sin * rows / shape[1], zero,
                         sin * columns / shape[0], cos * rows / shape[0], zero], 1)
    grid = F.affine_grid(theta.reshape(-1, 2, 3), [len(x), 1, rows, columns], align_corners=False)
    moved = F.grid_sample(slices, grid, "bicubic", "reflection", align_corners=False)
    return moved if x.ndim == 4 else moved[:, 0]


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
    return torch.where(chosen[:, None, None], affine(x, turn, scale), x)


def random_flip(x: Float[Tensor, "b *z y x"], rng: Generator) -> Float[Tensor, "b *z y x"]:
    """One of the eight symmetries of the square, for each image.

    Example:
        >>> x = torch.rand(3, 8, 8)
        >>> y = random_flip(x, Generator().manual_seed(0))
        >>> torch.equal(x.flatten(1).sort().values, y.flatten(1).sort().values)
        True
    """
    pick = torch.randint(0, 8, (len(x),), generator=rng).tolist()
    turned = [torch.rot90(image, k % 4, (-2, -1)) for image, k in zip(x, pick, strict=True)]
    return torch.stack([image.flip(-2) if k >= 4 else image
                        for image, k in zip(turned, pick, strict=True)])


def random_mirror(x: Float[Tensor, "b *z y x"], rng: Generator) -> Float[Tensor, "b *z y x"]:
    """Mirror half of the images left to right.

    Example:
        >>> x = torch.arange(2.0).expand(4, 1, 2)
        >>> random_mirror(x, Generator().manual_seed(0))[:, 0].tolist()
        [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]
    """
    mirrored = torch.rand(len(x), generator=rng) < 0.5
    return torch.where(_each(mirrored, x), x.flip(-1), x)


def random_contrast(x: Float[Tensor, "b *z y x"], rng: Generator) -> Float[Tensor, "b *z y x"]:
    """Another MR contrast: a gamma curve (30 %), any piecewise-linear curve (20 %), or none.

    The curves map [0, 1.5] with 0 fixed, so that air stays dark.

    Example:
        >>> x = torch.zeros(8, 4, 4)
        >>> torch.equal(random_contrast(x, Generator().manual_seed(0)), x)
        True
    """
    n = len(x)
    choice = _each(torch.rand(n, generator=rng), x)
    gamma = _each(2 ** uniform(-0.8, 0.8, (n,), rng), x)
    knots = torch.cat([torch.zeros(n, 1), torch.rand(n, 6, generator=rng) * 1.2], 1)
    position = (x.clamp(0, 1.499) * 4).flatten(1)
    left = position.floor().long()
    low, high = knots.gather(1, left), knots.gather(1, left + 1)
    curve = (low + (high - low) * (position - left)).reshape(x.shape)
    out = torch.where(choice < 0.3, x.clamp(min=0) ** gamma, x)
    return torch.where((choice >= 0.3) & (choice < 0.5), curve, out)


def smooth_field(x: Float[Tensor, "b *z y x"], std: Float[Tensor, " b"], rng: Generator
                 ) -> Float[Tensor, "b *z y x"]:
    """A slowly varying random field over each image or stack, of a standard deviation near std.

    Through a stack it goes from one such image to another.

    Example:
        >>> smooth_field(torch.zeros(2, 5, 8, 8), torch.ones(2), Generator().manual_seed(0)).shape
        torch.Size([2, 5, 8, 8])
    """
    ends = torch.randn(len(x), 1 if x.ndim == 3 else 2, 4, 4, generator=rng)
    slow = F.interpolate(ends * _each(std, ends), size=tuple(x.shape[-2:]), mode="bicubic",
                         align_corners=True)
    if x.ndim == 3:
        return slow[:, 0]
    share = torch.linspace(0, 0.2, x.shape[1])[:, None, None]  # neighbours are alike
    return torch.lerp(slow[:, :1], slow[:, 1:], share)


def random_bias(x: Float[Tensor, "b *z y x"], std: float, rng: Generator
                ) -> Float[Tensor, "b *z y x"]:
    """Brighten and darken images slowly, as coils do: by a bias field with this log std at most.

    Example:
        >>> x = torch.rand(3, 8, 8)
        >>> torch.equal(random_bias(x, 0.0, Generator().manual_seed(0)), x)
        True
    """
    return x * smooth_field(x, uniform(0, std, (len(x),), rng), rng).exp()


def random_phase(x: Float[Tensor, "b *z y x"], rng: Generator) -> Complex[Tensor, "b *z y x"]:
    """Give each image a smooth phase: any constant, a linear ramp, and slow variations.

    Example:
        >>> x = torch.rand(3, 8, 8)
        >>> torch.allclose(random_phase(x, Generator().manual_seed(0)).abs(), x, atol=1e-6)
        True
    """
    n = len(x)
    slow = smooth_field(x, uniform(0, 1.5, (n,), rng), rng)
    ramp = uniform(-1.5, 1.5, (2, n), rng)
    y, x_axis = (torch.linspace(-1, 1, m) for m in x.shape[-2:])
    phase = slow + _each(ramp[0], x) * y[:, None] + _each(ramp[1], x) * x_axis
    return torch.polar(x, phase + _each(uniform(-3.1416, 3.1416, (n,), rng), x))
