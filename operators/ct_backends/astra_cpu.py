"""ASTRA's CPU projector: as a sparse matrix for all slices at once, or slice by slice.

ASTRA works in units of a pixel, with ``y`` upwards; the values are scaled by ``pixel_mm`` and the
angles change sign, which gives the geometry of `medinv.operators.ct`. A product with torch's CSR
matrix uses all threads; the transpose is stored as a second CSR matrix because a product with a
transposed one is an order of magnitude slower. A few slices per product keep the gathered rows
in cache.
"""

from __future__ import annotations

import math
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medinv.operators.ct import ParallelGeometry, Projector

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_KERNEL = "linear"
_SLICES = 16
_Shared = weakref.WeakValueDictionary[tuple[object, ...], Projector]
_shared = _Shared()


def projector(geometry: ParallelGeometry, dtype: torch.dtype, memory_gib: float) -> Projector:
    """The shared `SystemMatrix`, or `SliceBySlice` where that would exceed ``memory_gib``."""
    fits = matrix_bytes(geometry, dtype) <= memory_gib * 2**30
    fits = fits and _matrix_entries(geometry) < 2**31
    key = (geometry, dtype, fits)
    found = _shared.get(key)
    if found is None:
        found = SystemMatrix(geometry, dtype) if fits else SliceBySlice(geometry)
        _shared[key] = found
    return found


def matrix_bytes(geometry: ParallelGeometry, dtype: torch.dtype) -> int:
    """Memory of a `SystemMatrix`: two CSR matrices with 4-byte indices."""
    pixels = math.prod(geometry.shape)
    rays = len(geometry.angles) * geometry.n_cols
    entry = 4 + torch.empty((), dtype=dtype).element_size()
    return 2 * entry * _matrix_entries(geometry) + 4 * (pixels + rays)


def _matrix_entries(geometry: ParallelGeometry) -> int:
    """Number of entries if the detector sees the whole image; otherwise an upper bound.

    A ray takes two pixels of each line that it crosses along its steeper axis.
    """
    crossings = sum(max(abs(math.cos(a)), abs(math.sin(a))) for a in geometry.angles)
    pixels = math.prod(geometry.shape)
    return math.ceil(2 * pixels * crossings * geometry.pixel_mm / geometry.col_mm)


class SystemMatrix:
    """A projector as a sparse matrix and its transpose; float32 or float64."""

    def __init__(self, geometry: ParallelGeometry, dtype: torch.dtype) -> None:
        self.image_shape = geometry.shape
        self.sinogram_shape = (len(geometry.angles), geometry.n_cols)
        matrix = _build(geometry)
        self.forward_csr = _to_torch(matrix, dtype)
        self.transpose_csr = _to_torch(matrix.T.tocsr(), dtype)

    def project(self, images: Tensor) -> Tensor:
        """``(n, y, x)`` to line integrals ``(n, view, col)``."""
        return _apply(self.forward_csr, images.flatten(1)).reshape(-1, *self.sinogram_shape)

    def backproject(self, sinograms: Tensor) -> Tensor:
        """The exact adjoint: ``(n, view, col)`` to ``(n, y, x)``."""
        return _apply(self.transpose_csr, sinograms.flatten(1)).reshape(-1, *self.image_shape)


class SliceBySlice:
    """ASTRA called once per slice: needs no memory, computes in float32."""

    def __init__(self, geometry: ParallelGeometry) -> None:
        import astra

        self.pixel_mm = geometry.pixel_mm
        self.sinogram_shape = (len(geometry.angles), geometry.n_cols)
        self.image_shape = geometry.shape
        self._id = _astra_projector(geometry)
        weakref.finalize(self, astra.projector.delete, self._id)

    def project(self, images: Tensor) -> Tensor:
        """``(n, y, x)`` to line integrals ``(n, view, col)``."""
        import astra

        return self._each(astra.create_sino, images, self.sinogram_shape)

    def backproject(self, sinograms: Tensor) -> Tensor:
        """The adjoint, with the same kernel: ``(n, view, col)`` to ``(n, y, x)``."""
        import astra

        return self._each(astra.create_backprojection, sinograms, self.image_shape)

    def _each(self, run: Any, inputs: Tensor, shape: tuple[int, int]) -> Tensor:  # noqa: ANN401
        import astra

        out = inputs.new_empty(len(inputs), *shape)
        for source, target in zip(inputs.float(), out, strict=True):
            handle, result = run(source.numpy(), self._id)
            target.copy_(torch.from_numpy(result)).mul_(self.pixel_mm)
            astra.data2d.delete(handle)
        return out


def _astra_projector(geometry: ParallelGeometry) -> int:
    import astra

    volume = astra.create_vol_geom(*geometry.shape)
    angles = [-angle for angle in geometry.angles]
    detector = astra.create_proj_geom("parallel", geometry.col_mm / geometry.pixel_mm,
                                      geometry.n_cols, angles)
    return int(astra.create_projector(_KERNEL, detector, volume))


def _build(geometry: ParallelGeometry) -> csr_matrix:
    import astra

    projector_id = _astra_projector(geometry)
    matrix_id = astra.projector.matrix(projector_id)
    matrix: csr_matrix = astra.matrix.get(matrix_id)
    astra.matrix.delete(matrix_id)
    astra.projector.delete(projector_id)
    matrix.data *= geometry.pixel_mm
    return matrix


def _to_torch(matrix: csr_matrix, dtype: torch.dtype) -> Tensor:
    starts = torch.from_numpy(matrix.indptr).to(torch.int32)
    columns = torch.from_numpy(matrix.indices).to(torch.int32)
    values = torch.from_numpy(matrix.data).to(dtype)
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
