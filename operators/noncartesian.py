"""Multi-coil MRI on any trajectory.

``y_c(k) = F (S_c x)(k)`` with coil maps ``S`` and the orthonormal Fourier sum ``F`` of
`medinv.operators.nufft` at the points of a trajectory, or ``y = W^(1/2) F S x`` with weights.

A trajectory is ``(*samples, axis)``: its last axis holds ``(ky, kx)`` or ``(kz, ky, kx)``, in
cycles per field of view, each in ``[-n/2, n/2]`` where the image has ``n`` pixels (as sigpy's;
BART's has the same unit in the order kx, ky, kz). Whole numbers are the Cartesian grid, on which
these operators equal `CartesianMRI`. With ``S`` normalised ``||A||^2`` is about the
highest density of the samples per cell of that grid; ``A.normalized()`` scales it to 1.

A `StackOfStars` (or of spirals) takes the same trajectory and gives the same ``y``, but uses that
one axis of it is Cartesian: an FFT along that axis, and Fourier sums in the plane of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from medinv.arguments import checked
from medinv.errors import InputError
from medinv.operators import fourier
from medinv.operators.base import LinearOperator, Space
from medinv.operators.nufft import NUFFT, toeplitz_normal, toeplitz_spectrum
from medinv.operators.trajectory_checks import check_maps, check_trajectory, fit_weights

# Coil images that pass together: through the FFTs of the normal operator (they should stay in the
# processor's cache), and through a plan.
_TOEPLITZ_BYTES = {"cpu": 2**21, "cuda": 2**29}
_PLAN_BYTES = {"cpu": 2**26, "cuda": 2**30}


class NonCartesianMRI(LinearOperator):
    """Multi-coil MRI of slices (2D trajectory) or of a volume (3D) on any trajectory.

    Args:
        maps: coil maps, ``(*slices, coil, y, x)`` or ``(coil, z, y, x)``.
        trajectory: ``(*samples, 2 or 3)``, cycles per field of view; see the module.
        weights: ``W``, at least 0, broadcasts against ``(*samples)``; such as density
            compensation, which preconditions `solve`. Weigh the measurement as well:
            ``A.solve(weights.sqrt() * y)``; ``A.adjoint(weights.sqrt() * y)`` is gridding.
        shift: added to the trajectory, per axis, in its units: where the scanner's k-space centre
            lies off the nominal one. (Images are shifted by a linear phase on ``y`` instead.)
        eps: relative accuracy of the Fourier sums, 1e-13 to 0.1.
        toeplitz: compute ``A^H A`` by Toeplitz embedding, from ``2^ndim`` real values per voxel;
            False saves that memory and goes forward and back.

    Attributes:
        domain: ``(*slices, y, x)`` or ``(z, y, x)``.
        codomain: ``(*slices, coil, *samples)`` or ``(coil, *samples)``.
        maps: as given.
        trajectory: float64, with the shift.

    Raises:
        ShapeError: maps or weights of the wrong shape or dtype, or not finite.
        InputError: a trajectory outside the grid or in other units, an accuracy out of reach.

    Source:
        Pruessmann et al., "Advances in sensitivity encoding with arbitrary k-space
        trajectories", Magn. Reson. Med. 46 (2001), 638.

    Example:
        >>> from medinv.operators import trajectories
        >>> maps = torch.ones(4, 16, 16, dtype=torch.complex64) / 2
        >>> A = NonCartesianMRI(maps, trajectories.radial(8, 16).points)
        >>> A(torch.ones(16, 16, dtype=torch.complex64)).shape  # coil, spoke, sample
        torch.Size([4, 8, 16])
    """

    maps: Tensor
    trajectory: Tensor
    _root: Tensor | None
    _spectrum: Tensor | None

    @checked
    def __init__(self, maps: Tensor, trajectory: Tensor, *, weights: Tensor | None = None,
                 shift: Sequence[float] = (), eps: float = 1e-6, toeplitz: bool = True) -> None:
        ndim = trajectory.shape[-1] if trajectory.ndim else 0
        check_maps("NonCartesianMRI", maps, ndim)
        grid = tuple(maps.shape[-ndim:])
        points = check_trajectory("NonCartesianMRI", trajectory, grid, shift)
        samples = tuple(trajectory.shape[:-1])
        super().__init__(*_spaces(maps, ndim, samples))
        self.ndim, self.toeplitz, self.n_coils = ndim, toeplitz, maps.shape[-ndim - 1]
        self.register_buffer("maps", maps)
        self.register_buffer("trajectory", points.to(maps.device))
        self.register_buffer("_root", fit_weights("NonCartesianMRI", weights, samples, maps))
        self.register_buffer("_spectrum", None, persistent=False)
        self._nufft = NUFFT(points.reshape(-1, ndim).cpu(), grid, eps)

    def _forward(self, x: Tensor) -> Tensor:
        y = x.new_empty(*x.shape[: self.domain.batch_ndim(x)], *self.codomain.shape)
        signals = y.view(-1, self.n_coils, len(self._nufft.trajectory))
        for item, image, maps in self._items(x):
            for coils in _blocks(maps, _PLAN_BYTES):
                signals[item, coils] = self._nufft.forward(maps[coils] * image)
        return y if self._root is None else y.mul_(self._root)

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(*y.shape[: self.codomain.batch_ndim(y)], *self.domain.shape)
        weighted = y if self._root is None else y * self._root
        signals = weighted.reshape(-1, self.n_coils, len(self._nufft.trajectory))
        for item, image, maps in self._items(x):
            for coils in _blocks(maps, _PLAN_BYTES):
                images = self._nufft.adjoint(signals[item, coils])
                image += torch.linalg.vecdot(maps[coils], images, dim=0)
        return x

    def _normal(self, x: Tensor) -> Tensor:
        if not self.toeplitz:
            return super()._normal(x)
        if self._spectrum is None:
            self._spectrum = self._make_spectrum()
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        results = out.view(-1, *self._nufft.grid)
        axes = tuple(range(-self.ndim, 0))
        for item, image, maps in self._items(x):
            results[item] = toeplitz_normal(image, maps, self._spectrum, axes=axes, shifted=axes,
                                            block=_block(maps, _TOEPLITZ_BYTES))
        return out

    def _make_spectrum(self) -> Tensor:
        nufft = self._nufft
        weights = nufft.trajectory.new_ones(len(nufft.trajectory))
        if self._root is not None:
            weights = self._root.double().cpu().flatten() ** 2
        spectrum = toeplitz_spectrum(nufft.trajectory, weights, nufft.grid, nufft.eps)
        return spectrum.to(self.maps.device, self.maps.dtype.to_real())

    def _items(self, x: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Number, image (a view where ``x`` is contiguous) and maps of each image."""
        images = x.reshape(-1, *self._nufft.grid)
        maps = self.maps.reshape(-1, self.n_coils, *self._nufft.grid)
        for item, image in enumerate(images):
            yield item, image, maps[item % len(maps)]


