"""Multi-coil k-space of one scan with its sampling mask and what the file says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Complex
from torch import Tensor

from medinv.data.geometry import orientation_affine
from medinv.data.metadata import Metadata
from medinv.data.volume import Volume
from medinv.errors import ShapeError


@dataclass(frozen=True, eq=False)
class KSpace:
    """Cartesian k-space, centred: the zero frequency is at index ``n // 2`` of each axis.

    Attributes:
        data: (slice, coil, ky, kx) complex64.
        mask: (ky, kx) or (slice, ky, kx), True where a sample was measured.
        metadata: what the file says (``recon_shape``, ``sequence``...); no patient identifier.
        voxel_mm: size of a voxel of the whole field of view along (z, y, x), where known.
        acquisition: how the samples were acquired.

    Raises:
        ShapeError: ``data`` has other axes or is not complex, or ``mask`` has another size.

    >>> kspace = KSpace(torch.zeros(1, 8, 6, 4, dtype=torch.complex64), torch.ones(6, 4) > 0)
    >>> kspace.n_coils, kspace.acceleration
    (8, 1.0)
    """

    data: Tensor
    mask: Tensor
    metadata: Mapping[str, object] = field(default_factory=dict)
    voxel_mm: tuple[float, float, float] | None = None
    acquisition: Metadata = Metadata()

    def __post_init__(self) -> None:
        shape = tuple(self.data.shape)
        if len(shape) != 4 or not self.data.is_complex():
            raise ShapeError(
                f"KSpace: expected complex (slice, coil, ky, kx), got {self.data.dtype} {shape}"
            )
        allowed = (shape[2:], (shape[0], *shape[2:]))
        if tuple(self.mask.shape) not in allowed or self.mask.dtype != torch.bool:
            raise ShapeError(
                f"KSpace: mask is {self.mask.dtype} {tuple(self.mask.shape)} but k-space is "
                f"{shape}; crop one of them, or pass a bool mask (ky, kx) = {shape[2:]}"
            )

    @property
    def n_coils(self) -> int:
        """Number of receiver coils."""
        return self.data.shape[1]

    @property
    def acceleration(self) -> float:
        """Points of the grid over points measured."""
        return self.mask.numel() / max(int(self.mask.sum()), 1)

    def volume(self, image: Tensor) -> Volume:
        """An image (slice, y, x) reconstructed on this grid, or on its central part, as a volume.

        Raw data say how large a voxel is, seldom where it was. The grid is centred on the origin
        and taken as axial slices, rows towards the back and columns to the patient's left;
        ``metadata["position"]`` says so. Without ``voxel_mm``, voxels of 1 mm are assumed.
        """
        z, y, x = self.voxel_mm or (1.0, 1.0, 1.0)
        nz, ny, nx = image.shape
        affine = orientation_affine("LPS", (x, y, z), (nx, ny, nz))
        size = "from the file" if self.voxel_mm else "unknown, 1 mm assumed"
        position = {"position": "assumed: axial, centred", "voxel_size": size}
        return Volume(image, affine, {**self.metadata, **position}, self.acquisition)


def measured_points(data: Complex[Tensor, "slice coil ky kx"]) -> Bool[Tensor, "*slice ky kx"]:
    """Where any coil holds a nonzero sample: (ky, kx) where all slices agree, else per slice."""
    mask = (data != 0).any(dim=1)
    return mask[0] if bool((mask == mask[:1]).all()) else mask
