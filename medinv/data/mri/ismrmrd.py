"""ISMRMRD raw data: readouts, each with its place in k-space and in the patient.

Cartesian readouts are put on the encoded grid: sample ``center_sample`` at index ``n // 2`` of kx,
encoding steps with the centre of their limits at ``n // 2`` of ky and kz. So partial Fourier and
asymmetric echoes leave the rest of the grid unmeasured. A reversed readout is turned around first.
Positions and directions are LPS in the file
and RAS+ here; the voxel ``n // 2`` of each axis is at ``position``.

Averages are averaged and segments joined. Navigators, phase correction and calibration lines that
are not part of the image (unless the header calls them embedded) are left out.
Source: Inati et al. 2017, ISMRM Raw data format, Magn. Reson. Med. 77, 411; https://ismrmrd.github.io.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medinv.data.mri.arrays import check_finite
from medinv.data.mri.ismrmrd_header import Encoding, Header, Limit, parse_header
from medinv.data.mri.ismrmrd_heads import readout_heads
from medinv.data.mri.ismrmrd_lines import ReversedReadouts, starts, without_kz
from medinv.data.mri.ismrmrd_place import find_place
from medinv.data.mri.kspace import KSpace
from medinv.data.mri.noncartesian import NonCartesianKSpace, cycles_per_field
from medinv.data.safety import check_memory, hdf5_array, hdf5_dataset, open_hdf5
from medinv.errors import DataError, MedinvWarning

if TYPE_CHECKING:
    import h5py

_Array = np.ndarray[Any, np.dtype[Any]]
CHOICES = ("slice", "contrast", "phase", "repetition", "set", "average")
_MERGED = ("slice", "average")
_NOISE, _CALIBRATION, _CALIBRATION_AND_IMAGE, _REVERSE = 19, 20, 21, 22
_NOT_IMAGE = (23, 24, 26, 27, 28, 29, 30, 31)  # navigation, phase correction, dummies...
_ROWS_AT_ONCE = 512
_COMPLEX_BYTES = 8


def read_ismrmrd(
    path: str | Path,
    *,
    select: Mapping[str, int] | None = None,
    encoding: int = 0,
    group: str = "dataset",
    reversed_readouts: ReversedReadouts = "auto",
) -> KSpace | NonCartesianKSpace:
    """Read one k-space of an ISMRMRD file (.h5).

    Args:
        path: an HDF5 file.
        select: counters to choose, such as ``{"contrast": 1, "repetition": 0}``; of ``slice``,
            ``contrast``, ``phase``, ``repetition``, ``set`` and ``average``. All slices are read
            and averages are averaged unless chosen here; the others must be chosen where the file
            holds several.
        encoding: index of the encoding space.
        group: of the HDF5 file.
        reversed_readouts: where the centre of readouts with ``ACQ_IS_REVERSE`` is, see
            `medinv.data.mri.ismrmrd_lines`; ``auto`` takes what the headers allow.

    Returns:
        `KSpace` with rows ky and readouts along kx, or `NonCartesianKSpace` where the header
        names another trajectory than Cartesian. Noise scans are kept in ``noise``, in the
        bandwidth of the data, for `KSpace.prewhitened`.

    Raises:
        DataError: no such file or group, damaged, no such readouts, several k-spaces and none
            chosen, readouts beyond the encoded matrix or whose centre is not clear, or slices that
            are not equidistant.

    >>> read_ismrmrd("nothing.h5")
    Traceback (most recent call last):
    medinv.errors.DataError: nothing.h5: expected an HDF5 file, found no file; check the path
    """
    path = Path(path)
    with open_hdf5(path) as file:
        header = parse_header(_first(hdf5_array(file, f"{group}/xml", path), path), path)
        stored = hdf5_dataset(file, f"{group}/data", path)
        heads = readout_heads(stored, path)
        rows = _choose(heads, header, encoding, select or {}, path)
        data = _samples(stored, heads, rows, path)
        noise = _noise(stored, heads, rows, path)
        flat = without_kz(header.encodings[encoding], heads[rows])
        scan = _Scan(path, flat, heads[rows], data, noise, reversed_readouts)
        is_grid = scan.encoding.trajectory.lower() in ("cartesian", "epi")
        trajectory = [] if is_grid else _trajectories(stored, heads, rows, path)
    for note in scan.encoding.notes:
        warnings.warn(f"{path}: {note}", MedinvWarning, stacklevel=2)
    return _cartesian(scan, header) if is_grid else _non_cartesian(scan, header, trajectory)


def read_heads(path: str | Path, group: str = "dataset") -> tuple[Header, _Array, _Array]:
    """The header, the headers of all readouts, and which of them are of the image.

    Raises:
        DataError: no such file or group, or damaged.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        header = parse_header(_first(hdf5_array(file, f"{group}/xml", path), path), path)
        heads = readout_heads(hdf5_dataset(file, f"{group}/data", path), path)
    return header, heads, ~_flagged(heads, _NOISE, *_NOT_IMAGE)


