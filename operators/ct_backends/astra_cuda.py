"""ASTRA's CUDA kernels on torch tensors, without copies (DLPack).

A stack of slices is a 3D parallel-beam problem with one detector row per slice. Forward is
Joseph's rule; ASTRA's backprojection interpolates the detector at each voxel, so it is only close
to the adjoint. float32 only.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch
from torch import Tensor

from medinv.errors import DependencyError, ShapeError
from medinv.operators.ct_geometry import CTGeometry

_log = logging.getLogger(__name__)


class CudaProjector:
    """Projects stacks of slices on the current CUDA device."""

    def __init__(self, geometry: CTGeometry) -> None:
        _require_cuda("ParallelBeam")
        self.geometry = geometry

    def project(self, images: Tensor) -> Tensor:
        """``(n, y, x)`` to line integrals ``(n, view, col)``."""
        import astra.experimental

        g = self.geometry
        sinograms = images.new_empty(len(images), g.n_views, g.n_cols)
        self._run(astra.experimental.direct_FP3D, images, sinograms)
        return sinograms.mul_(g.voxel_mm[2])

    def backproject(self, sinograms: Tensor) -> Tensor:
        """``(n, view, col)`` to ``(n, y, x)``."""
        import astra.experimental

        g = self.geometry
        images = sinograms.new_empty(len(sinograms), *g.shape[1:])
        self._run(astra.experimental.direct_BP3D, images, sinograms)
        return images.mul_(g.voxel_mm[2])

    def _run(self, kernel: object, images: Tensor, sinograms: Tensor) -> None:
        """Call an ASTRA kernel; it reads one tensor and fills the other."""
        import astra

        _require_single("ParallelBeam", images)
        projector = self._astra_projector(len(images))
        try:
            torch.cuda.synchronize(images.device)
            kernel(projector, images.detach().contiguous(),  # type: ignore[operator]
                   sinograms.detach().contiguous())
        finally:
            astra.projector3d.delete(projector)

    def _astra_projector(self, n_slices: int) -> int:
        import astra

        g = self.geometry
        volume = astra.create_vol_geom(*g.shape[1:], n_slices)
        pixels = 1 / g.voxel_mm[2]
        views = torch.cat([g.sources, pixels * g.detectors, pixels * g.col_axes,
                           pixels * g.row_axes], 1)
        detector = astra.create_proj_geom("parallel3d_vec", n_slices, g.n_cols, views.numpy())
        return int(astra.create_projector("cuda3d", detector, volume))


class CudaVolumeProjector:
    """Projects volumes of one geometry, one by one, on a CUDA device.

    How far the backprojection is from the adjoint is measured on construction and logged.
    """

    def __init__(self, geometry: CTGeometry, device: torch.device) -> None:
        if geometry.curved:
            raise DependencyError("ConeBeam: ASTRA's CUDA kernels know flat detectors only, and "
                                  "this one is curved; move the input with .cpu(), or resample "
                                  "the data to a flat detector.")
        _require_cuda("ConeBeam")
        self.geometry = geometry
        _log.warning("ConeBeam on %s: ASTRA's backprojection is off the exact adjoint by %.1e of "
                     "<A x, y>", device, self._mismatch(device))

    def project(self, volumes: Tensor) -> Tensor:
        """``(n, z, y, x)`` to line integrals ``(n, view, row, col)``."""
        import astra.experimental

        g = self.geometry
        out = volumes.new_empty(len(volumes), g.n_rows, g.n_views, g.n_cols)
        self._run(astra.experimental.direct_FP3D, volumes.contiguous(), out)
        return out.transpose(1, 2)

    def backproject(self, projections: Tensor) -> Tensor:
        """``(n, view, row, col)`` to ``(n, z, y, x)``."""
        import astra.experimental

        out = projections.new_empty(len(projections), *self.geometry.shape)
        self._run(astra.experimental.direct_BP3D, out, projections.transpose(1, 2).contiguous())
        return out

    def _run(self, kernel: object, volumes: Tensor, projections: Tensor) -> None:
        """Call an ASTRA kernel on each volume; it reads one tensor and fills the other."""
        import astra

        _require_single("ConeBeam", volumes)
        projector = self._astra_projector()
        try:
            torch.cuda.synchronize(volumes.device)
            for volume, projection in zip(volumes, projections, strict=True):
                kernel(projector, volume.detach(), projection.detach())  # type: ignore[operator]
        finally:
            astra.projector3d.delete(projector)

    def _astra_projector(self) -> int:
        """ASTRA's projector, in mm."""
        import astra

        g = self.geometry
        z, y, x = (mm / 2 for mm in g.extent_mm)
        volume = astra.create_vol_geom(g.shape[1], g.shape[2], g.shape[0], -x, x, -y, y, -z, z)
        views = torch.cat([g.sources, g.detectors, g.col_axes, g.row_axes], 1)
        kind = "parallel3d_vec" if g.parallel else "cone_vec"
        detector = astra.create_proj_geom(kind, g.n_rows, g.n_cols, views.numpy())
        return int(astra.create_projector("cuda3d", detector, volume))

    def _mismatch(self, device: torch.device) -> float:
        """``|<A x, y> - <x, B y>| / <A x, y>`` for uniform random ``x`` and ``y``."""
        g, rng = self.geometry, torch.Generator(device).manual_seed(0)
        x = torch.rand(1, *g.shape, device=device, generator=rng)
        y = torch.rand(1, g.n_views, g.n_rows, g.n_cols, device=device, generator=rng)
        expected = (self.project(x) * y).sum(dtype=torch.float64)
        found = (x * self.backproject(y)).sum(dtype=torch.float64)
        return float((found - expected).abs() / expected)


def is_installed() -> bool:
    """Whether astra-toolbox is there; it comes with ``medinv[cuda]``."""
    return find_spec("astra") is not None


def _require_cuda(name: str) -> None:
    if not is_installed():
        raise DependencyError(f"{name}: astra-toolbox, which projects on CUDA devices, is not "
                              "installed; pip install 'medinv[cuda]', or stay on the CPU "
                              "(.cpu(), or --device cpu for recipes).")
    import astra

    if not astra.use_cuda():
        raise DependencyError(f"{name}: astra-toolbox has no CUDA support or finds no device; "
                              "install its CUDA build, or stay on the CPU (.cpu(), or --device "
                              "cpu for recipes).")


def _require_single(name: str, x: Tensor) -> None:
    if x.dtype != torch.float32:
        raise ShapeError(f"{name}: ASTRA's CUDA kernels take torch.float32, got {x.dtype}; build "
                         "the operator with dtype=torch.float32.")
