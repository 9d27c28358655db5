"""Multi-coil Cartesian k-space of one scan, its sampling mask and what the file says about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import torch
from jaxtyping import Bool, Complex
from torch import Tensor

from medinv.arguments import checked
from medinv.data.geometry import placed
from medinv.data.metadata import Metadata
from medinv.data.volume import Volume, sizes
from medinv.errors import DataError, ShapeError
from medinv.operators import fourier
from medinv.operators.coil_data import CoilTransform, prewhitening_matrix

_WITHOUT_SIGNS = 0x7FFFFFFF7FFFFFFF  # of both parts of a complex64, as -0.0 is a zero too


def told_voxels(voxel_mm: tuple[float, float, float] | None) -> str:
    """The voxels' size, for people.

    >>> told_voxels((4.0, 1.0, 1.0))
    'voxels of 4 x 1 x 1 mm (z, y, x)'
    """
    if voxel_mm is None:
        return "voxels of unknown size"
    return f"voxels of {' x '.join(f'{mm:.4g}' for mm in voxel_mm)} mm (z, y, x)"


@checked
@dataclass(frozen=True, eq=False)
class KSpace:
    """Cartesian k-space, centred: the zero frequency is at index ``n // 2`` of each axis.

    Attributes:
        data: (slice, coil, ky, kx) complex64, or (slab, coil, kz, ky, kx) of a 3D scan.
        mask: ([kz,] ky, kx) or (slice, [kz,] ky, kx), True where a sample was measured.
        metadata: what the file says (``recon_shape``, ``sequence``...); no patient identifier.
        voxel_mm: size of a voxel of the whole field of view along (z, y, x), where known.
        acquisition: how the samples were acquired.
        affine: (4, 4), the image's index (x, y, z) to RAS+ mm, where the file says so.
        recon_shape: (z, y, x) of the scanner's image, where known.
        recon_fov_mm: (z, y, x), its field of view, where known.
        readout_axis: of ``data``, along which one readout runs.
        noise: (coil, sample), measured without a signal, where the file holds it.

    Raises:
        ShapeError: ``data`` has other axes or is not complex, or ``mask`` has another size.

    >>> kspace = KSpace(torch.zeros(1, 8, 6, 4, dtype=torch.complex64), torch.ones(6, 4) > 0)
    >>> kspace.n_coils, kspace.acceleration
    (8, 1.0)
    >>> kspace
    KSpace(1 x 8 x 6 x 4 complex64 (slice, coil, ky, kx), 1x undersampled, voxels of unknown size)
    """

    data: Tensor
    mask: Tensor
    metadata: Mapping[str, object] = field(default_factory=dict)
    voxel_mm: tuple[float, float, float] | None = None
    acquisition: Metadata = Metadata(modality="MR")
    affine: Tensor | None = None
    recon_shape: tuple[int, int, int] | None = None
    recon_fov_mm: tuple[float, float, float] | None = None
    readout_axis: int = -2
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.data.shape)
        if len(shape) not in (4, 5) or not self.data.is_complex():
            raise ShapeError(f"KSpace: expected complex (slice, coil, [kz,] ky, kx), got "
                             f"{self.data.dtype} {shape}")
        if 0 in shape:
            raise ShapeError(f"KSpace: k-space (slice, coil, [kz,] ky, kx) is {shape}; expected "
                             "at least one slice, one coil and one sample along each axis")
        if self.affine is not None and (self.affine.shape != (4, 4)
                                        or self.affine.dtype != torch.float64):
            raise ShapeError(f"KSpace: expected an affine (4, 4) in float64, got "
                             f"{tuple(self.affine.shape)} {self.affine.dtype}")
        lengths = *(self.voxel_mm or ()), *(self.recon_fov_mm or ()), *(self.recon_shape or ())
        if not all(0 < n < math.inf for n in lengths) or self.readout_axis not in (-3, -2, -1):
            raise ShapeError("KSpace: expected positive voxel_mm, recon_fov_mm and recon_shape, "
                             "and a readout axis -3, -2 or -1, got "
                             f"{lengths} and {self.readout_axis}")
        allowed = (shape[2:], (shape[0], *shape[2:]))
        if tuple(self.mask.shape) not in allowed or self.mask.dtype != torch.bool:
            raise ShapeError(
                f"KSpace: mask is {self.mask.dtype} {tuple(self.mask.shape)} but k-space is "
                f"{shape}; crop one of them, or pass a bool mask ([kz,] ky, kx) = {shape[2:]}"
            )

    def __repr__(self) -> str:
        """Shape, acceleration and voxels; not the samples."""
        axes = "slab, coil, kz, ky, kx" if self.data.ndim == 5 else "slice, coil, ky, kx"
        return (f"KSpace({sizes(self.data)} ({axes}), {self.acceleration:.3g}x undersampled, "
                f"{told_voxels(self.voxel_mm)})")

    @property
    def n_coils(self) -> int:
        """Number of receiver coils."""
        return self.data.shape[1]

    @property
    def grid(self) -> tuple[int, ...]:
        """([z,] y, x) that one Fourier transform acts on."""
        return tuple(self.data.shape[2:])

    @property
    def acceleration(self) -> float:
        """Points of the grid over points measured."""
        return self.mask.numel() / max(int(self.mask.sum()), 1)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x) of the image of the whole field of view."""
        n_z = prod(self.data.shape[2:-2]) * self.data.shape[0]
        return n_z, self.data.shape[-2], self.data.shape[-1]

    @checked
    def part(self, slices: slice) -> KSpace:
        """Some of the slices, at their places; a 3D scan stays whole.

        Raises:
            DataError: the selection is empty, or not in steps of 1.
        """
        if self.data.ndim == 5:
            return self
        first, n = chosen(slices, len(self.data))
        per_slice = self.mask.ndim == self.data.ndim - 1
        mask = self.mask[first:first + n] if per_slice else self.mask
        affine = None if self.affine is None else moved(self.affine, 2, first)
        return replace(self, data=self.data[first:first + n], mask=mask, affine=affine)

    @checked
    def volume(self, image: Tensor) -> Volume:
        """An image (z, y, x) reconstructed on this grid, or on its central part, as a volume.

        Raw data say how large a voxel is, seldom where it was: see `medinv.data.geometry.placed`.
        """
        return placed(image, self.shape, self.voxel_mm, self.affine, self.metadata,
                      self.acquisition)

    @checked
    def crop(self, image: Tensor) -> Tensor:
        """The central ``recon_shape`` of images (*batch, y, x) of the whole field of view.

        This is fastMRI's centre crop; an axis that is shorter stays as it is. `volume` knows
        where the cropped image lies.

        Raises:
            DataError: the file did not say how large the image is.
        """
        if self.recon_shape is None:
            raise DataError("KSpace.crop: the file does not say how large its image is "
                            "(recon_shape); crop by hand")
        for axis in (-2, -1):
            image = centre(image, axis, min(self.recon_shape[axis], image.shape[axis]))
        return image

    def crop_readout(self) -> KSpace:
        """Remove the readout's oversampling: in image space, keep the reconstructed field of view.

        Voxels keep their size and their places; the noise of a sample keeps its deviation.

        Raises:
            DataError: the fields of view are unknown, or readouts are not complete (an asymmetric
                echo), so that no image along them exists before the reconstruction.
        """
        if self.recon_fov_mm is None or self.voxel_mm is None:
            raise DataError("KSpace.crop_readout: the file does not say which part of the field "
                            "of view is wanted (recon_fov_mm); reconstruct all of it")
        axis = self.readout_axis
        if not bool((self.mask.all(axis) == self.mask.any(axis)).all()):
            raise DataError("KSpace.crop_readout: expected complete readouts, found some that are "
                            "partly measured (asymmetric echo); reconstruct the whole field of "
                            "view, then `crop`")
        n = self.data.shape[axis]
        wanted = min(n, max(1, round(self.recon_fov_mm[axis] / self.voxel_mm[axis])))
        data = fourier.fft(centre(fourier.ifft(self.data, [axis]), axis, wanted), [axis])
        first = n // 2 - wanted // 2
        affine = None if self.affine is None else moved(self.affine, -1 - axis, first)
        return replace(self, data=data, mask=self.mask.narrow(axis, 0, wanted), affine=affine)

    def prewhitened(self) -> KSpace:
        """Coils mixed so that their noise is white, with a deviation of 1 per real component.

        Raises:
            DataError: the file holds no noise samples.
            InputError: it holds too few, or a coil is dead or doubled.
        """
        data = whitened(self.data, self.noise)
        return replace(self, data=data, noise=None, metadata={**self.metadata, "noise_std": 1.0})