def is_ismrmrd(path: str | Path, group: str = "dataset") -> bool:
    """Whether an HDF5 file holds ISMRMRD's group of raw data.

    Raises:
        DataError: no such file, or not HDF5.
    """
    with open_hdf5(path) as file:
        return group in file and "kspace" not in file


@dataclass(frozen=True, eq=False)
class _Scan:
    """The chosen readouts: ``data`` has one array (coil, sample) for each head."""

    path: Path
    encoding: Encoding
    heads: _Array
    data: list[_Array]
    noise: Tensor | None
    reversed_readouts: ReversedReadouts


def _first(xml: _Array, path: Path) -> bytes | str:
    text = xml.ravel()[0]
    if not isinstance(text, bytes | str):
        raise DataError(f"{path}: expected the ISMRMRD header as text, found {xml.dtype}; export "
                        "the file again")
    return text


def _flagged(heads: _Array, *flags: int) -> _Array:
    wanted = np.uint64(sum(1 << (flag - 1) for flag in flags))
    found: _Array = (heads["flags"].astype(np.uint64) & wanted) != 0
    return found


def _choose(heads: _Array, header: Header, encoding: int, select: Mapping[str, int],
            path: Path) -> _Array:
    """Indices of the image's readouts."""
    if not 0 <= encoding < len(header.encodings):
        raise DataError(f"{path}: expected an encoding below {len(header.encodings)}, got "
                        f"{encoding}")
    unknown = set(select) - set(CHOICES)
    if unknown:
        raise DataError(f"{path}: cannot select by {', '.join(sorted(unknown))}; choose among "
                        f"{', '.join(CHOICES)}")
    wanted = ~_flagged(heads, _NOISE, *_NOT_IMAGE) & (heads["encoding_space_ref"] == encoding)
    if header.encodings[encoding].calibration != "embedded":
        wanted &= ~_flagged(heads, _CALIBRATION) | _flagged(heads, _CALIBRATION_AND_IMAGE)
    for name in CHOICES:
        held = np.unique(heads["idx"][name][wanted])
        if name in select:
            wanted &= heads["idx"][name] == select[name]
        elif len(held) > 1 and name not in _MERGED:
            raise DataError(f"{path}: the file holds {len(held)} of {name} ({held[0]} to "
                            f"{held[-1]}); choose one, as in select={{{name!r}: {held[0]}}}")
        if not wanted.any():
            raise DataError(f"{path}: no readouts of the image with {dict(select)}; {name} goes "
                            f"from {held.min(initial=0)} to {held.max(initial=0)}")
    rows: _Array = np.flatnonzero(wanted)
    return rows


def _vectors(stored: h5py.Dataset, field: str, rows: _Array) -> list[_Array]:
    """``field`` of some readouts, read in blocks."""
    vectors: list[_Array] = []
    for start in range(0, stored.shape[0], _ROWS_AT_ONCE):
        inside = rows[(rows >= start) & (rows < start + _ROWS_AT_ONCE)] - start
        if len(inside):
            block = stored.fields(field)[start:start + _ROWS_AT_ONCE]
            vectors += [np.asarray(block[i], np.float32) for i in inside]
    return vectors


def _samples(stored: h5py.Dataset, heads: _Array, rows: _Array, path: Path) -> list[_Array]:
    """(coil, sample) of each readout, in the order of acquisition."""
    n_coils = np.unique(heads["active_channels"][rows])
    lengths = heads["number_of_samples"][rows].astype(np.int64)
    if len(n_coils) != 1:
        raise DataError(f"{path}: expected readouts with the same coils, found {n_coils.tolist()} "
                        "coils; export the coils' data apart")
    check_memory(path, (int(lengths.sum()), int(n_coils[0])), 2 * _COMPLEX_BYTES)
    result = []
    for n, vector in zip(lengths, _vectors(stored, "data", rows), strict=True):
        if vector.size != 2 * n * n_coils[0]:
            raise DataError(f"{path}: a readout declares {n} samples of {n_coils[0]} coils but "
                            f"holds {vector.size // 2} numbers; the file is damaged")
        result.append(vector.view(np.complex64).reshape(int(n_coils[0]), int(n)))
    return result


def _noise(stored: h5py.Dataset, heads: _Array, rows: _Array, path: Path) -> Tensor | None:
    """(coil, sample) of the noise scans; its deviation goes with the root of the bandwidth."""
    chosen = np.flatnonzero(_flagged(heads, _NOISE))
    if not len(chosen):
        return None
    dwell = heads["sample_time_us"][chosen], heads["sample_time_us"][rows[:1]]
    scale = np.sqrt(dwell[0] / dwell[1]) if min(map(np.min, dwell)) > 0 else np.ones(len(chosen))
    parts = _samples(stored, heads, chosen, path)
    joined = np.concatenate([p * np.float32(s) for p, s in zip(parts, scale, strict=True)], 1)
    noise = torch.from_numpy(joined)
    check_finite(noise, path, "noise")
    return noise


