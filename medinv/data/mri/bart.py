"""BART's ``.cfl`` and ``.hdr``: complex64 in column-major order, with 16 named dimensions.

BART counts its dimensions from the one that changes fastest: readout, phase 1, phase 2, coil,
maps... Read backwards they are medinv's axes, ``(..., coil, kz, ky, kx)``. BART's unitary centred
Fourier transform (``bart fft -u``) is medinv's. The files say nothing of sizes in mm.
Source: https://mrirecon.github.io/bart (Uecker et al., Berkeley Advanced Reconstruction Toolbox).
"""

from __future__ import annotations

import os
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medinv.data.atomic import replacing
from medinv.data.safety import check_memory
from medinv.errors import DataError

_DIMENSIONS = 16
_NUMBER_OF = {
    "kx": 0, "x": 0, "ky": 1, "y": 1, "kz": 2, "z": 2, "coil": 3, "map": 4, "echo": 5,
    "coefficient": 6, "coefficient2": 7, "iteration": 8, "shift": 9, "time": 10, "time2": 11,
    "level": 12, "slice": 13, "average": 14, "batch": 15,
}
_NAMES = ("x", "y", "z", "coil", "map", "echo", "coefficient", "coefficient2", "iteration",
          "shift", "time", "time2", "level", "slice", "average", "batch")
_MAX_HEADER = 65536
SUFFIXES = (".cfl", ".hdr")


def read_cfl(path: str | Path, axes: str) -> Tensor:
    """The array of a BART file.

    Args:
        path: ``name.cfl`` (or ``name``, or ``name.hdr``).
        axes: the axes wanted, such as ``"slice coil ky kx"``; every other is of size 1.

    Returns:
        complex64, its axes in that order.

    Raises:
        DataError: a missing file, sizes that don't fit the file or the memory, unknown axes, or
            an axis of more than one element that is not named.

    >>> import tempfile
    >>> name = Path(tempfile.mkdtemp(), "image.cfl")
    >>> write_cfl(torch.arange(6.0).reshape(2, 3) + 0j, name, "y x")
    >>> read_cfl(name, "x y").real.tolist()
    [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    """
    base = cfl_base(path)
    numbers = _numbers(axes)
    shape = _shape(base)
    left_out = [f"{_NAMES[i]} ({n})" for i, n in enumerate(shape) if n > 1 and i not in numbers]
    if left_out:
        raise DataError(f"{base}.cfl: expected only {axes}, found also {', '.join(left_out)}; "
                        "name all axes, or take a part with `bart slice`")
    file = Path(f"{base}.cfl")
    if not file.is_file():
        raise DataError(f"{file}: expected BART's numbers beside {base}.hdr, found no file")
    n_bytes = os.path.getsize(file)
    if n_bytes != 8 * prod(shape):
        raise DataError(f"{file}: expected {8 * prod(shape)} bytes for the sizes {shape} of the "
                        f"header, found {n_bytes}; the file is cut off or has another header")
    check_memory(file, shape, itemsize=16)
    array = np.fromfile(file, "<c8").reshape(shape[::-1])
    order = [_DIMENSIONS - 1 - number for number in numbers]
    others = [axis for axis in range(_DIMENSIONS) if axis not in order]
    moved = array.transpose([*others, *order]).reshape([shape[number] for number in numbers])
    return torch.from_numpy(np.ascontiguousarray(moved.astype(np.complex64, copy=False)))


def write_cfl(array: Tensor, path: str | Path, axes: str) -> None:
    """Write an array for BART, each of its two files atomically.

    Args:
        array: real or complex; written as complex64.
        path: ``name.cfl`` (or ``name``); ``name.hdr`` is written beside it.
        axes: of ``array``, such as ``"coil ky kx"``.

    Raises:
        DataError: unknown axes, or another number of them than the array has.
        OutputError: a file could not be written.
    """
    base, numbers = cfl_base(path), _numbers(axes)
    if len(numbers) != array.ndim:
        raise DataError(f"{base}.cfl: the axes are {axes!r} but the array is "
                        f"{tuple(array.shape)}; name each axis")
    order = sorted(range(array.ndim), key=lambda axis: -numbers[axis])
    data = array.detach().cpu().resolve_conj().permute(order).to(torch.complex64).contiguous()
    sizes = [1] * _DIMENSIONS
    for number, n in zip(numbers, array.shape, strict=True):
        sizes[number] = n
    with replacing(f"{base}.cfl") as temporary:
        data.numpy().astype("<c8", copy=False).tofile(temporary)
    with replacing(f"{base}.hdr") as temporary:
        temporary.write_text(f"# Dimensions\n{' '.join(map(str, sizes))}\n")


def cfl_sizes(path: str | Path) -> dict[str, int]:
    """The sizes of BART's 16 dimensions, by name; only the header is read.

    Raises:
        DataError: no header, or a broken one.
    """
    return dict(zip(_NAMES, _shape(cfl_base(path)), strict=True))


def cfl_base(path: str | Path) -> Path:
    """The name of a BART file without its ending, which may be left out.

    >>> str(cfl_base("scan.cfl")), str(cfl_base("scan.v2"))
    ('scan', 'scan.v2')
    """
    path = Path(path)
    return path.with_suffix("") if path.suffix in SUFFIXES else path


def cfl_files(path: str | Path) -> list[Path]:
    """The two files of a BART name, whether they are there or not."""
    return [Path(f"{cfl_base(path)}{end}") for end in SUFFIXES]


def is_cfl(path: str | Path) -> bool:
    """Whether a name is one of BART's: with its ending, or without and both files are there."""
    return Path(path) != cfl_base(path) or all(file.is_file() for file in cfl_files(path))


def _numbers(axes: str) -> list[int]:
    names = axes.split()
    unknown = [name for name in names if name not in _NUMBER_OF]
    if unknown or not names:
        raise DataError(f"axes: {axes!r} has {', '.join(unknown) or 'no names'}; BART's are "
                        f"{', '.join(_NUMBER_OF)}")
    numbers = [_NUMBER_OF[name] for name in names]
    if len(set(numbers)) != len(numbers):
        raise DataError(f"axes: {axes!r} names an axis twice")
    return numbers


def _shape(base: Path) -> list[int]:
    file = Path(f"{base}.hdr")
    if not file.is_file():
        raise DataError(f"{file}: expected BART's header, found no file; keep .cfl and .hdr "
                        "together")
    with file.open(encoding="utf-8", errors="replace") as stream:
        lines = stream.read(_MAX_HEADER).splitlines()
    after = lines.index("# Dimensions") + 1 if "# Dimensions" in lines else len(lines)
    words = lines[after].split() if after < len(lines) else []
    if not 1 <= len(words) <= _DIMENSIONS or not all(w.isdecimal() and int(w[:19]) for w in words):
        raise DataError(f"{file}: expected '# Dimensions' and then 1 to {_DIMENSIONS} positive "
                        f"sizes, found {' '.join(words)[:80]!r}; write it again with BART")
    return [int(word[:19]) for word in words] + [1] * (_DIMENSIONS - len(words))
