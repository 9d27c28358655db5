"""X-ray transforms of slices in physical units.

An image in 1/mm gives line integrals without unit. Image axes: ``x`` (mm) grows with the last
index, ``y`` with the one before, the origin is the image's centre, and a pixel is a square of side
``pixel_mm``. At angle ``theta`` the detector coordinate of a point is ``s = x cos(theta) + y
sin(theta)``; column ``j`` of ``n`` lies at ``s = (j - (n - 1) / 2) col_mm + col_offset_mm``. An
object right of the centre therefore appears at ``s > 0`` in view 0, one below the centre (large
``y``) at ``s > 0`` in the view of 90 degrees. A fan beam becomes that parallel beam as its source
moves away (see `medinv.operators.ct_geometry`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from medinv.arguments import checked
from medinv.errors import DependencyError, ShapeError
from medinv.operators import ct_checks, ct_geometry
from medinv.operators.base import LinearOperator, Space
from medinv.operators.ct_geometry import CTGeometry
from medinv.operators.ct_rays import Rays, rays


@runtime_checkable
class Projector(Protocol):
    """A projection engine for one geometry."""

    def project(self, images: Float[Tensor, "n y x"]) -> Float[Tensor, "n view col"]:
        """Line integrals of each slice."""

    def backproject(self, sinograms: Float[Tensor, "n view col"]) -> Float[Tensor, "n y x"]:
        """The adjoint, slice by slice."""


class PlanarBeam(LinearOperator):
    """What `ParallelBeam` and `FanBeam` share: line integrals in the plane of each slice.

    On the CPU it is Joseph's projector as a sparse matrix, built at first use, shared between
    operators of one geometry, and applied to all slices at once; the adjoint is its exact
    transpose. Where the matrix would need more than ``memory_gib``, it is built and applied some
    views at a time in every call.

    Attributes:
        domain: ``(y, x)``, in 1/mm.
        codomain: ``(view, col)``, line integrals.
        geometry: the scan in mm and radians, of one slice.
        angles: float64 buffer ``(view,)``.
        pixel_mm, n_cols, col_mm: as given, or their defaults.
    """

    angles: Tensor

    def __init__(self, geometry: CTGeometry, angles: Tensor, col_mm: float, dtype: torch.dtype,
                 memory_gib: float) -> None:
        if not memory_gib >= 0:
            raise ShapeError(f"{type(self).__name__}: memory_gib is {memory_gib}; pass a number "
                             "of at least 0.")
        super().__init__(Space(geometry.shape[1:], dtype, ("y", "x")),
                         Space((geometry.n_views, geometry.n_cols), dtype, ("view", "col")))
        self.geometry = geometry
        self.pixel_mm, self.col_mm = float(geometry.voxel_mm[2]), float(col_mm)
        self.n_cols, self.memory_gib = geometry.n_cols, memory_gib
        self.register_buffer("angles", angles.detach().to(torch.float64))
        self._projectors: dict[str, Projector] = {}

    def extra_repr(self) -> str:
        """The spaces and the size of a pixel, for ``repr``."""
        return f"{super().extra_repr()}, pixels of {self.pixel_mm:.4g} mm"

    @abstractmethod
    def views(self, index: Tensor) -> PlanarBeam:
        """The operator of the views ``index``, ``(n,)``, in that order."""

    def _angles_of(self, index: Tensor) -> Tensor:
        n = len(self.angles)
        if (index.ndim != 1 or index.is_floating_point() or index.is_complex() or not len(index)
                or not -n <= int(index.min()) <= int(index.max()) < n):
            raise ShapeError(f"{type(self).__name__}.views: expected indices of views, whole "
                             f"numbers (n,) below {n}, got {index.dtype} {tuple(index.shape)}.")
        return self.angles[index.long()]

    def matrix_gib(self) -> float:
        """Memory of the matrix and its transpose; building needs about twice that for a moment."""
        from medinv.operators.ct_backends import joseph_matrix

        return joseph_matrix.matrix_bytes(self.rays(), self.domain.dtype) / 2**30

    def rays(self, col_offset_mm: Tensor | None = None,
             axis_offset_mm: Tensor | None = None) -> Rays:
        """The rays, with offsets beyond the geometry's own (see `shifted`)."""
        return rays(self.geometry, col_offset_mm, axis_offset_mm)

    @checked
    def shifted(self, x: Tensor, col_offset_mm: Tensor | None = None,
                axis_offset_mm: Tensor | None = None) -> Tensor:
        """``A x`` with detector and rotation axis shifted, differentiable in ``x`` and the shifts.

        The derivative is that of Joseph's weights, exact wherever no ray passes through a pixel's
        centre. For solvers that find the geometry along with the image. Runs on the CPU; every
        call computes the weights anew.

        Args:
            x: ``(*batch, y, x)``.
            col_offset_mm: shift of the detector along its columns, ``()`` or ``(view,)``.
            axis_offset_mm: shift of the rotation axis towards larger columns, ``()`` or
                ``(view,)``.

        Returns:
            ``(*batch, view, col)``.

        Raises:
            ShapeError: ``x`` does not fit the domain, a shift is not ``()`` or ``(view,)``.
            DependencyError: ``x`` is not on the CPU.

        Example:
            >>> A = ParallelBeam((5, 5), torch.zeros(1), 1.0, n_cols=5)
            >>> shift = torch.tensor(0.25, requires_grad=True)
            >>> y = A.shifted(torch.arange(5.0).expand(5, 5), shift)
            >>> y[0, 1].item(), torch.autograd.grad(y[0, 1], shift)[0].item()
            (6.25, 5.0)
        """
        from medinv.operators.ct_backends.joseph_gradient import project

        name = f"{type(self).__name__}.shifted"
        self._check(self.domain, x, ".shifted")
        for shift in (col_offset_mm, axis_offset_mm):
            if shift is not None and tuple(shift.shape) not in ((), (len(self.angles),)):
                raise ShapeError(f"{name}: expected a shift () or ({len(self.angles)},), one per "
                                 f"view, got {tuple(shift.shape)}.")
        if x.device.type != "cpu":
            raise DependencyError(f"{name}: runs on the cpu, got {x.device}; move the input with "
                                  ".cpu().")
        sinograms = project(x.reshape(-1, *self.domain.shape),
                            self.rays(col_offset_mm, axis_offset_mm))
        return sinograms.reshape(*x.shape[:-2], *self.codomain.shape)

    def _forward(self, x: Tensor) -> Tensor:
        sinograms = self._projector(x.device).project(x.reshape(-1, *self.domain.shape))
        return sinograms.reshape(*x.shape[:-2], *self.codomain.shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        images = self._projector(y.device).backproject(y.reshape(-1, *self.codomain.shape))
        return images.reshape(*y.shape[:-2], *self.domain.shape)

    def _projector(self, device: torch.device) -> Projector:
        if str(device) not in self._projectors:
            if device.type not in ("cpu", "cuda"):
                raise DependencyError(f"{type(self).__name__}: runs on cpu and cuda, not on "
                                      f"{device.type}; move the input with .cpu().")
            self._projectors[str(device)] = self._make_projector(device)
        return self._projectors[str(device)]

    def _make_projector(self, device: torch.device) -> Projector:
        from medinv.operators.ct_backends import joseph_matrix

        return joseph_matrix.projector(self.rays(), self.domain.dtype, device, self.memory_gib)

    def __getstate__(self) -> dict[str, object]:
        """Without the engines: they are found or built again at first use."""
        return {**self.__dict__, "_projectors": {}}


class ParallelBeam(PlanarBeam):
    """Parallel-beam line integrals of a slice, or of each slice of a stack (batch axes).

    See `PlanarBeam` for how it computes on the CPU. On a CUDA device ASTRA's own kernels run,
    whose backprojection is only an approximate adjoint; without ASTRA (it comes with
    ``medinv[cuda]``), the CPU's matrix is applied there.

    Args:
        shape: ``(y, x)`` of a slice.
        angles: view angles in radians, ``(view,)``.
        pixel_mm: side of a pixel.
        n_cols: detector columns; by default the slice's diagonal, if it were square.
        col_mm: width of a column; ``pixel_mm`` by default.
        col_offset_mm: shift of the detector along its columns; the rotation axis is seen at ``s =
            0``, which is column ``(n_cols - 1) / 2 - col_offset_mm / col_mm``.
        dtype: ``torch.float32`` or ``torch.float64``.
        memory_gib: the most that the matrix and its transpose may take (see `matrix_gib`).

    Raises:
        ShapeError: angles, sizes or dtype that make no geometry.

    Source:
        Joseph, IEEE Trans. Med. Imaging 1 (1982), 192; van Aarle et al., "Fast and flexible X-ray
        tomography using the ASTRA toolbox", Optics Express 24 (2016).

    Example:
        >>> A = ParallelBeam((4, 4), torch.tensor([0.0, torch.pi / 2]), pixel_mm=0.5, n_cols=4)
        >>> A(torch.full((4, 4), 0.25))[0].tolist()
        [0.5, 0.5, 0.5, 0.5]
    """

    @checked
    def __init__(self, shape: tuple[int, int], angles: Tensor, pixel_mm: float,
                 n_cols: int | None = None, col_mm: float | None = None, *,
                 col_offset_mm: float = 0.0, dtype: torch.dtype = torch.float32,
                 memory_gib: float = 4.0) -> None:
        n_cols = math.ceil(math.sqrt(2) * max(shape)) if n_cols is None else n_cols
        col_mm = pixel_mm if col_mm is None else col_mm
        _check("ParallelBeam", shape, angles, dtype,
               {"pixel_mm": pixel_mm, "col_mm": col_mm, "n_cols": n_cols}, (col_offset_mm,))
        geometry = ct_geometry.parallel((1, *shape), angles.cpu(), pixel_mm, n_cols, col_mm,
                                        col_offset_mm=col_offset_mm)
        super().__init__(geometry, angles, col_mm, dtype, memory_gib)
        self.col_offset_mm = col_offset_mm

    @checked
    def views(self, index: Tensor) -> ParallelBeam:
        """The operator of the views ``index``, ``(n,)``, in that order."""
        return ParallelBeam(self.geometry.shape[1:], self._angles_of(index), self.pixel_mm,
                            self.n_cols, self.col_mm, col_offset_mm=self.col_offset_mm,
                            dtype=self.domain.dtype, memory_gib=self.memory_gib)

    def _make_projector(self, device: torch.device) -> Projector:
        if device.type == "cuda":
            from medinv.operators.ct_backends import astra_cuda

            if astra_cuda.is_installed():
                return astra_cuda.CudaProjector(self.geometry)
        return super()._make_projector(device)


class FanBeam(PlanarBeam):
    """Fan-beam line integrals of a slice, or of each slice of a stack (batch axes).

    At angle ``theta`` the source is at ``source_mm (sin theta, -cos theta)`` as (x, y), and
    columns grow along ``(cos theta, sin theta)``. See `PlanarBeam` for how it computes; on a CUDA
    device the same matrix is applied there, with its exact transpose.

    Args:
        shape: ``(y, x)`` of a slice.
        angles: view angles in radians, ``(view,)``; any arc, either direction.
        pixel_mm: side of a pixel.
        source_mm: from the source to the rotation axis.
        detector_mm: from the rotation axis to the detector.
        n_cols: detector columns.
        col_mm: width of a column, on the detector; along its arc if it is curved.
        curved: the detector is an arc around the source, with equiangular columns.
        col_offset_mm: shift of the detector along its columns.
        axis_offset_mm: distance of the rotation axis from the line through the source at right
            angles to the detector, towards larger columns.
        dtype: ``torch.float32`` or ``torch.float64``.
        memory_gib: the most that the matrix and its transpose may take (see `matrix_gib`).

    Attributes:
        source_mm, detector_mm, curved, col_offset_mm, axis_offset_mm: as given.

    Raises:
        ShapeError: angles, sizes or dtype that make no geometry, or one that misses the slice.

    Source:
        Joseph, IEEE Trans. Med. Imaging 1 (1982), 192.

    Example:
        >>> A = FanBeam((4, 4), torch.zeros(1), 1.0, source_mm=100.0, detector_mm=100.0, n_cols=3,
        ...             col_mm=2.0)
        >>> A(torch.full((4, 4), 0.5))[0, 1].item()  # the central ray, 4 mm
        2.0
    """

    @checked
    def __init__(self, shape: tuple[int, int], angles: Tensor, pixel_mm: float, source_mm: float,
                 detector_mm: float, n_cols: int, col_mm: float, *, curved: bool = False,
                 col_offset_mm: float = 0.0, axis_offset_mm: float = 0.0,
                 dtype: torch.dtype = torch.float32, memory_gib: float = 4.0) -> None:
        _check("FanBeam", shape, angles, dtype,
               {"pixel_mm": pixel_mm, "source_mm": source_mm, "detector_mm": detector_mm,
                "col_mm": col_mm, "n_cols": n_cols}, (col_offset_mm, axis_offset_mm))
        geometry = ct_geometry.fan(shape, angles.cpu(), pixel_mm, source_mm, detector_mm, n_cols,
                                   col_mm, curved=curved, col_offset_mm=col_offset_mm,
                                   axis_offset_mm=axis_offset_mm)
        super().__init__(geometry, angles, col_mm, dtype, memory_gib)
        self.source_mm, self.detector_mm, self.curved = source_mm, detector_mm, curved
        self.col_offset_mm, self.axis_offset_mm = col_offset_mm, axis_offset_mm

    @checked
    def views(self, index: Tensor) -> FanBeam:
        """The operator of the views ``index``, ``(n,)``, in that order."""
        return FanBeam(self.geometry.shape[1:], self._angles_of(index), self.pixel_mm,
                       self.source_mm, self.detector_mm, self.n_cols, self.col_mm,
                       curved=self.curved,
                       col_offset_mm=self.col_offset_mm, axis_offset_mm=self.axis_offset_mm,
                       dtype=self.domain.dtype, memory_gib=self.memory_gib)


def _check(name: str, shape: tuple[int, int], angles: Tensor, dtype: torch.dtype,
           positive: dict[str, float], offsets: tuple[float, ...]) -> None:
    if len(shape) != 2 or min(shape) < 1:
        raise ShapeError(f"{name}: shape is {tuple(shape)}; pass (y, x) of one slice, each "
                         "at least 1 (slices of a volume are a batch axis of the input).")
    ct_checks.check_angles(name, angles)
    for parameter, value in positive.items():
        if not 0 < value < math.inf:
            raise ShapeError(f"{name}: {parameter} is {value}; pass a positive number.")
    if not all(math.isfinite(offset) for offset in offsets):
        raise ShapeError(f"{name}: offsets are {offsets}; pass finite mm.")
    if dtype not in (torch.float32, torch.float64):
        raise ShapeError(f"{name}: dtype is {dtype}; pass torch.float32 or torch.float64.")