def _cartesian(scan: _Scan, header: Header) -> KSpace:
    nx, ny, nz = scan.encoding.encoded_shape
    place = find_place(scan.heads, scan.encoding, scan.path)
    n_coils = len(scan.data[0])
    shape = (len(place.slices), n_coils, nz, ny, nx)
    check_memory(scan.path, shape, 2 * _COMPLEX_BYTES)
    data = np.zeros(shape, np.complex64)
    count = np.zeros((shape[0], *shape[2:]), np.int32)
    ky = _steps(scan, "kspace_encode_step_1", scan.encoding.step_1, ny)
    kz = _steps(scan, "kspace_encode_step_2", scan.encoding.step_2, nz)
    where = {index: i for i, index in enumerate(place.slices)}
    turned = _flagged(scan.heads, _REVERSE)
    kx = starts(scan.heads, turned, nx, scan.reversed_readouts, scan.path)
    for i, (head, y, z) in enumerate(zip(scan.heads, ky, kz, strict=True)):
        line = _line(head, scan.data[i], bool(turned[i]))
        x = slice(int(kx[i]), int(kx[i]) + line.shape[1])
        s = where[int(head["idx"]["slice"])]
        data[s, :, z, y, x] += line
        count[s, z, y, x] += 1
    data /= np.maximum(count, 1)[:, None]
    if nz == 1:
        data, count = data[:, :, 0], count[:, 0]
    measured, mask = torch.from_numpy(data), torch.from_numpy(count > 0)
    check_finite(measured, scan.path, "k-space")
    same = bool((mask == mask[:1]).all())
    return KSpace(
        measured, mask[0] if same else mask, _facts(scan.encoding), place.voxel_mm,
        header.acquisition, place.affine, scan.encoding.recon_shape[::-1],
        scan.encoding.recon_fov_mm[::-1], readout_axis=-1, noise=scan.noise,
    )


def _line(head: np.void, samples: _Array, turned: bool) -> _Array:
    """The kept samples of a readout in the direction of kx."""
    n = samples.shape[1]
    kept = samples[:, int(head["discard_pre"]):n - int(head["discard_post"])]
    return kept[:, ::-1] if turned else kept


def _steps(scan: _Scan, name: str, limit: Limit | None, n: int) -> list[int]:
    centre = n // 2 if limit is None else limit.center
    steps: _Array = scan.heads["idx"][name].astype(np.int64) - centre + n // 2
    if n == 1:
        return [0] * len(steps)
    if steps.min() < 0 or steps.max() >= n:
        raise DataError(f"{scan.path}: {name} goes from {steps.min()} to {steps.max()} of the "
                        f"encoded matrix of {n}, its centre at {centre}; correct the header")
    return [int(step) for step in steps]


def _trajectories(stored: h5py.Dataset, heads: _Array, rows: _Array, path: Path) -> list[_Array]:
    """(sample, dimension) of each readout."""
    result = []
    for row, vector in zip(rows, _vectors(stored, "traj", rows), strict=True):
        n, ndim = int(heads["number_of_samples"][row]), int(heads["trajectory_dimensions"][row])
        if ndim < 2 or vector.size != n * ndim:
            raise DataError(f"{path}: a non-Cartesian readout of {n} samples holds {vector.size} "
                            f"coordinates in {ndim} dimension(s); write the trajectory into the "
                            "file")
        result.append(vector.reshape(n, ndim))
    return result


def _non_cartesian(scan: _Scan, header: Header, trajectory: list[_Array]) -> NonCartesianKSpace:
    encoding = scan.encoding
    ndim = 3 if encoding.encoded_shape[2] > 1 else 2
    place = find_place(scan.heads, encoding, scan.path, grid=encoding.recon_shape,
                       field=encoding.recon_fov_mm)
    order = scan.heads["idx"]["slice"]
    shots = [np.flatnonzero(order == index) for index in place.slices]
    lengths = {samples.shape for samples in scan.data}
    if len({len(rows) for rows in shots}) != 1 or len(lengths) != 1:
        raise DataError(f"{scan.path}: expected equally many and equally long readouts in every "
                        "slice; choose one with select={'slice': 0}")
    paths = np.stack([np.stack([trajectory[i][:, :ndim] for i in rows]) for rows in shots])
    if len(paths) > 1 and not np.allclose(paths, paths[:1], atol=1e-6):
        raise DataError(f"{scan.path}: the slices have different trajectories; choose one with "
                        "select={'slice': 0}")
    data = np.stack([np.stack([scan.data[i] for i in rows], 1) for rows in shots])
    samples = torch.from_numpy(data)
    check_finite(samples, scan.path, "k-space")
    check_finite(torch.from_numpy(paths[0]), scan.path, "trajectory")
    return NonCartesianKSpace(
        samples, cycles_per_field(torch.from_numpy(paths[0]), encoding, scan.path),
        place.grid, _facts(encoding), place.voxel_mm, header.acquisition, place.affine,
        scan.noise,
    )


def _facts(encoding: Encoding) -> dict[str, object]:
    return {"trajectory": encoding.trajectory, "encoded_shape": encoding.encoded_shape[::-1],
            "recon_shape": encoding.recon_shape[::-1], "notes": encoding.notes}

