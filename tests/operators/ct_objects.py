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
    s = (torch.arange(A.n_cols) - (A.n_cols - 1) / 2) * A.col_mm + A.col_offset_mm
    centre = x0 * torch.cos(A.angles) + y0 * torch.sin(A.angles)
    half_chord = (radius**2 - (s - centre[:, None]) ** 2).clamp_min(0).sqrt()
    return (2 * mu * half_chord).float()


def fan_disc_line_integrals(A, x0, y0, radius, mu):
    """Chord lengths times ``mu`` of a `FanBeam`, ``(view, col)``, from the source's position."""
    theta = A.angles[:, None]
    position = (torch.arange(A.n_cols) - (A.n_cols - 1) / 2) * A.col_mm + A.col_offset_mm
    fraction = position / (A.source_mm + A.detector_mm)
    fan_angle = fraction if A.curved else fraction.atan()
    source_x = A.source_mm * theta.sin() - A.axis_offset_mm * theta.cos()
    source_y = -A.source_mm * theta.cos() - A.axis_offset_mm * theta.sin()
    along_x, along_y = -torch.sin(theta - fan_angle), torch.cos(theta - fan_angle)
    distance = (x0 - source_x) * along_y - (y0 - source_y) * along_x
    return (2 * mu * (radius**2 - distance**2).clamp_min(0).sqrt()).float()