def chosen(slices: slice, n_slices: int) -> tuple[int, int]:
    """The first of some neighbouring slices, and their number.

    Raises:
        DataError: the selection is empty, or not in steps of 1.

    >>> chosen(slice(2, None), 5)
    (2, 3)
    """
    start, stop, step = slices.indices(n_slices)
    if stop <= start or step != 1:
        raise DataError(f"slices {slices} select none of the {n_slices} slices, or not "
                        "neighbours; choose others")
    return start, stop - start


def moved(affine: Tensor, axis: int, first: int) -> Tensor:
    """The affine of a grid that starts at index ``first`` of the old one along x, y or z.

    >>> moved(torch.eye(4, dtype=torch.float64), 2, 5)[2, 3].item()
    5.0
    """
    step = torch.eye(4, dtype=torch.float64)
    step[axis, 3] = first
    return affine @ step


def centre(x: Tensor, axis: int, n: int) -> Tensor:
    """The ``n`` elements around index ``size // 2``, which moves to ``n // 2``.

    >>> centre(torch.arange(6), 0, 3).tolist()
    [2, 3, 4]
    """
    return x.narrow(axis, x.shape[axis] // 2 - n // 2, n)


def whitened(data: Tensor, noise: Tensor | None) -> Tensor:
    """Samples (slice, coil, ...) after `medinv.operators.coil_data.prewhitening_matrix`.

    Raises:
        DataError: there are no noise samples.
        InputError: too few of them, or coils that are dead or doubled.
        ShapeError: they are of another number of coils.
    """
    if noise is None:
        raise DataError("prewhitened: the file holds no noise scan; estimate the noise with "
                        "medinv.operators.coil_data.noise_from_corners")
    flat = data.flatten(2).unsqueeze(-1)
    return CoilTransform(prewhitening_matrix(noise)).kspace(flat).reshape(data.shape)


def measured_points(data: Complex[Tensor, "slice coil *grid"]) -> Bool[Tensor, "*grid_or_slices"]:
    """Where any coil holds a nonzero sample: (ky, kx) where all slices agree, else per slice."""
    # numpy: torch's threads wait for each other longer than one takes, where cores are busy.
    bits = data.to(torch.complex64).resolve_conj().contiguous().numpy().view(np.int64)
    found = bits[:, 0] & _WITHOUT_SIGNS != 0
    for coil in range(1, bits.shape[1]):
        if found.all():
            break
        found |= bits[:, coil] & _WITHOUT_SIGNS != 0
    same = bool((found == found[:1]).all())
    return torch.from_numpy(found[0] if same else found)
