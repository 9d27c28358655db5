"""Joseph's projector for any CT geometry on the CPU, and its exact transpose.

A ray steps from slice to slice of the volume along its steepest axis and interpolates linearly in
the two others; a voxel outside the volume counts as 0 (Joseph, IEEE Trans. Med. Imaging 1 (1982),
192). The transpose scatters along the same rays with the same weights. Each thread owns a block of
the volume and follows every ray through it alone, so nothing but the result is allocated, and
every voxel sums in the same order, whatever the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, no_type_check

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medinv.operators.ct_detector import column_places
from medinv.operators.ct_geometry import CTGeometry

_Array = NDArray[Any]
_MARGIN = 1e-6  # voxels; far above rounding, so that the unchecked loop stays inside
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy")


class Rays(NamedTuple):
    """The rays of all views, in units of voxels, components ``(x, y, z)``.

    In view ``v`` the ray of row ``r`` and column ``c`` is ``origins[v, c] + r origin_rows[v] + t
    (directions[v, c] + r direction_rows[v])`` with ``t > start``, which covers parallel beams,
    flat and curved detectors alike.
    """

    origins: _Array
    origin_rows: _Array
    directions: _Array
    direction_rows: _Array
    start: float
    sizes: _Array
    voxel_mm: _Array


class Path(NamedTuple):
    """A ray through a box: it is at ``offset + slope i`` in axes ``a`` and ``b`` at step ``i``.

    Step ``i`` is slice ``i`` of axis ``m``. Steps ``[first, last)`` touch the box, and
    ``[begin, end)`` have all four neighbours in it.
    """

    m: int
    a: int
    b: int
    step_mm: float
    offset_a: float
    slope_a: float
    offset_b: float
    slope_b: float
    first: int
    begin: int
    end: int
    last: int


class JosephProjector:
    """Projects volumes of one geometry, float32 or float64."""

    def __init__(self, geometry: CTGeometry) -> None:
        self.geometry = geometry
        self._rays = _rays(geometry)

    def project(self, volumes: Tensor) -> Tensor:
        """``(n, z, y, x)`` to line integrals ``(n, view, row, col)``."""
        g = self.geometry
        out = volumes.new_empty(len(volumes), g.n_views, g.n_rows, g.n_cols)
        inputs, outputs = volumes.contiguous().flatten(1).numpy(), out.numpy()
        n = math.ceil(g.n_views / (8 * torch.get_num_threads()))
        _run(lambda item, view: _forward(inputs[item], self._rays, view,
                                         outputs[item, view: view + n]),
             ((item, view) for item in range(len(out)) for view in range(0, g.n_views, n)))
        return out

    def backproject(self, projections: Tensor) -> Tensor:
        """The exact adjoint: ``(n, view, row, col)`` to ``(n, z, y, x)``."""
        out = projections.new_zeros(len(projections), *self.geometry.shape)
        inputs, outputs = projections.contiguous().numpy(), out.flatten(1).numpy()
        blocks = _blocks(self._rays.sizes, torch.get_num_threads())
        _run(lambda item, low, high: _adjoint(outputs[item], self._rays, low, high, inputs[item]),
             ((item, low, high) for item in range(len(out)) for low, high in blocks))
        return out


def _run(task: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
    """Call ``task`` with each set of arguments, in torch's number of threads."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(lambda each: task(*each), arguments):
            pass


def _blocks(sizes: _Array, n: int) -> list[tuple[_Array, _Array]]:
    """The volume in up to ``n`` boxes ``[low, high)``, cut along z, or y where z is short."""
    axis = 2 if sizes[2] >= n else 1
    edges = np.unique(np.linspace(0, sizes[axis], n + 1).astype(int))
    boxes = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        low, high = np.zeros_like(sizes), sizes.copy()
        low[axis], high[axis] = start, stop
        boxes.append((low, high))
    return boxes


