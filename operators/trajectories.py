"""Non-Cartesian trajectories, named as in the papers that use them.

Points are in cycles per field of view (see `medinv.operators.noncartesian`) of an image with ``n``
pixels along every axis, so k-space is a disc or ball of radius ``n / 2``.

Papers mean different things by an acceleration. Here it is the number of readouts that would
bring neighbouring readouts everywhere as close as Nyquist asks, one cycle per field of view, over
the number of readouts taken; each function says how many those are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medinv.errors import InputError

_GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Where and when k-space is sampled.

    Attributes:
        points: float64, ``(readout, sample, axis)``, the axes ``(ky, kx)`` or ``(kz, ky, kx)``; of
            a stack ``(partition, readout, sample, 3)``. Pass it to `NonCartesianMRI`.
        times_ms: ``(sample,)``, since the start of the readout.
        nyquist_readouts: how many readouts would be enough everywhere.
        name: how it was made.

    Example:
        >>> radial(16, 64)
        radial(16, 64): 16 x 64 samples, acceleration 6.28
    """

    points: Tensor
    times_ms: Tensor
    nyquist_readouts: float
    name: str

    @property
    def acceleration(self) -> float:
        """Readouts that Nyquist asks for, over readouts taken."""
        return self.nyquist_readouts / self.points.shape[:-2].numel()

    def __repr__(self) -> str:
        """Name, sizes and acceleration."""
        sizes = " x ".join(map(str, self.points.shape[:-1]))
        return f"{self.name}: {sizes} samples, acceleration {self.acceleration:.2f}"


def radial(n_spokes: int, n: int, *, oversampling: int = 1, dwell_ms: float = 0.005) -> Trajectory:
    """Spokes through the centre, at equal angles over half a turn.

    Nyquist: ``pi n / 2`` spokes, which lie one cycle apart at the edge.

    Args:
        n_spokes: number of spokes.
        n: pixels of the image along each axis.
        oversampling: samples along a spoke, in units of ``n``.
        dwell_ms: time from a sample to the next.

    Source:
        Lauterbur, Nature 242 (1973), 190.

    Example:
        >>> radial(2, 4).points[1].round().tolist()  # the second spoke runs along ky
        [[-2.0, -0.0], [-1.0, -0.0], [0.0, 0.0], [1.0, 0.0]]
    """
    _check("radial", n_spokes=n_spokes, n=n, oversampling=oversampling)
    angles = torch.arange(n_spokes, dtype=torch.float64) * (math.pi / n_spokes)
    return _spokes(f"radial({n_spokes}, {n})", _on_circle(angles), n, oversampling, dwell_ms,
                   math.pi * n / 2)


def golden_angle(n_spokes: int, n: int, *, tiny: int = 1, oversampling: int = 1,
                 dwell_ms: float = 0.005) -> Trajectory:
    """Spokes through the centre, each turned by the golden angle, or a tiny one, from the last.

    Any consecutive spokes are spread almost evenly. The increment is ``pi / (phi + tiny - 1)``
    with the golden ratio ``phi``: 111.25 degrees for 1, 23.63 degrees for 7 (which spares eddy
    currents). Nyquist: as `radial`.

    Args:
        n_spokes: number of spokes.
        n: pixels of the image along each axis.
        tiny: order of the tiny golden angle; 1 is the golden angle.
        oversampling: samples along a spoke, in units of ``n``.
        dwell_ms: time from a sample to the next.

    Source:
        Winkelmann et al., IEEE Trans. Med. Imaging 26 (2007), 68; tiny: Wundrak et al., Magn.
        Reson. Med. 75 (2016), 2372.

    Example:
        >>> golden_angle(55, 64)
        golden_angle(55, 64): 55 x 64 samples, acceleration 1.83
    """
    _check("golden_angle", n_spokes=n_spokes, n=n, tiny=tiny, oversampling=oversampling)
    angles = torch.arange(n_spokes, dtype=torch.float64) * (math.pi / (_GOLDEN_RATIO + tiny - 1))
    return _spokes(f"golden_angle({n_spokes}, {n})", _on_circle(angles), n, oversampling,
                   dwell_ms, math.pi * n / 2)


