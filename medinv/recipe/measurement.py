"""From the measurement block of a recipe to ``y``, its operator and its geometry."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Generator, Tensor

from medinv.data import Volume, block_mean, crop, load_volume, read_volume, shepp_logan
from medinv.data.mri.kspace import centre
from medinv.errors import DataError, DownloadError, MedinvWarning
from medinv.operators.base import LinearOperator
from medinv.problem import Problem
from medinv.recipe.blocks import Interval, VolumeSource


@dataclass(frozen=True, eq=False)
class Measured:
    """A measurement that is ready for a solver.

    Attributes:
        y: the samples, ``(z, *A.codomain.shape)`` or ``A.codomain.shape``.
        A: their operator.
        noise_std: std of each real component of the noise in ``y``, known or estimated.
        to_volume: an image in physical units (1/mm for CT) as a volume in output units (HU).
        unit: the output unit.
        reference: the true image in physical units, where the measurement is simulated, or the
            file's own; it may show the centre of the slices only, see `compared`.
        origin: one sentence for people: what was measured or simulated, and from what. It names
            no file, as file names often hold patient names.
        notes: what they should know beside it, such as a fallback.
        facts: numbers for metrics.json.
    """

    y: Tensor
    A: LinearOperator
    noise_std: float
    to_volume: Callable[[Tensor], Volume]
    unit: str
    reference: Tensor | None
    origin: str
    notes: tuple[str, ...]
    facts: dict[str, object]

    def __repr__(self) -> str:
        """What it is, and its operator; not the samples."""
        return f"Measured({self.origin}; {self.A})"

    def compared(self, x: Tensor) -> Tensor:
        """The part of an image that the reference shows: the centre of its slices."""
        return x if self.reference is None else central(x, self.reference.shape)

    @property
    def problem(self) -> Problem:
        """What a solver is called with."""
        return Problem(self.y, self.A, noise_std=self.noise_std)

    def to(self, device: torch.device) -> Measured:
        """With ``y`` and ``A`` on a device; the operator itself is moved. Images stay."""
        return replace(self, y=self.y.to(device), A=self.A.to(device))


def central(image: Tensor, shape: Sequence[int]) -> Tensor:
    """The centre of slices (*batch, y, x), at most as large as ``shape`` (*batch, y, x).

    >>> central(torch.zeros(2, 8, 6), (2, 4, 9)).shape
    torch.Size([2, 4, 6])
    """
    for axis in (-2, -1):
        image = centre(image, axis, min(shape[axis], image.shape[axis]))
    return image


@dataclass(frozen=True, eq=False)
class Source:
    """A volume, what it is called, and what people should know of it."""

    volume: Volume
    title: str
    notes: tuple[str, ...] = ()
    phantom: bool = False


def load_source(source: VolumeSource, path: Path | Volume | None) -> Source:
    """The volume that a recipe names, or the file or volume ``path`` instead of it.

    Raises:
        DataError: no such data set or file, or it is not a volume.
        DownloadError: the data set cannot be fetched and the recipe names no fallback.
    """
    if isinstance(path, Volume):
        return _input(path)
    file = path or (Path(source.path) if source.path else None)
    if file is not None:
        with warnings.catch_warnings():  # repairs are told with the other notes
            warnings.simplefilter("ignore", MedinvWarning)
            return _input(read_volume(file))
    if source.manifest is None:
        return _phantom(source)
    try:
        volume = load_volume(source.manifest, source.file, split=source.split)
    except DownloadError:
        if source.fallback is None:
            raise
        note = (
            f"the data set {source.manifest} could not be fetched, so a phantom stands in for it; "
            f"`medinv data fetch {source.manifest}` says why"
        )
        phantom = _phantom(source)
        return Source(phantom.volume, phantom.title, (note,), phantom=True)
    part = f", {source.split} slices" if source.split else ""
    return Source(volume, f"{source.manifest}{part}")


def _input(volume: Volume) -> Source:
    repairs = volume.metadata.get("notes", ())
    return Source(volume, "the input volume", repairs if isinstance(repairs, tuple) else ())


def _phantom(source: VolumeSource) -> Source:
    return Source(shepp_logan(source.phantom_shape), "3D Shepp-Logan phantom", phantom=True)


def select(volume: Volume, slices: Interval | None, pool: tuple[int, int, int]) -> Volume:
    """The wanted slices along z, averaged over blocks of ``pool`` (z, y, x) voxels.

    Raises:
        DataError: the volume has fewer slices.
    """
    if slices is not None:
        check_slices(slices, volume.data.shape[0])
        volume = crop(volume, (slice(*slices), slice(None), slice(None)))
    return volume if pool == (1, 1, 1) else block_mean(volume, pool)


def check_slices(slices: Interval, n_slices: int) -> None:
    """Raise `DataError` unless there are that many slices."""
    if slices[1] > n_slices:
        raise DataError(
            f"measurement.slices: expected [start, stop] within the {n_slices} slices, got "
            f"{list(slices)}; lower it, or leave it out for all slices"
        )


def add_noise(y: Tensor, std: float, rng: Generator) -> Tensor:
    """``y`` plus white noise, ``std`` for each real component."""
    shape = (*y.shape, 2) if y.is_complex() else tuple(y.shape)
    noise = torch.randn(shape, generator=rng, dtype=y.real.dtype)
    return y + std * (torch.view_as_complex(noise) if y.is_complex() else noise)
