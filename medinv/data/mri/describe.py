"""What a raw MRI file holds, for people: matrix, field of view, coils, counters; no samples."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from medinv.data.mri.bart import cfl_sizes
from medinv.data.mri.fastmri import REFERENCES, FastMRIFile
from medinv.data.mri.ismrmrd import CHOICES, read_heads
from medinv.data.mri.ismrmrd_header import Encoding

Facts = dict[str, object]

_MATRIX, _FIELD = "matrix (x, y, z)", "field of view (x, y, z), mm"


def fastmri_facts(path: Path) -> Facts:
    """Sizes of a fastMRI-layout file, and whether it holds a mask and a reference."""
    with FastMRIFile(path) as scan:
        slices, coils, ky, kx = scan.shape
        facts: Facts = {"slices": slices, "coils": coils, "k-space (ky, kx)": [ky, kx]}
        held = [name for name in ("mask", *REFERENCES) if name in scan.names]
        if scan.encoding is not None:
            facts |= _spaces(scan.encoding)
        return {**facts, "beside k-space": held, **scan.acquisition.known(),
                "findings": list(scan.encoding.notes if scan.encoding else ())}


def ismrmrd_facts(path: Path) -> Facts:
    """Of an ISMRMRD file: what was encoded, and what there is to choose from."""
    header, heads, is_image = read_heads(path)
    image = heads[is_image]
    held = {name: len(np.unique(image["idx"][name])) for name in CHOICES}
    facts: Facts = {
        "readouts of the image": len(image), "other readouts": len(heads) - len(image),
        "coils": int(image["active_channels"].max(initial=0)),
        "samples of a readout": int(image["number_of_samples"].max(initial=0)),
        "slices": held.pop("slice"), **{f"{name}s": n for name, n in held.items() if n > 1},
    }
    findings: list[str] = []
    for i, encoding in enumerate(header.encodings):
        several = f" of encoding {i}" if len(header.encodings) > 1 else ""
        spaces = {"trajectory": encoding.trajectory, **_spaces(encoding)}
        facts |= {f"{name}{several}": value for name, value in spaces.items()}
        findings += encoding.notes
    return {**facts, **header.acquisition.known(), "findings": findings}


def bart_facts(path: Path) -> Facts:
    """The dimensions of a BART file, and what they are of k-space."""
    sizes = cfl_sizes(path)
    facts: Facts = {"arrays": {"": ", ".join(f"{name} {n}" for name, n in sizes.items() if n > 1)}}
    return {**facts, _MATRIX: [sizes[name] for name in "xyz"], "coils": sizes["coil"],
            _FIELD: "the file does not say"}


def array_facts(shape: Iterable[int], dtype: str) -> Facts:
    """What an array would be read as, where it can be k-space."""
    sizes = list(shape)
    if "complex" not in dtype or len(sizes) not in (3, 4):
        return {}
    *slices, coils, ky, kx = sizes
    return {"as k-space (coil, ky, kx)": f"{slices[0] if slices else 1} slice(s), {coils} coils, "
                                         f"matrix {ky} x {kx}; other axes are declared by `axes`"}


def _spaces(encoding: Encoding) -> Facts:
    return {
        f"encoded {_MATRIX}": list(encoding.encoded_shape),
        f"encoded {_FIELD}": _rounded(encoding.encoded_fov_mm),
        f"image {_MATRIX}": list(encoding.recon_shape),
        f"image {_FIELD}": _rounded(encoding.recon_fov_mm),
    }


def _rounded(lengths: tuple[float, float, float]) -> list[float]:
    return [round(mm, 3) for mm in lengths]
