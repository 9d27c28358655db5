"""Objects with line integrals in closed form; coordinates as in `medinv.operators.ct`."""

from __future__ import annotations

import torch


def disc_image(shape, pixel_mm, x0, y0, radius, mu, oversampling=8):
    """Attenuation ``mu`` times the area fraction of each pixel that the disc covers."""
    y, x = (pixel_mm * ((torch.arange(n * oversampling) + 0.5) / oversampling - n / 2)
            for n in shape)
    inside = (x - x0) ** 2 + (y[:, None] - y0) ** 2 <= radius**2
    blocks = inside.float().reshape(shape[0], oversampling, shape[1], oversampling)
    return mu * blocks.mean((1, 3))


def disc_line_integrals(A, x0, y0, radius, mu):
    """Chord lengths times ``mu``, ``(view, col)``."""
    s = (torch.arange(A.n_cols) - (A.n_cols - 1) / 2) * A.col_mm
    centre = x0 * torch.cos(A.angles) + y0 * torch.sin(A.angles)
    half_chord = (radius**2 - (s - centre[:, None]) ** 2).clamp_min(0).sqrt()
    return (2 * mu * half_chord).float()