def _rays(geometry: CTGeometry) -> Rays:
    cols = torch.arange(geometry.n_cols, dtype=torch.float64) - (geometry.n_cols - 1) / 2
    first_row = (geometry.n_rows - 1) / 2 * geometry.row_axes[:, None]
    places = column_places(geometry, cols) - first_row
    sources = geometry.sources[:, None].expand_as(places)
    rows, none = geometry.row_axes, torch.zeros_like(geometry.row_axes)
    if geometry.parallel:
        origins, origin_rows, directions, direction_rows = places, rows, sources, none
    else:
        origins, origin_rows, directions, direction_rows = sources, none, places - sources, rows
    voxel = torch.tensor(geometry.voxel_mm[::-1], dtype=torch.float64)
    sizes = torch.tensor(geometry.shape[::-1])
    return Rays((origins / voxel + (sizes - 1) / 2).numpy(), (origin_rows / voxel).numpy(),
                (directions / voxel).numpy(), (direction_rows / voxel).numpy(),
                -math.inf if geometry.parallel else 0.0, sizes.numpy(), voxel.numpy())


@no_type_check  # here and below: numba compiles functions as they stand, without run-time checks
@_compiled
def _steps(first: int, last: int, offset: float, slope: float, low: float,
           high: float) -> tuple[int, int]:
    """The steps ``i`` of ``[first, last)`` with ``low <= offset + slope i <= high``."""
    if slope == 0.0:
        return (first, last) if low <= offset <= high else (first, first)
    one, other = (low - offset) / slope, (high - offset) / slope
    begin = math.ceil(min(max(min(one, other), first), last))
    end = math.floor(max(min(max(one, other), last - 1), first - 1)) + 1
    return begin, max(begin, end)


@no_type_check
@_compiled
def _axes(x: float, y: float, z: float) -> tuple[int, int, int]:
    """The steepest axis of a direction, then the others."""
    if abs(x) >= abs(y) and abs(x) >= abs(z):
        return 0, 1, 2
    if abs(y) >= abs(z):
        return 1, 0, 2
    return 2, 0, 1


@no_type_check
@_compiled
def _path(rays: Rays, view: int, row: int, col: int, low: _Array, high: _Array) -> Path:
    """The path of a ray through the box ``[low, high)``."""
    x = rays.directions[view, col, 0] + row * rays.direction_rows[view, 0]
    y = rays.directions[view, col, 1] + row * rays.direction_rows[view, 1]
    z = rays.directions[view, col, 2] + row * rays.direction_rows[view, 2]
    m, a, b = _axes(x, y, z)
    direction = (x, y, z)
    dm = direction[m]
    slope_a, slope_b = direction[a] / dm, direction[b] / dm
    origin = rays.origins[view, col, m] + row * rays.origin_rows[view, m]
    offset_a = (rays.origins[view, col, a] + row * rays.origin_rows[view, a]) - origin * slope_a
    offset_b = (rays.origins[view, col, b] + row * rays.origin_rows[view, b]) - origin * slope_b
    length = math.sqrt((x * rays.voxel_mm[0])**2 + (y * rays.voxel_mm[1])**2
                       + (z * rays.voxel_mm[2])**2)
    first, last = _steps(low[m], high[m], -origin / dm, 1 / dm, rays.start, math.inf)
    first, last = _steps(first, last, offset_a, slope_a, low[a] - 1 - _MARGIN, high[a] + _MARGIN)
    first, last = _steps(first, last, offset_b, slope_b, low[b] - 1 - _MARGIN, high[b] + _MARGIN)
    begin, end = _steps(first, last, offset_a, slope_a, low[a] + _MARGIN, high[a] - 1 - _MARGIN)
    begin, end = _steps(begin, end, offset_b, slope_b, low[b] + _MARGIN, high[b] - 1 - _MARGIN)
    return Path(m, a, b, length / abs(dm), offset_a, slope_a, offset_b, slope_b, first, begin, end,
                last)


