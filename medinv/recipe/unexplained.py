"""Images that do not explain their data: a wrong geometry ends in one without any error."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from medinv.evaluation.metrics import measurement_residual
from medinv.recipe.measurement import Measured

_MOST = 0.5  # of the data; an image of zeros leaves 1
_TIMES_NOISE = 2


def unexplained(measured: Measured, images: Mapping[str, Tensor]) -> list[str]:
    """A sentence for each image that leaves more of the data than their noise and half of them.

    Args:
        measured: what was measured.
        images: in physical units, by the title of their method.
    """
    y = measured.y
    noise = measured.noise_std * math.sqrt(y.numel() * (1 + y.is_complex()))
    norm = float(torch.linalg.vector_norm(y))
    residuals = {title: measurement_residual(image.to(y.device), y, measured.A)
                 for title, image in images.items()} if norm else {}
    return [
        f"WARNING: {title} leaves {residual:.3g} of the data unexplained, of which noise makes "
        f"{noise / norm:.2g}; check the geometry (angles and their unit, rotation centre, pixel "
        "size), the maps, and the solver's settings"
        for title, residual in residuals.items()
        if not residual <= max(_MOST, _TIMES_NOISE * noise / norm)
    ]