def koosh_ball(n_spokes: int, n: int, *, oversampling: int = 1,
               dwell_ms: float = 0.005) -> Trajectory:
    """Spokes through the centre of a ball, spread by the two golden means.

    Nyquist: ``pi n^2 / 2`` spokes, whose ``pi n^2`` ends have one square cycle each on the sphere.

    Args:
        n_spokes: number of spokes.
        n: pixels of the volume along each axis.
        oversampling: samples along a spoke, in units of ``n``.
        dwell_ms: time from a sample to the next.

    Source:
        Chan et al., "Temporal stability of adaptive 3D radial MRI using multidimensional golden
        means", Magn. Reson. Med. 61 (2009), 354.

    Example:
        >>> koosh_ball(100, 16)
        koosh_ball(100, 16): 100 x 16 samples, acceleration 4.02
    """
    _check("koosh_ball", n_spokes=n_spokes, n=n, oversampling=oversampling)
    index = torch.arange(n_spokes, dtype=torch.float64)
    # 0.4656 and 0.6823: with 1, the eigenvector of the two-dimensional golden means.
    height, turn = (index * 0.465571231876768) % 1, (index * 0.682327803828019) % 1
    plane = _on_circle(2 * math.pi * turn) * (1 - height**2).sqrt()[:, None]
    directions = torch.cat([height[:, None], plane], -1)
    return _spokes(f"koosh_ball({n_spokes}, {n})", directions, n, oversampling, dwell_ms,
                   math.pi * n**2 / 2)


def spiral(n_interleaves: int, n: int, *, n_turns: float, n_samples: int, density: float = 1.0,
           dwell_ms: float = 0.005) -> Trajectory:
    """Interleaved Archimedean spirals of variable density, from the centre outwards.

    ``k = n/2 tau^density exp(2 pi i n_turns tau)``, run through at constant speed, as where the
    gradient's amplitude is the limit. Nyquist: as many interleaves as bring the turns at the
    edge, where they lie ``density n / (2 n_turns)`` apart, within one cycle.

    Args:
        n_interleaves: number of spirals, each turned by an equal part of a full turn.
        n: pixels of the image along each axis.
        n_turns: turns of one interleave.
        n_samples: samples of one interleave.
        density: power of ``tau``; 1 is Archimedean, more samples the centre denser.
        dwell_ms: time from a sample to the next.

    Source:
        Kim, Adalsteinsson and Spielman, "Simple analytic variable density spiral design", Magn.
        Reson. Med. 50 (2003), 214.

    Example:
        >>> spiral(4, 64, n_turns=8, n_samples=1000)
        spiral(4, 64): 4 x 1000 samples, acceleration 1.00
    """
    _check("spiral", n_interleaves=n_interleaves, n=n, n_turns=n_turns, n_samples=n_samples,
           density=density)
    fine = torch.linspace(0, 1, 20 * n_samples, dtype=torch.float64)
    line = fine[:, None] ** density * _on_circle(2 * math.pi * n_turns * fine)
    tau = _at_constant_speed(fine, line, n_samples)
    turned = torch.arange(n_interleaves, dtype=torch.float64)[:, None] / n_interleaves
    directions = _on_circle(2 * math.pi * (n_turns * tau + turned))
    points = (n / 2 * tau**density)[:, None] * directions
    return Trajectory(points, _times(n_samples, dwell_ms), density * n / (2 * n_turns),
                      f"spiral({n_interleaves}, {n})")


def rosette(n_readouts: int, n: int, *, n_petals: int, n_samples: int,
            dwell_ms: float = 0.005) -> Trajectory:
    """Petals that cross the centre and touch the edge, over and over: ``n_petals`` a readout.

    ``k = n/2 sin(w1 t) exp(i w2 t)``, where ``w1 T = n_petals pi``, and ``w2`` turns a readout's
    petals evenly over the disc. Readouts are turned so that all petals together are even.
    Nyquist: ``pi n`` petals, which touch the edge one cycle apart.

    Args:
        n_readouts: number of readouts.
        n: pixels of the image along each axis.
        n_petals: petals of one readout.
        n_samples: samples of one readout.
        dwell_ms: time from a sample to the next.

    Source:
        Noll, "Multishot rosette trajectories for spectrally selective MR imaging", IEEE Trans.
        Med. Imaging 16 (1997), 372.

    Example:
        >>> rosette(10, 32, n_petals=5, n_samples=500)
        rosette(10, 32): 10 x 500 samples, acceleration 2.01
    """
    _check("rosette", n_readouts=n_readouts, n=n, n_petals=n_petals, n_samples=n_samples)
    turn = math.pi * (1 + 2 / n_petals)  # sin changes sign from petal to petal
    petal = torch.linspace(0, n_petals, n_samples, dtype=torch.float64)
    first = torch.arange(n_readouts, dtype=torch.float64)[:, None]
    angles = turn * petal + 2 * math.pi * first / (n_readouts * n_petals)
    points = (n / 2 * torch.sin(math.pi * petal))[:, None] * _on_circle(angles)
    return Trajectory(points, _times(n_samples, dwell_ms), math.pi * n / n_petals,
                      f"rosette({n_readouts}, {n})")


