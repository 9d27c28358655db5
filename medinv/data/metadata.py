"""What is known of how an image was acquired, in one type for every file format.

`Metadata` holds what a prior can be conditioned on, and nothing that names a person. Its fields
cover both prompts of ContextMRI (Chung et al. 2025, arXiv:2501.04284): anatomy, contrast,
sequence, TR, TE, TI and flip angle for fastMRI; age, sex, TR, TE and flip angle for SKM-TEA. The
slice number comes from the volume, findings from a radiologist. Every reader fills what its header
says; a field that is not known is None, never a guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from medinv.errors import DataError

_PLANES = ("sagittal", "coronal", "axial")
_SEXES = ("F", "M", "O")


@dataclass(frozen=True)
class Metadata:
    """How an image was acquired; every field may be None, and none identifies a person.

    Attributes:
        modality: as DICOM names it (``MR``, ``CT``, ``PT``...).
        manufacturer: of the scanner.
        model: of the scanner.
        field_strength_t: main magnetic field, tesla.
        anatomy: body part, in lower case (``brain``, ``knee``...).
        sequence: its kind (``TurboSpinEcho``, ``GR``...).
        contrast: weighting (``T1w``, ``T2w``, ``PDw``, ``FLAIR``; with ``FS`` where fat is
            suppressed, as in ``PDwFS``).
        tr_ms: repetition time.
        te_ms: echo time; the first, where there are several in one image.
        ti_ms: inversion time.
        flip_angle_deg: of the excitation.
        b_value_s_mm2: diffusion weighting.
        plane: ``axial``, ``coronal`` or ``sagittal``: the nearest to the slices.
        slice_thickness_mm: of the slice profile, which is not the distance between slices.
        kvp: peak voltage of the X-ray tube.
        tube_current_ma: of the X-ray tube.
        kernel: reconstruction kernel of a CT.
        patient_position: as DICOM names it (``HFS``: head first, supine).
        age_years: of the patient, at the scan.
        sex: ``F``, ``M`` or ``O``.

    Raises:
        DataError: a number is negative or not finite, or a plane or sex has another name.

    >>> Metadata(modality="MR", anatomy="knee", tr_ms=2750.0).known()
    {'modality': 'MR', 'anatomy': 'knee', 'tr_ms': 2750.0}
    """

    modality: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    field_strength_t: float | None = None
    anatomy: str | None = None
    sequence: str | None = None
    contrast: str | None = None
    tr_ms: float | None = None
    te_ms: float | None = None
    ti_ms: float | None = None
    flip_angle_deg: float | None = None
    b_value_s_mm2: float | None = None
    plane: str | None = None
    slice_thickness_mm: float | None = None
    kvp: float | None = None
    tube_current_ma: float | None = None
    kernel: str | None = None
    patient_position: str | None = None
    age_years: float | None = None
    sex: str | None = None

    def __post_init__(self) -> None:
        for name, value in self.known().items():
            if isinstance(value, float) and not 0 <= value < math.inf:
                raise DataError(f"Metadata: expected a finite {name} of at least 0, got {value}; "
                                "leave out what is not known")
        for name, allowed in (("plane", _PLANES), ("sex", _SEXES)):
            value = getattr(self, name)
            if value not in (None, *allowed):
                raise DataError(f"Metadata: expected {name} as one of {', '.join(allowed)}, got "
                                f"{value!r}; leave out what is not known")

    def known(self) -> dict[str, str | float]:
        """The fields that are not None, in order."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if value is not None}


def contrast_of(name: str) -> str | None:
    """The weighting that a protocol's or sequence's name states, None where it states none.

    >>> contrast_of("CORPDFS_FBK"), contrast_of("AXT1POST"), contrast_of("t2_tse_dark-fluid_tra")
    ('PDwFS', 'T1w', 'FLAIR')
    >>> contrast_of("localizer") is None
    True
    """
    text = name.upper()
    if re.search(r"FLAIR|DARK.?FLUID", text):
        return "FLAIR"
    weighting = re.search(r"T1(?!RHO)|T2(?!\*|.?STAR)|(?<![A-Z])PD|(?<=AX|OR|AG)PD|MPRAGE|DESS",
                          text)
    if weighting is None:
        return None
    word = {"MPRAGE": "T1w", "DESS": "T2w"}.get(weighting[0], f"{weighting[0]}w")
    fat_suppressed = re.search(r"PDFS|(?<![A-Z])(FS|FATSAT|SPAIR|STIR)(?![A-Z])", text)
    return f"{word}FS" if fat_suppressed else word


def nearest_plane(normal: Sequence[float]) -> str:
    """The plane whose normal (x, y, z in the patient) is the nearest.

    >>> nearest_plane((0.1, 0.0, -0.99))
    'axial'
    """
    sizes = [abs(component) for component in normal]
    return _PLANES[sizes.index(max(sizes))]
