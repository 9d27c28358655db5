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
from itertools import pairwise
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
_inlined = numba.njit(inline="always", error_model="numpy")
_Triple = tuple[float, float, float]
_Corner = tuple[int, int, int]


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
    sizes: _Corner
    voxel_mm: _Triple


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


def _blocks(sizes: _Corner, n: int) -> list[tuple[_Corner, _Corner]]:
    """The volume in up to ``n`` boxes ``[low, high)``, cut along z, or y where z is short."""
    x, y, z = sizes
    if z >= n:
        return [((0, 0, low), (x, y, high)) for low, high in _cuts(z, n)]
    return [((0, low, 0), (x, high, z)) for low, high in _cuts(y, n)]


def _cuts(size: int, n: int) -> list[tuple[int, int]]:
    """``range(size)`` in up to ``n`` parts, ``[low, high)`` each."""
    edges = [size * k // n for k in range(n + 1)]
    return [(low, high) for low, high in pairwise(edges) if low < high]


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
    z, y, x = (float(mm) for mm in geometry.voxel_mm)
    nz, ny, nx = geometry.shape
    voxel = torch.tensor([x, y, z], dtype=torch.float64)
    middle = (torch.tensor([nx, ny, nz], dtype=torch.float64) - 1) / 2
    return Rays((origins / voxel + middle).numpy(), (origin_rows / voxel).numpy(),
                (directions / voxel).numpy(), (direction_rows / voxel).numpy(),
                -math.inf if geometry.parallel else 0.0, (nx, ny, nz), (x, y, z))


# numba compiles what follows as it stands, hence @no_type_check: no run-time checks around it.
# Per ray, functions take numbers; an array would have its references counted, by all threads.


@no_type_check
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
def _axes(direction: _Triple) -> tuple[int, int, int]:
    """The steepest axis of a direction, then the others."""
    x, y, z = abs(direction[0]), abs(direction[1]), abs(direction[2])
    if x >= y and x >= z:
        return 0, 1, 2
    if y >= z:
        return 1, 0, 2
    return 2, 0, 1


@no_type_check
@_inlined
def _ray(rays: Rays, view: int, row: int, col: int) -> tuple[_Triple, _Triple]:
    """Origin and direction of a ray."""
    o, d = rays.origins[view, col], rays.directions[view, col]
    u, e = rays.origin_rows[view], rays.direction_rows[view]
    return ((o[0] + row * u[0], o[1] + row * u[1], o[2] + row * u[2]),
            (d[0] + row * e[0], d[1] + row * e[1], d[2] + row * e[2]))


@no_type_check
@_compiled
def _path(origin: _Triple, direction: _Triple, start: float, voxel_mm: _Triple, low: _Corner,
          high: _Corner) -> Path:
    """The path of a ray through the box ``[low, high)``."""
    m, a, b = _axes(direction)
    per_step = 1 / direction[m]
    slope_a, slope_b = direction[a] * per_step, direction[b] * per_step
    offset_a, offset_b = origin[a] - origin[m] * slope_a, origin[b] - origin[m] * slope_b
    first, last = _steps(low[m], high[m], -origin[m] * per_step, per_step, start, math.inf)
    first, last = _steps(first, last, offset_a, slope_a, low[a] - 1 - _MARGIN, high[a] + _MARGIN)
    first, last = _steps(first, last, offset_b, slope_b, low[b] - 1 - _MARGIN, high[b] + _MARGIN)
    begin, end = _steps(first, last, offset_a, slope_a, low[a] + _MARGIN, high[a] - 1 - _MARGIN)
    begin, end = _steps(begin, end, offset_b, slope_b, low[b] + _MARGIN, high[b] - 1 - _MARGIN)
    length = math.sqrt((direction[0] * voxel_mm[0])**2 + (direction[1] * voxel_mm[1])**2
                       + (direction[2] * voxel_mm[2])**2)
    return Path(m, a, b, length * abs(per_step), offset_a, slope_a, offset_b, slope_b, first,
                begin, end, last)


@no_type_check
@_compiled
def _forward(x: _Array, rays: Rays, first_view: int, y: _Array) -> None:
    """Line integrals of the flat volume ``x`` into ``y`` ``(view, row, col)``."""
    real = x.dtype.type
    strides = (1, rays.sizes[0], rays.sizes[0] * rays.sizes[1])
    low, high = (0, 0, 0), rays.sizes
    for v in range(y.shape[0]):
        for r in range(y.shape[1]):
            for c in range(y.shape[2]):
                origin, direction = _ray(rays, first_view + v, r, c)
                p = _path(origin, direction, rays.start, rays.voxel_mm, low, high)
                sm, sa, sb = strides[p.m], strides[p.a], strides[p.b]
                to_a, to_b = np.uintp(sa), np.uintp(sb)
                oa, ga, ob, gb = p.offset_a, p.slope_a, p.offset_b, p.slope_b
                total = _edge_sum(x, p, strides, low, high, p.first, p.begin)
                for i in range(p.begin, p.end):
                    at_a, at_b = oa + ga * i, ob + gb * i
                    ia, ib = int(at_a), int(at_b)
                    wa, wb = real(at_a - ia), real(at_b - ib)
                    k = np.uintp(i * sm + ia * sa + ib * sb)
                    near = x[k] + wa * (x[k + to_a] - x[k])
                    far = x[k + to_b] + wa * (x[k + to_a + to_b] - x[k + to_b])
                    total += near + wb * (far - near)
                total += _edge_sum(x, p, strides, low, high, p.end, p.last)
                y[v, r, c] = p.step_mm * total


@no_type_check
@_compiled
def _adjoint(x: _Array, rays: Rays, low: _Corner, high: _Corner, y: _Array) -> None:
    """Add the transpose of `_forward` to the voxels of ``x`` in the box ``[low, high)``."""
    real = x.dtype.type
    strides = (1, rays.sizes[0], rays.sizes[0] * rays.sizes[1])
    for v in range(y.shape[0]):
        for r in range(y.shape[1]):
            for c in range(y.shape[2]):
                origin, direction = _ray(rays, v, r, c)
                p = _path(origin, direction, rays.start, rays.voxel_mm, low, high)
                sm, sa, sb = strides[p.m], strides[p.a], strides[p.b]
                to_a, to_b = np.uintp(sa), np.uintp(sb)
                oa, ga, ob, gb = p.offset_a, p.slope_a, p.offset_b, p.slope_b
                value = real(p.step_mm * y[v, r, c])
                _edge_add(x, p, strides, low, high, p.first, p.begin, value)
                for i in range(p.begin, p.end):
                    at_a, at_b = oa + ga * i, ob + gb * i
                    ia, ib = int(at_a), int(at_b)
                    wa, wb = real(at_a - ia), real(at_b - ib)
                    k = np.uintp(i * sm + ia * sa + ib * sb)
                    far = wb * value
                    near = value - far
                    x[k] += near - wa * near
                    x[k + to_a] += wa * near
                    x[k + to_b] += far - wa * far
                    x[k + to_a + to_b] += wa * far
                _edge_add(x, p, strides, low, high, p.end, p.last, value)


@no_type_check
@_compiled
def _edge_sum(x: _Array, p: Path, strides: tuple[int, int, int], low: _Corner, high: _Corner,
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
def _edge_add(x: _Array, p: Path, strides: tuple[int, int, int], low: _Corner, high: _Corner,
              first: int, last: int, value: float) -> None:
    """The transpose of `_edge_sum`."""
    real = x.dtype.type
    for i in range(first, last):
        at_a, at_b = p.offset_a + p.slope_a * i, p.offset_b + p.slope_b * i
        ia, ib = math.floor(at_a), math.floor(at_b)
        wa, wb = real(at_a - ia), real(at_b - ib)
        far = wb * value
        near = value - far
        shares = ((near - wa * near, far - wa * far), (wa * near, wa * far))
        for ja in range(2):
            for jb in range(2):
                a, b = ia + ja, ib + jb
                if low[p.a] <= a < high[p.a] and low[p.b] <= b < high[p.b]:
                    x[i * strides[p.m] + a * strides[p.a] + b * strides[p.b]] += shares[ja][jb]
