"""Simulated contrasts: what a T1-weighted brain might look like under another weighting.

A fixed curve maps the intensity of a T1-weighted image, in units of its 99th percentile, so that
cerebrospinal fluid (near 0.16), grey (near 0.55) and white matter (near 0.92) get the order that
the weighting gives them. It is no physics: tissues of one T1 intensity stay alike, lesions are not
invented, and fat and vessels are mapped like white matter. Air stays dark.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Contrast = Literal["T1w", "T2w", "PDw", "FLAIR"]

_T1W = (0.0, 0.05, 0.16, 0.35, 0.55, 0.75, 0.92, 1.1, 1.5)
_CURVES: dict[Contrast, tuple[float, ...]] = {
    "T2w": (0.0, 0.3, 1.0, 0.8, 0.55, 0.42, 0.32, 0.25, 0.2),
    "PDw": (0.0, 0.3, 0.8, 0.95, 0.9, 0.78, 0.65, 0.6, 0.6),
    "FLAIR": (0.0, 0.03, 0.06, 0.4, 0.8, 0.7, 0.55, 0.5, 0.5),
}


def simulated_contrast(x: Float[Tensor, "*b y x"], name: Contrast) -> Float[Tensor, "*b y x"]:
    """A T1-weighted image (99th percentile 1) as another contrast would show it, by a curve.

    Example:
        >>> csf, grey, white = 0.16, 0.55, 0.92
        >>> simulated_contrast(torch.tensor([[0, csf, grey, white]]), "T2w")
        tensor([[0.0000, 1.0000, 0.5500, 0.3200]])
    """
    if name == "T1w":
        return x
    knots, values = torch.tensor(_T1W), torch.tensor(_CURVES[name])
    inside = x.clamp(0, _T1W[-1])
    left = (torch.searchsorted(knots, inside.contiguous(), right=True) - 1).clamp(
        max=len(knots) - 2)
    share = (inside - knots[left]) / (knots[left + 1] - knots[left])
    return torch.lerp(values[left], values[left + 1], share)
