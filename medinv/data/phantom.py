"""The 3D Shepp-Logan head: a phantom for demonstrations and tests that needs no download.

Ten ellipsoids with the contrast of Toft's modification, extended to 3D. Values are relative:
1 in the skull, 0.2 in the brain, 0 outside.
Source: Shepp and Logan 1974, doi:10.1109/TNS.1974.6499235; Toft 1996, The Radon Transform, p. 199.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medinv.data.geometry import orientation_affine
from medinv.data.volume import Volume
from medinv.errors import ShapeError


@dataclass(frozen=True)
class Ellipsoid:
    """Lengths are fractions of half the field of view; the angle (radians) turns about z."""

    value: float
    axes: tuple[float, float, float]
    centre: tuple[float, float, float]
    angle: float = 0.0

    def inside(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Where the points (x, y, z) lie inside."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        dx, dy, dz = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        along = (cos * dx + sin * dy) / self.axes[0]
        across = (cos * dy - sin * dx) / self.axes[1]
        return along**2 + across**2 + (dz / self.axes[2]) ** 2 <= 1


_TILT = math.radians(18)
SHEPP_LOGAN = (
    Ellipsoid(1.0, (0.69, 0.92, 0.81), (0.0, 0.0, 0.0)),
    Ellipsoid(-0.8, (0.6624, 0.874, 0.78), (0.0, -0.0184, 0.0)),
    Ellipsoid(-0.2, (0.11, 0.31, 0.22), (0.22, 0.0, 0.0), -_TILT),
    Ellipsoid(-0.2, (0.16, 0.41, 0.28), (-0.22, 0.0, 0.0), _TILT),
    Ellipsoid(0.1, (0.21, 0.25, 0.41), (0.0, 0.35, -0.15)),
    Ellipsoid(0.1, (0.046, 0.046, 0.05), (0.0, 0.1, 0.25)),
    Ellipsoid(0.1, (0.046, 0.046, 0.05), (0.0, -0.1, 0.25)),
    Ellipsoid(0.1, (0.046, 0.023, 0.05), (-0.08, -0.605, 0.0)),
    Ellipsoid(0.1, (0.023, 0.023, 0.02), (0.0, -0.606, 0.0)),
    Ellipsoid(0.1, (0.023, 0.046, 0.02), (0.06, -0.605, 0.0)),
)


def shepp_logan(shape: tuple[int, int, int], *, fov_mm: float = 240.0) -> Volume:
    """The phantom on a grid of ``shape`` (z, y, x), in RAS+ orientation, float32.

    Each axis covers ``fov_mm`` (a thin stack of slices gets thick slices).

    Raises:
        ShapeError: an axis is not positive.

    >>> volume = shepp_logan((16, 32, 32))
    >>> volume.orientation, volume.spacing_mm, round(volume.data.max().item(), 3)
    ('RAS', (7.5, 7.5, 15.0), 1.0)
    """
    if min(shape) < 1:
        raise ShapeError(f"shepp_logan: expected a positive shape (z, y, x), got {shape}")
    z, y, x = torch.meshgrid(*(_centres(n) for n in shape), indexing="ij")
    data = torch.zeros(shape)
    for part in SHEPP_LOGAN:
        data += part.value * part.inside(x, y, z)
    nz, ny, nx = shape
    affine = orientation_affine("RAS", (fov_mm / nx, fov_mm / ny, fov_mm / nz), (nx, ny, nz))
    return Volume(data, affine, {"description": "3D Shepp-Logan phantom"})


def _centres(n: int) -> Tensor:
    """Centres of ``n`` equal intervals of [-1, 1]."""
    return (2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1
