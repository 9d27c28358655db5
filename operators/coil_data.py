"""Linear transforms over the coils: compression to fewer, and prewhitening.

Both replace the coils by combinations of them, ``y'_v = sum_c M_vc y_c``, in k-space and maps
alike, and the image stays what it was. Where noise is white with unit covariance, rows that are
orthonormal keep it so.

By medinv's convention sigma is the standard deviation of each *real* component: whitened noise
has sigma 1, so that ``E n n^H = 2 I``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex
from torch import Tensor

from medinv.errors import InputError, ShapeError
from medinv.operators import fourier


@dataclass(frozen=True, eq=False)
class CoilTransform:
    """The same combinations of coils everywhere.

    Attributes:
        matrix: ``(virtual, coil)``.

    Example:
        >>> pair = CoilTransform(torch.tensor([[0.6, 0.8]]) + 0j)
        >>> pair.kspace(torch.ones(5, 2, 4, 4) + 0j).shape
        torch.Size([5, 1, 4, 4])
    """

    matrix: Tensor

    def kspace(self, y: Tensor, *, ndim: int = 2) -> Tensor:
        """k-space ``(..., coil, [kz,] ky, kx)`` of the virtual coils.

        Raises:
            ShapeError: another number of coils than the matrix has columns.
        """
        axis = _coil_axis(y, ndim, self.matrix.shape[-1])
        matrix = self.matrix.to(y.device, y.dtype)
        virtual: Tensor = torch.tensordot(matrix, y, ([1], [axis]))
        return virtual.movedim(0, axis)

    def maps(self, maps: Tensor, *, ndim: int = 2) -> Tensor:
        """Maps ``(..., coil, [z,] y, x)`` of the virtual coils; the same combinations."""
        return self.kspace(maps, ndim=ndim)


@dataclass(frozen=True, eq=False)
class ReadoutCoilTransform:
    """Other combinations of coils at each position along the readout.

    Attributes:
        matrix: ``(readout, virtual, coil)``.
        axis: the readout, counted from the end of k-space.

    Example:
        >>> each = ReadoutCoilTransform(torch.eye(2, dtype=torch.complex64).expand(4, 2, 2))
        >>> y = torch.randn(2, 6, 4, dtype=torch.complex64)
        >>> torch.allclose(each.kspace(y), y, atol=1e-6)
        True
    """

    matrix: Tensor
    axis: int = -1

    def kspace(self, y: Tensor, *, ndim: int = 2) -> Tensor:
        """k-space ``(..., coil, [kz,] ky, kx)`` of the virtual coils.

        Raises:
            ShapeError: another number of coils or readout samples than the matrix has.
        """
        hybrid = self.maps(fourier.ifft(y, [self.axis]), ndim=ndim)
        return fourier.fft(hybrid, [self.axis])

    def maps(self, maps: Tensor, *, ndim: int = 2) -> Tensor:
        """Maps ``(..., coil, [z,] y, x)`` of the virtual coils."""
        axis = _coil_axis(maps, ndim, self.matrix.shape[-1])
        if maps.shape[self.axis] != len(self.matrix):
            raise ShapeError(f"ReadoutCoilTransform: the readout has {maps.shape[self.axis]} "
                             f"samples but the matrix {len(self.matrix)}; compress before "
                             "cropping, or make the matrix from cropped data.")
        hybrid = maps.movedim((self.axis, axis), (0, 1))
        matrix = self.matrix.to(maps.device, maps.dtype)
        virtual = torch.bmm(matrix, hybrid.flatten(2)).reshape(
            *matrix.shape[:2], *hybrid.shape[2:])
        return virtual.movedim((0, 1), (self.axis, axis))


def svd_compression(kspace: Tensor, n_coils: int, *, ndim: int = 2) -> CoilTransform:
    """The ``n_coils`` orthonormal combinations that hold most of the energy.

    Args:
        kspace: ``(..., coil, [kz,] ky, kx)``; the central part is enough.
        n_coils: number of virtual coils.
        ndim: number of Fourier axes, 2 or 3.

    Raises:
        ShapeError: k-space that is not complex or lacks axes.
        InputError: more virtual coils than coils, or none; k-space that is 0 or not finite.

    Source:
        Buehrer et al., "Array compression for MRI", Magn. Reson. Med. 57 (2007), 1131.

    Example:
        >>> kspace = torch.randn(8, 16, 16, dtype=torch.complex64)
        >>> svd_compression(kspace, 3).kspace(kspace).shape
        torch.Size([3, 16, 16])
    """
    samples = _samples("svd_compression", kspace, n_coils, ndim).flatten(1)
    return CoilTransform(_main_combinations(samples, n_coils))


def geometric_compression(kspace: Tensor, n_coils: int, *, axis: int = -1,
                          ndim: int = 2) -> ReadoutCoilTransform:
    """At each position along the readout the best ``n_coils`` combinations, aligned smoothly.

    Args:
        kspace: ``(..., coil, [kz,] ky, kx)``, its readouts sampled fully or not at all.
        n_coils: number of virtual coils.
        axis: the readout, counted from the end.
        ndim: number of Fourier axes, 2 or 3.

    Raises:
        ShapeError: k-space that is not complex or lacks axes.
        InputError: more virtual coils than coils, or none; k-space that is 0 or not finite;
            readouts that are sampled in part.

    Source:
        Zhang, Pauly, Vasanawala and Lustig, "Coil compression for accelerated imaging with
        Cartesian sampling", Magn. Reson. Med. 69 (2013), 571.

    Example:
        >>> kspace = torch.randn(8, 16, 12, dtype=torch.complex64)
        >>> geometric_compression(kspace, 3).matrix.shape
        torch.Size([12, 3, 8])
    """
    if not -ndim <= axis < 0:
        raise InputError(f"geometric_compression: axis is {axis}; count the readout from the end, "
                         f"-1 to -{ndim}.")
    samples = _samples("geometric_compression", kspace, n_coils, ndim)
    sampled = (samples != 0).any(0)
    if not torch.equal(sampled.any(axis), sampled.all(axis)):
        raise InputError(f"geometric_compression: readouts along axis {axis} are sampled in part; "
                         "pass the fully sampled centre, or use svd_compression.")
    hybrid = fourier.ifft(samples, [axis]).movedim(axis, 0).flatten(2)
    matrices = [_main_combinations(position, n_coils) for position in hybrid]
    for i in range(1, len(matrices)):
        left, _, right = torch.linalg.svd(matrices[i - 1] @ matrices[i].mH)
        matrices[i] = left @ right @ matrices[i]  # the rotation that brings it closest to i - 1
    return ReadoutCoilTransform(torch.stack(matrices), axis)


def prewhitening_matrix(noise: Tensor) -> Complex[Tensor, "coil coil"]:
    """The matrix after which the coils' noise is uncorrelated, with sigma 1.

    ``M = sqrt(2) L^-1`` for the covariance ``E n n^H = L L^H``: afterwards every real component
    has standard deviation 1. Use it through `CoilTransform`, before maps are estimated; maps from
    unwhitened data must be transformed too, and are then no longer of unit length.

    Args:
        noise: ``(coil, ...)``, complex, at least as many samples as coils, no signal. Noise
            that was received at another dwell time is multiplied by
            ``sqrt(dwell of the noise / dwell of the scan)`` beforehand.

    Raises:
        ShapeError: noise that is not complex or has no axis besides the coils.
        InputError: too few samples, or coils that are dead or copies of each other.

    Source:
        Pruessmann et al., "Advances in sensitivity encoding with arbitrary k-space
        trajectories", Magn. Reson. Med. 46 (2001), 638.

    Example:
        >>> noise = 3 * torch.randn(2, 4000, dtype=torch.complex64)
        >>> white = CoilTransform(prewhitening_matrix(noise)).kspace(noise[..., None])
        >>> round(white.real.std().item(), 1)
        1.0
    """
    if not noise.is_complex() or noise.ndim < 2:
        raise ShapeError(f"prewhitening_matrix: noise is {noise.dtype}, {tuple(noise.shape)}; "
                         "pass complex samples (coil, ...).")
    samples = noise.flatten(1).to(torch.complex128)
    n_coils, n = samples.shape
    if n < max(n_coils, 1) or n_coils == 0:
        raise InputError(f"prewhitening_matrix: {n} noise samples for {n_coils} coils; pass more "
                         "samples than coils, several hundred if possible.")
    factor, failed = torch.linalg.cholesky_ex(samples @ samples.mH / n)
    diagonal = factor.diagonal().real
    if int(failed) or not bool(diagonal.min() > 1e-6 * diagonal.max()):
        raise InputError("prewhitening_matrix: the noise covariance is singular: a coil is dead, "
                         "a copy of another, or its noise not finite; drop that coil.")
    identity = torch.eye(n_coils, dtype=factor.dtype, device=noise.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return (math.sqrt(2) * inverse).to(noise.dtype)


def noise_from_corners(kspace: Tensor, *, fraction: float = 0.05,
                       ndim: int = 2) -> Complex[Tensor, "coil sample"]:
    """Samples from the outermost k-space, where noise outweighs the signal.

    For data without a noise scan; what signal is left makes the noise look larger.

    Args:
        kspace: ``(..., coil, [kz,] ky, kx)``; zero where not sampled.
        fraction: part of the samples to take, the farthest from the centre of k-space.
        ndim: number of Fourier axes, 2 or 3.

    Raises:
        ShapeError: k-space that is not complex or lacks axes.
        InputError: a fraction outside (0, 1], or k-space that is 0 or not finite.

    Example:
        >>> noise_from_corners(torch.randn(8, 20, 20, dtype=torch.complex64)).shape
        torch.Size([8, 20])
    """
    if not 0 < fraction <= 1:
        raise InputError(f"noise_from_corners: fraction is {fraction}; pass a number in (0, 1].")
    samples = _samples("noise_from_corners", kspace, 1, ndim)
    radius = torch.zeros((), device=kspace.device)
    for n in samples.shape[2:]:
        k = (torch.arange(n, device=kspace.device) - n // 2) / n
        radius = radius.unsqueeze(-1) + k.square()
    sampled = (samples != 0).any(0)
    distance = radius.expand(sampled.shape)[sampled]
    farthest = distance.topk(max(1, round(fraction * distance.numel()))).indices
    return samples[:, sampled][:, farthest]


def _coil_axis(x: Tensor, ndim: int, n_coils: int) -> int:
    axis = x.ndim - ndim - 1
    if axis < 0 or x.shape[axis] != n_coils:
        raise ShapeError(f"coil transform: expected {n_coils} coils before the last {ndim} axes, "
                         f"got {tuple(x.shape)}; give ndim=3 for volumes.")
    return axis


def _samples(name: str, kspace: Tensor, n_virtual: int, ndim: int) -> Tensor:
    """k-space as ``(coil, item, *grid)``, checked."""
    if not kspace.is_complex() or kspace.ndim < ndim + 1:
        raise ShapeError(f"{name}: k-space is {tuple(kspace.shape)}, {kspace.dtype}; pass a "
                         f"complex tensor (..., coil{', kz' * (ndim == 3)}, ky, kx).")
    n_coils = kspace.shape[-ndim - 1]
    if not 0 < n_virtual <= n_coils:
        raise InputError(f"{name}: {n_virtual} virtual coils from {n_coils}; pass a number from "
                         f"1 to {n_coils}.")
    energy = float(torch.linalg.vector_norm(kspace))
    if not 0 < energy < math.inf:
        raise InputError(f"{name}: k-space is 0 everywhere or holds NaN or infinite samples; "
                         "check the file.")
    return kspace.reshape(-1, *kspace.shape[-ndim - 1:]).movedim(1, 0)


def _main_combinations(samples: Tensor, n_coils: int) -> Complex[Tensor, "virtual coil"]:
    """Orthonormal rows with the largest energy of ``(coil, sample)`` first."""
    vectors: Tensor = torch.linalg.eigh(samples @ samples.mH).eigenvectors
    return vectors[:, -n_coils:].flip(-1).mH
