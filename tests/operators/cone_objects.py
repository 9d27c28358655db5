"""Ellipsoids with line integrals in closed form, for any `CTGeometry`."""

from __future__ import annotations

import torch


def rays(geometry):
    """Origins and unit directions of all rays, straight from the definition of the geometry.

    Returns:
        ``(view, row, col, 3)`` each, float64.
    """
    row = torch.arange(geometry.n_rows).double() - (geometry.n_rows - 1) / 2
    col = torch.arange(geometry.n_cols).double() - (geometry.n_cols - 1) / 2
    if geometry.curved:
        pixels = curved_pixels(geometry, row, col)
    else:
        pixels = (geometry.detectors[:, None, None]
                  + row[:, None, None] * geometry.row_axes[:, None, None]
                  + col[:, None] * geometry.col_axes[:, None, None])
    sources = geometry.sources[:, None, None].expand_as(pixels)
    if geometry.parallel:
        return pixels, sources
    return sources, torch.nn.functional.normalize(pixels - sources, dim=-1)


def curved_pixels(geometry, row, col):
    """Pixels on a cylinder around the source whose axis is along the rows."""
    up = torch.nn.functional.normalize(geometry.row_axes)
    arm = geometry.detectors - geometry.sources
    lift = (arm * up).sum(1, keepdim=True) * up
    arm = arm - lift
    across = torch.nn.functional.normalize(geometry.col_axes)
    radius = arm.norm(dim=1)[:, None]
    angle = col * geometry.col_axes.norm(dim=1)[:, None] / radius
    turned = (angle.cos()[..., None] * arm[:, None]
              + (radius * angle.sin())[..., None] * across[:, None])
    middle = (geometry.sources + lift)[:, None] + turned
    return middle[:, None] + row[:, None, None] * geometry.row_axes[:, None, None]


def line_integrals(geometry, centre, radii, mu=1.0):
    """Chords of the ellipsoid at ``centre`` with semi-axes ``radii`` ``(x, y, z)``, times mu."""
    origins, directions = rays(geometry)
    radii = torch.tensor(radii, dtype=torch.float64)
    p = (origins - torch.tensor(centre, dtype=torch.float64)) / radii
    d = directions / radii
    a, b, c = (d * d).sum(-1), (p * d).sum(-1), (p * p).sum(-1) - 1
    return 2 * mu * (b * b - a * c).clamp(min=0).sqrt() / a


def volume(geometry, centre, radii, mu=1.0, oversampling=4):
    """``mu`` times the fraction of each voxel that the ellipsoid fills, float32."""
    n = oversampling
    offsets = [(torch.arange(size * n) + 0.5) / n - size / 2 for size in geometry.shape]
    z, y, x = (((offset * mm - c) / r) ** 2 for offset, mm, c, r in zip(
        offsets, geometry.voxel_mm, centre[::-1], radii[::-1], strict=True))
    inside = torch.stack([((z[k:: n, None, None] + y[:, None] + x) <= 1).float()
                          for k in range(n)]).mean(0)
    nz, ny, nx = geometry.shape
    return mu * inside.reshape(nz, ny, n, nx, n).mean((2, 4))