def stack(plane: Trajectory, n_z: int, *, kz: Tensor | None = None,
          turn: float = 0.0) -> Trajectory:
    """One 2D trajectory on each of several planes ``kz``: stack of stars, stack of spirals.

    Nyquist: as the plane, times ``n_z``.

    Args:
        plane: what to repeat.
        n_z: voxels of the volume along z.
        kz: whole numbers in ``[-n_z/2, n_z/2)``, cycles per field of view, one for each
            partition, in any order; all if None.
        turn: angle in radians by which a partition is turned from the one before;
            ``pi (sqrt(5) - 1) / 2`` is the golden angle.

    Source:
        Block et al., J. Korean Soc. Magn. Reson. Med. 18 (2014), 87; turned: Zhou et al., Magn.
        Reson. Med. 77 (2017), 84.

    Example:
        >>> stack(radial(8, 16), 6)
        stack of 6 radial(8, 16): 6 x 8 x 16 samples, acceleration 3.14
    """
    _check("stack", n_z=n_z)
    if plane.points.ndim != 3 or plane.points.shape[-1] != 2:
        raise InputError(f"stack: {plane.name} has points {tuple(plane.points.shape)}; pass a "
                         "trajectory in the plane, (readout, sample, 2).")
    numbers = torch.arange(n_z) - n_z // 2 if kz is None else kz
    lowest = -(n_z // 2)
    if bool(((numbers != numbers.round()) | (numbers < lowest) | (numbers >= lowest + n_z)).any()):
        raise InputError(f"stack: kz are {numbers.tolist()}; pass whole numbers from {lowest} to "
                         f"{lowest + n_z - 1}.")
    partitions = []
    for i, number in enumerate(numbers.tolist()):
        cos, sin = math.cos(turn * i), math.sin(turn * i)
        ky, kx = plane.points.unbind(-1)
        partitions.append(torch.stack([torch.full_like(ky, number), cos * ky + sin * kx,
                                       cos * kx - sin * ky], -1))
    return Trajectory(torch.stack(partitions), plane.times_ms, plane.nyquist_readouts * n_z,
                      f"stack of {len(numbers)} {plane.name}")


def _on_circle(angles: Tensor) -> Tensor:
    """Unit vectors ``(*angles, 2)`` in the order (ky, kx)."""
    return torch.stack([angles.sin(), angles.cos()], -1)


def _at_constant_speed(parameter: Tensor, line: Tensor, n_samples: int) -> Tensor:
    """``n_samples`` values of the parameter, at equal distances along a line ``(point, 2)``."""
    length = torch.cat([line.new_zeros(1), line.diff(dim=0).norm(dim=-1).cumsum(0)])
    wanted = torch.linspace(0, float(length[-1]), n_samples, dtype=length.dtype)
    return torch.from_numpy(np.interp(wanted.numpy(), length.numpy(), parameter.numpy()))


def _times(n_samples: int, dwell_ms: float) -> Tensor:
    return torch.arange(n_samples, dtype=torch.float64) * dwell_ms


def _spokes(name: str, directions: Tensor, n: int, oversampling: int, dwell_ms: float,
            nyquist: float) -> Trajectory:
    """Samples along each direction from -n/2, the centre at sample ``n_samples // 2``."""
    n_samples = n * oversampling
    radius = (torch.arange(n_samples, dtype=torch.float64) - n_samples // 2) / oversampling
    points = radius[:, None] * directions[:, None]
    return Trajectory(points, _times(n_samples, dwell_ms), nyquist, name)


def _check(name: str, **numbers: float) -> None:
    for argument, number in numbers.items():
        if not number > 0:
            raise InputError(f"{name}: {argument} is {number}; pass a number over 0.")