@no_type_check
@_compiled
def _forward(x: _Array, rays: Rays, first_view: int, y: _Array) -> None:
    """Line integrals of the flat volume ``x`` into ``y`` ``(view, row, col)``."""
    strides = (1, rays.sizes[0], rays.sizes[0] * rays.sizes[1])
    low, high = np.zeros_like(rays.sizes), rays.sizes
    for v in range(y.shape[0]):
        for r in range(y.shape[1]):
            for c in range(y.shape[2]):
                p = _path(rays, first_view + v, r, c, low, high)
                sm, sa, sb = strides[p.m], strides[p.a], strides[p.b]
                oa, ga, ob, gb = p.offset_a, p.slope_a, p.offset_b, p.slope_b
                total = _edge_sum(x, p, strides, low, high, p.first, p.begin)
                for i in range(p.begin, p.end):
                    at_a, at_b = oa + ga * i, ob + gb * i
                    ia, ib = int(at_a), int(at_b)
                    wa, wb = at_a - ia, at_b - ib
                    k = i * sm + ia * sa + ib * sb
                    total += ((1 - wb) * ((1 - wa) * x[k] + wa * x[k + sa])
                              + wb * ((1 - wa) * x[k + sb] + wa * x[k + sa + sb]))
                total += _edge_sum(x, p, strides, low, high, p.end, p.last)
                y[v, r, c] = p.step_mm * total


@no_type_check
@_compiled
def _adjoint(x: _Array, rays: Rays, low: _Array, high: _Array, y: _Array) -> None:
    """Add the transpose of `_forward` to the voxels of ``x`` in the box ``[low, high)``."""
    strides = (1, rays.sizes[0], rays.sizes[0] * rays.sizes[1])
    for v in range(y.shape[0]):
        for r in range(y.shape[1]):
            for c in range(y.shape[2]):
                p = _path(rays, v, r, c, low, high)
                sm, sa, sb = strides[p.m], strides[p.a], strides[p.b]
                oa, ga, ob, gb = p.offset_a, p.slope_a, p.offset_b, p.slope_b
                value = p.step_mm * y[v, r, c]
                _edge_add(x, p, strides, low, high, p.first, p.begin, value)
                for i in range(p.begin, p.end):
                    at_a, at_b = oa + ga * i, ob + gb * i
                    ia, ib = int(at_a), int(at_b)
                    wa, wb = at_a - ia, at_b - ib
                    k = i * sm + ia * sa + ib * sb
                    x[k] += (1 - wb) * (1 - wa) * value
                    x[k + sa] += (1 - wb) * wa * value
                    x[k + sb] += wb * (1 - wa) * value
                    x[k + sa + sb] += wb * wa * value
                _edge_add(x, p, strides, low, high, p.end, p.last, value)


@no_type_check
@_compiled
def _edge_sum(x: _Array, p: Path, strides: tuple[int, int, int], low: _Array, high: _Array,
              first: int, last: int) -> float:
    """The sum over steps ``[first, last)``, some of whose neighbours are outside the box."""
    total = 0.0
    for i in range(first, last):
        at_a, at_b = p.offset_a + p.slope_a * i, p.offset_b + p.slope_b * i
        for ia in range(math.floor(at_a), math.floor(at_a) + 2):
            for ib in range(math.floor(at_b), math.floor(at_b) + 2):
                if low[p.a] <= ia < high[p.a] and low[p.b] <= ib < high[p.b]:
                    weight = (1 - abs(at_a - ia)) * (1 - abs(at_b - ib))
                    total += weight * x[i * strides[p.m] + ia * strides[p.a] + ib * strides[p.b]]
    return total


@no_type_check
@_compiled
def _edge_add(x: _Array, p: Path, strides: tuple[int, int, int], low: _Array, high: _Array,
              first: int, last: int, value: float) -> None:
    """The transpose of `_edge_sum`."""
    for i in range(first, last):
        at_a, at_b = p.offset_a + p.slope_a * i, p.offset_b + p.slope_b * i
        for ia in range(math.floor(at_a), math.floor(at_a) + 2):
            for ib in range(math.floor(at_b), math.floor(at_b) + 2):
                if low[p.a] <= ia < high[p.a] and low[p.b] <= ib < high[p.b]:
                    weight = (1 - abs(at_a - ia)) * (1 - abs(at_b - ib))
                    x[i * strides[p.m] + ia * strides[p.a] + ib * strides[p.b]] += weight * value
