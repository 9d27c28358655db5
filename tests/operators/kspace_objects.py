"""Ellipses and ellipsoids whose k-space is known in closed form; lengths in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ellipse:
    """Half axes and centre along (y, x), turned by ``angle`` from x towards y; of height 1."""

    half: tuple[float, float]
    centre: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0

    def scaled(self, factor: float) -> Ellipse:
        """The same object on a grid finer by ``factor``."""
        return Ellipse(tuple(factor * h for h in self.half),
                       tuple(factor * c for c in self.centre), self.angle)

    def _turned(self, v: Tensor) -> Tensor:
        """Components along the ellipse's own axes."""
        y, x = v.unbind(-1)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return torch.stack([cos * y - sin * x, sin * y + cos * x], -1)

    def image(self, n: int, oversampling: int = 16) -> Tensor:
        """The part of each of ``n x n`` pixels that it covers."""
        fine = (torch.arange(n * oversampling, dtype=torch.float64) + 0.5) / oversampling
        fine = fine - 0.5 - n // 2
        points = torch.cartesian_prod(fine, fine) - torch.tensor(self.centre)
        inside = (self._turned(points) / torch.tensor(self.half)).norm(dim=-1) <= 1
        return inside.double().reshape(n, oversampling, n, oversampling).mean((1, 3))

    def kspace(self, points: Tensor, n: int) -> Tensor:
        """Its Fourier integral at ``(*samples, 2)`` cycles per field of view, orthonormal."""
        k = points / n
        radius = 2 * math.pi * (self._turned(k) * torch.tensor(self.half)).norm(dim=-1)
        jinc = torch.where(radius > 0, torch.special.bessel_j1(radius) / radius.clamp_min(1e-9),
                           0.5)
        phase = torch.exp(-2j * math.pi * (k * torch.tensor(self.centre)).sum(-1))
        return 2 * math.pi * math.prod(self.half) * jinc * phase / n


def ball_kspace(radius: float, centre: tuple[float, float, float], points: Tensor,
                n: int) -> Tensor:
    """Fourier integral of a ball at ``(*samples, 3)`` cycles per field of view, orthonormal."""
    k = points / n
    rho = (2 * math.pi * radius * k.norm(dim=-1)).clamp_min(1e-3)
    volume = 4 * math.pi * radius**3 * (torch.sin(rho) - rho * torch.cos(rho)) / rho**3
    return volume * torch.exp(-2j * math.pi * (k * torch.tensor(centre)).sum(-1)) / n**1.5


def ball_image(radius: float, centre: tuple[float, float, float], n: int,
               oversampling: int = 4) -> Tensor:
    """The part of each of ``n^3`` voxels that a ball covers."""
    fine = (torch.arange(n * oversampling, dtype=torch.float64) + 0.5) / oversampling
    fine = fine - 0.5 - n // 2
    z, y, x = torch.meshgrid(fine, fine, fine, indexing="ij")
    inside = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2
    return inside.double().reshape((n, oversampling) * 3).mean((1, 3, 5))
