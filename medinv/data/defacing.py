"""A crude mask over the face of an adult's head, so that a rendering shows no likeness.

Lengths are in an adult's head of 190 mm from front to back and scale with it. From the vertex down
nothing is masked for 85 mm; below, the mask begins at the front and deepens with a slope of 1, to
95 mm: eyes, nose, mouth and chin go, the ears stay. Nothing is registered, and nobody has measured
how often such a face is still recognised; a published method (pydeface, mri_reface) does better.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import ndimage

from medinv.data.geometry import to_ras
from medinv.data.volume import Volume
from medinv.errors import DataError

_HEAD_MM = 190.0
_BROW_MM = 85.0  # below the vertex
_DEEPEST_MM = 95.0  # behind the forehead
_FOREHEAD_MM = (30.0, 80.0)  # below the vertex, where the head's front and back are found
_TISSUE_HU = -300.0
_TISSUE_PART = 0.15  # of the 99th percentile of magnitudes, where values are not HU
_PLAUSIBLE_MM = (120.0, 240.0)  # from front to back

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def deface(volume: Volume) -> Volume:
    """Set the face of a head to the volume's lowest value; axes come out as RAS.

    Args:
        volume: a whole head with air above it, upright in the patient's axes; HU for CT.

    Raises:
        DataError: no head, or its vertex is not in the volume: nothing tells where the face is.

    >>> import torch
    >>> z, y, x = torch.meshgrid(*(torch.arange(-120.0, 121, 6) for _ in range(3)), indexing="ij")
    >>> ball = ((x / 75) ** 2 + (y / 95) ** 2 + (z / 110) ** 2 < 1).float()
    >>> affine = torch.diag(torch.tensor([6.0, 6, 6, 1]).double())
    >>> masked = deface(Volume(ball, affine))
    >>> bool(masked.data[25:].equal(ball[25:])), float(masked.data[10, 30, 20])
    (True, 0.0)
    """
    upright = to_ras(volume)
    values = upright.data.abs() if upright.data.is_complex() else upright.data
    face = _face(_head(values.numpy(), volume.metadata.get("unit") == "HU"), upright.spacing_mm)
    lowest = torch.zeros((), dtype=upright.data.dtype) if upright.data.is_complex() \
        else upright.data.min()
    notes = volume.metadata.get("notes", ())
    told = (*(notes if isinstance(notes, tuple) else ()), "the face is masked by a crude plane")
    masked = torch.where(torch.from_numpy(face), lowest, upright.data)
    return Volume(masked, upright.affine, {**volume.metadata, "notes": told}, volume.acquisition)


def _head(values: np.ndarray[Any, np.dtype[Any]], is_ct: bool) -> Mask:
    """The largest piece of tissue, (z, y, x)."""
    threshold = _TISSUE_HU if is_ct else _TISSUE_PART * float(np.percentile(values, 99))
    pieces, n_pieces = ndimage.label(values > threshold)
    if not n_pieces:
        raise DataError("deface: expected a head, found an empty volume")
    head: Mask = pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
    return head


def _face(head: Mask, spacing_mm: tuple[float, float, float]) -> Mask:
    _, dy, dz = spacing_mm
    vertex = int(np.flatnonzero(head.any((1, 2)))[-1])
    if vertex == len(head) - 1:
        raise DataError("deface: expected air above the head, found tissue in the top slice; the "
                        "vertex tells where the face is, so pass the whole head")
    below = (vertex - np.arange(len(head))) * dz
    band = (_FOREHEAD_MM[0] <= below) & (below <= _FOREHEAD_MM[1])
    rows = np.flatnonzero(head[band].any((0, 2)))
    length = (rows[-1] - rows[0] + 1) * dy if rows.size else 0.0
    if not _PLAUSIBLE_MM[0] <= length <= _PLAUSIBLE_MM[1]:
        raise DataError(f"deface: expected a head of {_PLAUSIBLE_MM[0]:g} to {_PLAUSIBLE_MM[1]:g} "
                        f"mm from front to back, found {length:.4g} mm; pass a whole head alone")
    scale = length / _HEAD_MM
    depth = np.clip(below / scale - _BROW_MM, 0, _DEEPEST_MM)  # of the mask, behind the forehead
    behind = (rows[-1] - np.arange(head.shape[1])) * dy / scale
    face: Mask = (below / scale > _BROW_MM)[:, None] & (behind < depth[:, None])
    return np.broadcast_to(face[:, :, None], head.shape).copy()
