"""Joseph's projector of a slice as a sparse matrix, applied to all slices at once.

A ray steps from row to row, or from column to column, along its steeper axis, and takes the
image between the two pixels beside it (Joseph, IEEE Trans. Med. Imaging 1 (1982), 192). One rule
for parallel and fan beams, flat and curved detectors; ASTRA's CPU has it for parallel beams only.
A product with torch's CSR matrix uses all threads; the transpose is stored as a second CSR matrix
because a product with a transposed one is an order of magnitude slower. A few slices per product
keep the gathered rows in cache.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, no_type_check

import numba
import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from medinv.operators.ct_rays import Rays

_SLICES = 16
_MAX_ENTRIES = 2**31 - 1  # the indices are 32-bit
_Shared = weakref.WeakValueDictionary[tuple[object, ...], Any]
_shared = _Shared()


def projector(rays: Rays, dtype: torch.dtype, device: torch.device,
              memory_gib: float) -> SystemMatrix | BlockByBlock:
    """The shared `SystemMatrix`, or `BlockByBlock` where that would exceed ``memory_gib``."""
    fits = matrix_bytes(rays, dtype) <= memory_gib * 2**30 and count(rays) <= _MAX_ENTRIES
    key = (rays.fingerprint(), dtype, str(device), fits, None if fits else memory_gib)
    found: SystemMatrix | BlockByBlock | None = _shared.get(key)
    if found is None:
        found = (SystemMatrix(rays, dtype, device) if fits
                 else BlockByBlock(rays, dtype, device, memory_gib))
        _shared[key] = found
    return found


def matrix_bytes(rays: Rays, dtype: torch.dtype) -> int:
    """Memory of a `SystemMatrix`: two CSR matrices with 4-byte indices."""
    entry = 4 + torch.empty((), dtype=dtype).element_size()
    return 2 * entry * count(rays) + 4 * (rays.shape[0] * rays.shape[1] + rays.start.numel() + 2)


def count(rays: Rays) -> int:
    """Number of entries of the matrix."""
    return int(_row_sizes(rays).sum())


class SystemMatrix:
    """A projector as a sparse matrix and its transpose; float32 or float64."""

    def __init__(self, rays: Rays, dtype: torch.dtype, device: torch.device) -> None:
        self.image_shape, self.sinogram_shape = rays.shape, tuple(rays.start.shape)
        matrix = build(rays, dtype)
        self.forward_csr = _to_torch(matrix).to(device)
        self.transpose_csr = _to_torch(matrix.T.tocsr()).to(device)

    def project(self, images: Tensor) -> Tensor:
        """``(n, y, x)`` to line integrals ``(n, view, col)``."""
        return _apply(self.forward_csr, images.flatten(1)).reshape(-1, *self.sinogram_shape)

    def backproject(self, sinograms: Tensor) -> Tensor:
        """The exact adjoint: ``(n, view, col)`` to ``(n, y, x)``."""
        return _apply(self.transpose_csr, sinograms.flatten(1)).reshape(-1, *self.image_shape)


class BlockByBlock:
    """The same matrix, built anew for each call, as many views at a time as memory allows."""

    def __init__(self, rays: Rays, dtype: torch.dtype, device: torch.device,
                 memory_gib: float) -> None:
        self.rays, self.dtype, self.device = rays, dtype, device
        per_view = max(matrix_bytes(rays.views(slice(view, view + 1)), dtype)
                       for view in range(rays.start.shape[0]))
        self.n_views = max(1, int(memory_gib * 2**30 / per_view))

    def project(self, images: Tensor) -> Tensor:
        """``(n, y, x)`` to line integrals ``(n, view, col)``."""
        return torch.cat([_apply(_to_torch(build(rays, self.dtype)).to(self.device),
                                 images.flatten(1)).reshape(len(images), *rays.start.shape)
                          for _, rays in self._blocks()], 1)

    def backproject(self, sinograms: Tensor) -> Tensor:
        """The exact adjoint: ``(n, view, col)`` to ``(n, y, x)``."""
        images = sinograms.new_zeros(len(sinograms), *self.rays.shape)
        for block, rays in self._blocks():
            transpose = _to_torch(build(rays, self.dtype).T.tocsr()).to(self.device)
            images.flatten(1).add_(_apply(transpose, sinograms[:, block].flatten(1)))
        return images

    def _blocks(self) -> Iterator[tuple[slice, Rays]]:
        for first in range(0, self.rays.start.shape[0], self.n_views):
            block = slice(first, first + self.n_views)
            yield block, self.rays.views(block)


@dataclass(frozen=True)
class Combination:
    """Entries ``a (1 - f), a f`` minus and plus ``b + c i``, for a ray between two pixels.

    ``f`` is the ray's fractional position at line ``i``. The projector has ``a`` its length per
    line and no others; its derivative in the ray's length, start and slope needs ``b`` and ``c``.
    """

    a: Tensor
    b: Tensor
    c: Tensor


def build(rays: Rays, dtype: torch.dtype,
          combination: Combination | None = None) -> scipy.sparse.csr_matrix:
    """The matrix of the rays, ``(view * col, y * x)``; a derivative with a ``combination``."""
    if combination is None:
        zero = torch.zeros_like(rays.length)
        combination = Combination(rays.length, zero, zero)
    starts = np.concatenate([[0], _row_sizes(rays).cumsum()])
    columns = np.empty(starts[-1], np.int32)
    values = np.empty(starts[-1], torch.empty((), dtype=dtype).numpy().dtype)
    factors = (part.detach().expand(rays.start.shape).reshape(-1).numpy()
               for part in (combination.a, combination.b, combination.c))
    _fill(*_arrays(rays), rays.shape[0], rays.shape[1], *factors, starts, columns, values)
    size = (rays.start.numel(), rays.shape[0] * rays.shape[1])
    return scipy.sparse.csr_matrix((values, columns, starts), size)


def apply(rays: Rays, images: Tensor, combination: Combination | None = None) -> Tensor:
    """Project ``(n, y, x)`` once, without keeping the matrix: ``(n, view, col)``."""
    matrix = _to_torch(build(rays, images.dtype, combination))
    return _apply(matrix, images.flatten(1)).reshape(-1, *rays.start.shape)


def apply_transpose(rays: Rays, sinograms: Tensor) -> Tensor:
    """Backproject ``(n, view, col)`` once, without keeping the matrix: ``(n, y, x)``."""
    matrix = _to_torch(build(rays, sinograms.dtype).T.tocsr())
    return _apply(matrix, sinograms.flatten(1)).reshape(-1, *rays.shape)


def _row_sizes(rays: Rays) -> NDArray[np.int64]:
    sizes = np.empty(rays.start.numel(), np.int64)
    _count(*_arrays(rays), rays.shape[0], rays.shape[1], sizes)
    return sizes


def _arrays(rays: Rays) -> tuple[NDArray[Any], ...]:
    return tuple(part.detach().reshape(-1).numpy()
                 for part in (rays.along_y, rays.start, rays.slope))


@no_type_check  # numba compiles the function as it stands, without run-time checks around it
@numba.njit(cache=True, nogil=True)
def _count(along_y, start, slope, n_y, n_x, sizes):  # noqa: ANN001, ANN202
    """Number of pixels that each ray takes."""
    for ray in range(len(sizes)):
        lines, n = (n_y, n_x) if along_y[ray] else (n_x, n_y)
        total = 0
        for line in range(lines):
            pixel = int(np.floor(start[ray] + slope[ray] * line))
            total += (0 <= pixel < n) + (0 <= pixel + 1 < n)
        sizes[ray] = total


@no_type_check
@numba.njit(cache=True, nogil=True)
def _fill(along_y, start, slope, n_y, n_x, a, b, c,  # noqa: ANN001, ANN202
          starts, columns, values):  # noqa: ANN001
    """Column and value of every entry, ray by ray."""
    for ray in range(len(starts) - 1):
        lines, n = (n_y, n_x) if along_y[ray] else (n_x, n_y)
        per_line, per_pixel = (n_x, 1) if along_y[ray] else (1, n_x)
        entry = starts[ray]
        for line in range(lines):
            position = start[ray] + slope[ray] * line
            pixel = int(np.floor(position))
            right = position - pixel
            change = b[ray] + c[ray] * line
            if 0 <= pixel < n:
                columns[entry] = line * per_line + pixel * per_pixel
                values[entry] = a[ray] * (1 - right) - change
                entry += 1
            if 0 <= pixel + 1 < n:
                columns[entry] = line * per_line + (pixel + 1) * per_pixel
                values[entry] = a[ray] * right + change
                entry += 1


def _to_torch(matrix: scipy.sparse.csr_matrix) -> Tensor:
    starts = torch.from_numpy(matrix.indptr).to(torch.int32)
    columns = torch.from_numpy(matrix.indices).to(torch.int32)
    values = torch.from_numpy(matrix.data)
    with warnings.catch_warnings():  # torch calls its CSR tensors a beta feature
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(starts, columns, values, size=matrix.shape,
                                       check_invariants=False)


def _apply(matrix: Tensor, rows: Tensor) -> Tensor:
    """``matrix`` times each row of ``rows``, ``(n, columns)`` to ``(n, rows)``."""
    out = rows.new_empty(len(rows), matrix.shape[0])
    if len(rows) == 1:
        out[0] = matrix @ rows[0]
        return out
    for first in range(0, len(rows), _SLICES):
        some = slice(first, first + _SLICES)
        out[some] = (matrix @ rows[some].T.contiguous()).T
    return out
