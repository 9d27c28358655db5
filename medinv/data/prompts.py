"""Metadata as prompts, for priors that are told what they look at.

Chung et al. 2025, "ContextMRI" (arXiv:2501.04284), write what is known of a slice as one line of
text. `fastmri_prompt` and `skm_tea_prompt` are its two schemas word for word; `slice_prompt` is
medinv's own, with plane and relative position, so that it fits any volume. A field that is not
known leaves no trace in the prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medinv.data.metadata import Metadata
from medinv.errors import DataError


def _known(pairs: Sequence[tuple[str, object]]) -> list[str]:
    """``name: value`` of every pair whose value is known; the bare value where the name is ''."""
    return [f"{name}: {value}" if name else str(value)
            for name, value in pairs if value is not None]


def _findings(pathology: Sequence[object]) -> list[str]:
    """One part with the number of each finding, in order; NaN (an empty cell) is none."""
    labels = [label for label in pathology if isinstance(label, str) and label]
    counted = ", ".join(f"{n} {label}" for label, n in Counter(labels).items())
    return [f"Pathology: {counted}"] if counted else []


def fastmri_prompt(metadata: Metadata, slice_number: int | None = None,
                   pathology: Sequence[object] = (), *, parameters: bool = True) -> str:
    """The prompt that ContextMRI writes for a fastMRI slice.

    Args:
        metadata: anatomy, contrast, sequence, TR, TE, TI and flip angle are used.
        slice_number: of the slice in its file, from 0.
        pathology: a label for each finding (fastMRI+); NaN, an empty table cell, is none.
        parameters: whether sequence and timings are told; always at test, half of the time in
            the published training.

    Example:
        >>> knee = Metadata(anatomy="knee", contrast="CORPD_FBK", sequence="TurboSpinEcho",
        ...                 tr_ms=2750.0, te_ms=27.0, flip_angle_deg=140.0)
        >>> fastmri_prompt(knee, 17, ["Cartilage", "Cartilage"])  # doctest: +NORMALIZE_WHITESPACE
        'knee, Slice 17, CORPD_FBK, Pathology: 2 Cartilage, Sequence: TurboSpinEcho, TR: 2750.0,
        TE: 27.0, Flip angle: 140.0'
    """
    parts = _known([("", metadata.anatomy), ("", _slice(slice_number)), ("", metadata.contrast)])
    parts += _findings(pathology)
    if parameters:
        parts += _known([("Sequence", metadata.sequence), ("TR", metadata.tr_ms),
                         ("TE", metadata.te_ms), ("TI", metadata.ti_ms),
                         ("Flip angle", metadata.flip_angle_deg)])
    return ", ".join(parts)


def skm_tea_prompt(metadata: Metadata, slice_number: int | None = None,
                   pathology: Sequence[object] = (), *, parameters: bool = True) -> str:
    """The prompt that ContextMRI writes for a slice of SKM-TEA (a qDESS knee).

    Args:
        metadata: age, sex, TR, TE and flip angle are used.
        slice_number: of the slice in its file, from 0.
        pathology: a label for each finding; NaN, an empty table cell, is none.
        parameters: whether timings are told.

    Example:
        >>> skm_tea_prompt(Metadata(age_years=41.0, sex="F", tr_ms=20.36, te_ms=6.428), 80)
        'Qdess, Knee, Slice 80, Age: 41, Sex: F, TR: 20.36, TE: 6.428'
    """
    age = None if metadata.age_years is None else f"{metadata.age_years:g}"
    parts = ["Qdess", "Knee", *_known([("", _slice(slice_number)), ("Age", age),
                                       ("Sex", metadata.sex)])]
    parts += _findings(pathology)
    if parameters:
        parts += _known([("TR", metadata.tr_ms), ("TE", metadata.te_ms),
                         ("Flip Angle", metadata.flip_angle_deg)])
    return ", ".join(parts)


def _slice(number: int | None) -> str | None:
    return None if number is None else f"Slice {number}"


def slice_prompt(metadata: Metadata, position: float | None = None) -> str:
    """A prompt of anatomy, contrast, plane and place, as medinv's own priors read it.

    Args:
        metadata: anatomy, contrast and plane are used.
        position: of the slice along its plane's normal in the patient, from 0 (feet, back, left)
            to 1 (head, front, right).

    Raises:
        DataError: ``position`` is not in 0..1.

    Example:
        >>> slice_prompt(Metadata(anatomy="brain", contrast="T2w", plane="axial"), 0.72)
        'brain, T2w, axial, Slice 72 of 100'
    """
    if position is not None and not 0 <= position <= 1:
        raise DataError(f"slice_prompt: expected a position from 0 to 1, got {position}; it is "
                        "the share of the volume below the slice, not the slice's number")
    place = None if position is None else f"Slice {round(100 * position)} of 100"
    return ", ".join(_known([("", metadata.anatomy), ("", metadata.contrast),
                             ("", metadata.plane), ("", place)]))


def volume_prompts(metadata: Metadata, n_slices: int, span: tuple[float, float] = (0.0, 1.0)
                   ) -> list[str]:
    """`slice_prompt` of every slice of a volume.

    Args:
        metadata: of the volume.
        n_slices: slices, in the direction of the patient's axis (RAS+, as `to_ras` turns them).
        span: where the first slice begins and the last one ends, as positions of `slice_prompt`.

    Example:
        >>> volume_prompts(Metadata(contrast="T1w"), 2)
        ['T1w, Slice 25 of 100', 'T1w, Slice 75 of 100']
    """
    low, high = span
    return [slice_prompt(metadata, low + (high - low) * (i + 0.5) / n_slices)
            for i in range(n_slices)]
