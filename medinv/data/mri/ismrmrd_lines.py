"""Where the samples of ISMRMRD readouts lie along kx, and whether a scan is 3D at all.

Readouts with ``ACQ_IS_REVERSE`` run from high to low kx, and the field has two conventions for
their ``center_sample`` c. By the standard's words sample i lies at ``k = c - i``. Scanner software
of Siemens counts c as in the mirrored readout, so that sample i lies at ``k = c - 1 - i``. Echoes
of both directions cover the same kx, which tells the two apart.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medinv.data.mri.ismrmrd_header import Encoding
from medinv.errors import DataError

ReversedReadouts = Literal["auto", "standard", "siemens"]

_Array = np.ndarray[Any, np.dtype[Any]]
_CONVENTIONS: tuple[Literal["standard", "siemens"], ...] = ("standard", "siemens")


def starts(heads: _Array, turned: _Array, nx: int, convention: ReversedReadouts,
           path: Path) -> _Array:
    """Index along kx of the first kept sample of each readout, once it is turned around.

    Args:
        heads: headers of the readouts.
        turned: which of them are reversed.
        nx: encoded matrix along kx.
        convention: of the reversed readouts; ``auto`` takes the one under which they cover the kx
            of the others, else the only one that fits the matrix.
        path: the file, for messages.

    Raises:
        DataError: a readout is empty or leaves the matrix, or neither convention can be ruled out.
    """
    n, centre, before, after = (heads[name].astype(np.int64) for name in (
        "number_of_samples", "center_sample", "discard_pre", "discard_post"))
    kept = n - before - after
    forward = nx // 2 - centre + before
    mirrored = nx // 2 - (n - 1 - centre) + after
    first: dict[str, _Array] = {
        "standard": np.where(turned, mirrored, forward),
        "siemens": np.where(turned, mirrored - 1, forward),
    }
    chosen = _choose(first, kept, turned, nx, path) if convention == "auto" else convention
    found = first[chosen]
    outside = np.flatnonzero(~_fits(found, kept, nx))
    if len(outside):
        i = outside[0]
        raise DataError(
            f"{path}: a readout of {n[i]} samples with its centre at {centre[i]} does not fit the "
            f"encoded matrix of {nx}; correct the header"
            + (f", or read it by another convention than {chosen!r}: reversed_readouts='auto', "
               "'standard' or 'siemens'" if turned[i] else ""))
    return found


def _choose(first: dict[str, _Array], kept: _Array, turned: _Array, nx: int,
            path: Path) -> Literal["standard", "siemens"]:
    """The convention of reversed readouts that the headers allow."""
    if not turned.any():
        return "standard"

    def spans(name: str, which: _Array) -> set[tuple[int, int]]:
        return set(zip(first[name][which].tolist(), kept[which].tolist(), strict=True))

    alike = [name for name in _CONVENTIONS if spans(name, turned) == spans(name, ~turned)]
    fitting = [name for name in _CONVENTIONS
               if bool(_fits(first[name], kept, nx)[turned].all())]
    for possible in (alike, fitting):
        if len(possible) == 1:
            return possible[0]
    if turned.all() or not fitting:  # one direction only: the image moves by no voxel
        return "standard"
    raise DataError(
        f"{path}: reversed readouts cover another part of kx than the others, so the header does "
        "not say where their centre is; choose reversed_readouts='standard' (sample i at "
        "center_sample - i) or 'siemens' (one sample less); the wrong one leaves a ghost"
    )


def _fits(first: _Array, kept: _Array, nx: int) -> _Array:
    inside: _Array = (kept > 0) & (first >= 0) & (first + kept <= nx)
    return inside


def without_kz(encoding: Encoding, heads: _Array) -> Encoding:
    """The encoding in 2D where one step of kz was measured, whatever the encoded matrix says.

    Some writers (Pulseq's among them) declare an encoded z of 2, or the number of slices, for
    2D scans. Taken for 2D is what the matrix of the image, or several slices, show to be so.
    """
    nz, recon_z = encoding.encoded_shape[2], encoding.recon_shape[2]
    is_flat = nz > 1 and len(np.unique(heads["idx"]["kspace_encode_step_2"])) == 1
    if not is_flat or (recon_z > 1 and len(np.unique(heads["idx"]["slice"])) == 1):
        return encoding
    thickness = encoding.recon_fov_mm[2] / recon_z
    return replace(
        encoding, step_2=None, encoded_shape=(*encoding.encoded_shape[:2], 1),
        recon_shape=(*encoding.recon_shape[:2], 1),
        encoded_fov_mm=(*encoding.encoded_fov_mm[:2], thickness),
        recon_fov_mm=(*encoding.recon_fov_mm[:2], thickness),
    )
