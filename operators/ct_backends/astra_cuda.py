"""ASTRA's CUDA kernels on torch tensors, without copies (DLPack).

A stack of slices is a 3D parallel-beam problem with one detector row per slice. Forward is
Joseph's rule; ASTRA's backprojection interpolates the detector at each voxel, so it is only close
to the adjoint. float32 only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medinv.errors import DependencyError, ShapeError
from medinv.operators.ct_geometry import CTGeometry


class CudaProjector:
    """Projects stacks of slices on the current CUDA device."""

    def __init__(self, geometry: CTGeometry) -> None:
        import astra

        if not astra.use_cuda():
            raise DependencyError("ParallelBeam: astra-toolbox has no CUDA support or finds no "
                                  "device; install its CUDA build or move the input with .cpu().")
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

        if images.dtype != torch.float32:
            raise ShapeError(f"ParallelBeam: ASTRA's CUDA kernels take torch.float32, got "
                             f"{images.dtype}; build the operator with dtype=torch.float32.")
        projector = self._astra_projector(len(images))
        try:
            torch.cuda.synchronize(images.device)
            kernel(projector, images.contiguous(), sinograms.contiguous())  # type: ignore[operator]
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