class StackOfStars(LinearOperator):
    """A volume on a trajectory that is Cartesian along one axis: stack of stars, or of spirals.

    The same as `NonCartesianMRI` on the same trajectory (to its accuracy), and faster.

    Args:
        maps: coil maps, ``(coil, z, y, x)``.
        trajectory: ``(partition, *samples, 3)``, cycles per field of view. Along one axis, most
            often ``kz``, each partition has one whole number. Numbers may be missing or
            repeated, and partitions may differ in the plane.
        eps: relative accuracy of the Fourier sums, 1e-13 to 0.1.

    Attributes:
        domain: ``(z, y, x)``.
        codomain: ``(coil, partition, *samples)``.
        maps: as given.
        trajectory: as given, in float64.
        axis: the Cartesian axis, -3, -2 or -1.

    Raises:
        ShapeError: maps of the wrong shape or dtype, or not finite.
        InputError: a trajectory without a Cartesian axis, outside the grid or in other units.

    Source:
        Block et al., "Towards routine clinical use of radial stack-of-stars 3D gradient-echo
        sequences", J. Korean Soc. Magn. Reson. Med. 18 (2014), 87.

    Example:
        >>> from medinv.operators import trajectories
        >>> maps = torch.ones(4, 6, 16, 16, dtype=torch.complex64) / 2
        >>> stack = trajectories.stack(trajectories.radial(8, 16), 6)
        >>> A = StackOfStars(maps, stack.points)
        >>> A(torch.ones(6, 16, 16, dtype=torch.complex64)).shape  # coil, kz, spoke, sample
        torch.Size([4, 6, 8, 16])
    """

    maps: Tensor
    trajectory: Tensor
    _spectrum: Tensor | None

    @checked
    def __init__(self, maps: Tensor, trajectory: Tensor, *, eps: float = 1e-6) -> None:
        check_maps("StackOfStars", maps, 3)
        grid = tuple(maps.shape[-3:])
        points = check_trajectory("StackOfStars", trajectory, grid)
        super().__init__(*_spaces(maps, 3, tuple(trajectory.shape[:-1])))
        self.axis = _cartesian_axis(points)
        self.n_coils, self._n = maps.shape[0], grid[self.axis]
        self.register_buffer("maps", maps)
        self.register_buffer("trajectory", points.to(maps.device))
        self.register_buffer("_spectrum", None, persistent=False)
        plane = [axis for axis in (-3, -2, -1) if axis != self.axis]
        numbers = points[..., self.axis].reshape(len(points), -1)[:, 0]
        self._index = (numbers.round().long() + self._n // 2) % self._n
        self._stars = [(NUFFT(star, [grid[axis] for axis in plane], eps), members)
                       for star, members in _distinct(points[..., plane].flatten(1, -2))]

    def _forward(self, x: Tensor) -> Tensor:
        y = x.new_empty(*x.shape[: self.domain.batch_ndim(x)], *self.codomain.shape)
        signals = self._flat_signals(y)
        for item, image in enumerate(self._moved(x)):
            for coils in _blocks(self.maps, _PLAN_BYTES):
                spectrum = fourier.fft(self._moved_maps(coils) * image, [-3])
                for nufft, members in self._stars:
                    planes = spectrum[:, self._index[members]].flatten(0, 1)
                    signal = nufft.forward(planes).reshape(-1, len(members), signals.shape[-1])
                    signals[item][coils, members] = signal
        return y

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(*y.shape[: self.codomain.batch_ndim(y)], *self.domain.shape)
        signals = self._flat_signals(y)
        for item, image in enumerate(self._moved(x)):
            for coils in _blocks(self.maps, _PLAN_BYTES):
                maps = self._moved_maps(coils)
                spectrum = torch.zeros_like(maps)
                for nufft, members in self._stars:
                    planes = nufft.adjoint(signals[item][coils, members].flatten(0, 1))
                    spectrum.index_add_(1, self._index[members].to(y.device),
                                        planes.reshape(-1, len(members), *nufft.grid))
                image += torch.linalg.vecdot(maps, fourier.ifft(spectrum, [-3]), dim=0)
        return x

    def _normal(self, x: Tensor) -> Tensor:
        if self._spectrum is None:
            self._spectrum = self._make_spectrum()
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        axes = (-2, -1) if self._spectrum.shape[-3] == 1 else (-3, -2, -1)
        maps = self._moved_maps(slice(None))
        for image, result in zip(self._moved(x), self._moved(out), strict=True):
            result.copy_(toeplitz_normal(image, maps, self._spectrum, axes=axes, shifted=(-2, -1),
                                         block=_block(maps, _TOEPLITZ_BYTES)))
        return out

    def _make_spectrum(self) -> Tensor:
        """One plane per Cartesian number, or one for all where all are sampled alike."""
        planes = self._moved_maps(slice(1)).shape[-2:]
        spectrum = torch.zeros(4, self._n, *planes, dtype=self.maps.dtype.to_real())
        for nufft, members in self._stars:
            weights = nufft.trajectory.new_ones(len(nufft.trajectory))
            plane = toeplitz_spectrum(nufft.trajectory, weights, nufft.grid, nufft.eps)
            for index in self._index[members].tolist():
                spectrum[:, index] += plane
        if torch.equal(spectrum, spectrum[:, :1].expand_as(spectrum)):
            spectrum = spectrum[:, :1]
        uncentred: Tensor = torch.fft.ifftshift(spectrum, dim=1)
        return uncentred.to(self.maps.device)

    def _moved(self, x: Tensor) -> Tensor:
        """View ``(*batch, z, y, x)`` as ``(item, Cartesian axis, *plane)``."""
        return x.reshape(-1, *self.domain.shape).movedim(self.axis, -3)

    def _moved_maps(self, coils: slice) -> Tensor:
        return self.maps[coils].movedim(self.axis, -3)

    def _flat_signals(self, y: Tensor) -> Tensor:
        """View ``y`` as ``(item, coil, partition, sample)``."""
        return y.reshape(-1, self.n_coils, len(self._index), math.prod(self.codomain.shape[2:]))


def _spaces(maps: Tensor, ndim: int, samples: tuple[int, ...]) -> tuple[Space, Space]:
    slices, n_coils = tuple(maps.shape[: -ndim - 1]), maps.shape[-ndim - 1]
    slice_axes, sample_axes = ("slice",) * len(slices), ("sample",) * len(samples)
    return (Space((*slices, *maps.shape[-ndim:]), maps.dtype, (*slice_axes, *"zyx"[-ndim:])),
            Space((*slices, n_coils, *samples), maps.dtype, (*slice_axes, "coil", *sample_axes)))


def _block(maps: Tensor, limit: dict[str, int]) -> int:
    """How many coils pass together."""
    return max(1, limit[maps.device.type] // (maps.element_size() * maps[0].numel()))


def _blocks(maps: Tensor, limit: dict[str, int]) -> Iterator[slice]:
    block = _block(maps, limit)
    return (slice(first, first + block) for first in range(0, len(maps), block))


def _cartesian_axis(points: Tensor) -> int:
    """The first axis along which every partition has one whole number."""
    if points.ndim > 2:
        flat = points.flatten(1, -2)
        for axis in (-3, -2, -1):
            numbers = flat[..., axis]
            if torch.equal(numbers, numbers[:, :1].round().expand_as(numbers)):
                return axis
    raise InputError(
        f"StackOfStars: no axis of the trajectory {tuple(points.shape)} holds one whole number "
        "per partition; pass (partition, *samples, 3), or use NonCartesianMRI.")


def _distinct(stars: Tensor) -> list[tuple[Tensor, list[int]]]:
    """The different ones among ``(partition, sample, 2)``, with the partitions of each."""
    groups: list[tuple[Tensor, list[int]]] = []
    for partition, star in enumerate(stars):
        for known, members in groups:
            if torch.equal(known, star):
                members.append(partition)
                break
        else:
            groups.append((star, [partition]))
    return groups
