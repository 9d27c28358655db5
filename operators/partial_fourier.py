"""Partial Fourier: half of k-space tells the other, once the image's phase is known.

An image ``x = m exp(i phi)`` with real ``m`` has half as many unknowns, so a little more than half
of k-space determines it. The smooth phase comes from the part that was sampled symmetrically, and
``A @ KnownPhase(phi)`` is an operator on real images that any solver takes. Without noise its
solution is what homodyne detection and POCS look for; coils and undersampling are included:

    phase = low_resolution_phase(A.adjoint(y), (32, 32))
    m = (A @ KnownPhase(phase)).solve(y, damping=1e-3)

Source: Noll, Nishimura and Macovski, "Homodyne detection", IEEE Trans. Med. Imaging 10 (1991),
154; POCS: Haacke, Lindskogj and Lin, J. Magn. Reson. 92 (1991), 126.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medinv.arguments import checked
from medinv.errors import ShapeError
from medinv.operators import fourier
from medinv.operators.base import LinearOperator, Space


class KnownPhase(LinearOperator):
    """Real images to complex ones with a given phase, ``m -> m exp(i phi)``.

    The adjoint, ``Re(exp(-i phi) x)``, is that of the real inner product ``Re <u, v>``, the one
    that a gradient knows.

    Args:
        phase: ``phi`` in radians, ``([z,] y, x)`` or as the domain of the operator before which
            it stands.

    Raises:
        ShapeError: a phase that is not real or not finite.

    Example:
        >>> P = KnownPhase(torch.full((2, 2), torch.pi / 2))
        >>> P.adjoint(P(torch.ones(2, 2))).tolist(), P.norm()
        ([[1.0, 1.0], [1.0, 1.0]], 1.0)
    """

    phasor: Tensor

    @checked
    def __init__(self, phase: Tensor) -> None:
        if (phase.dtype not in (torch.float32, torch.float64)
                or not bool(torch.isfinite(phase).all())):
            raise ShapeError(f"KnownPhase: phase is {phase.dtype}, {tuple(phase.shape)}; pass "
                             "finite radians, a real tensor (image.angle()).")
        shape = tuple(phase.shape)
        super().__init__(Space(shape, phase.dtype), Space(shape, phase.dtype.to_complex()))
        self.register_buffer("phasor", torch.polar(torch.ones_like(phase), phase))

    def _forward(self, x: Tensor) -> Tensor:
        return self.phasor * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return (self.phasor.conj() * y).real

    def _normal(self, x: Tensor) -> Tensor:
        return x.clone()

    def norm(self) -> float:
        """1: a phase changes no magnitude."""
        return 1.0


def low_resolution_phase(image: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Phase of an image after a Hann window over the centre of its k-space.

    Args:
        image: complex, ``(*batch, [z,] y, x)``; a zero-filled reconstruction will do.
        sizes: width of the centre along the last axes: what was sampled on both sides.

    Returns:
        Radians, real, shaped like ``image``.

    Raises:
        ShapeError: an image that is not complex, or sizes that don't fit it.

    Example:
        >>> image = torch.full((8, 8), 1j, dtype=torch.complex64)
        >>> bool((low_resolution_phase(image, (4, 4)) - torch.pi / 2).abs().max() < 1e-6)
        True
    """
    full = tuple(image.shape[-len(sizes):])
    if not image.is_complex() or not all(0 < m <= n for m, n in zip(sizes, full, strict=True)):
        raise ShapeError(f"low_resolution_phase: image is {image.dtype}, {tuple(image.shape)} and "
                         f"sizes {sizes}; pass a complex image and sizes up to {full}.")
    axes = range(-len(sizes), 0)
    spectrum = fourier.fft(image, axes)
    for axis, size in zip(axes, sizes, strict=True):
        n = spectrum.shape[axis]
        k = torch.arange(n, dtype=image.dtype.to_real(), device=image.device) - n // 2
        window = torch.where(k.abs() <= size // 2, (torch.pi * k / (size + 1)).cos() ** 2, 0)
        spectrum = spectrum * window.reshape(-1, *(1,) * (-axis - 1))
    return fourier.ifft(spectrum, axes).angle()
