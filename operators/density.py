"""Density compensation: the area or volume of k-space that each sample stands for.

In units of a cell of the Cartesian grid (one square or cubic cycle per field of view), so that
weights of 1 are right on that grid and gridding, ``F^H (w y)``, keeps the image's intensity.
Passed to `NonCartesianMRI` as ``weights`` they precondition its least squares: fewer iterations,
at the price of a little more noise, as the weights are not the noise's (Pruessmann et al., Magn.
Reson. Med. 46 (2001), 638).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medinv.errors import InputError
from medinv.operators.nufft import NUFFT
from medinv.operators.trajectory_checks import check_trajectory


def radial_ramp(trajectory: Tensor) -> Tensor:
    """Exact areas of spokes in 2D, at any angles; volumes of evenly spread spokes in 3D.

    A sample at radius ``r`` stands for a step ``dr`` along the spoke times ``|r| dtheta`` in 2D,
    where ``dtheta`` reaches half-way to the neighbouring spokes, and times ``r^2 dOmega`` in 3D,
    where all spokes share the sphere alike. The centre is a disc or ball shared by all spokes.

    Args:
        trajectory: spokes, ``(spoke, sample, 2 or 3)``, straight, through the centre, evenly
            sampled from edge to edge; cycles per field of view.

    Returns:
        ``(spoke, sample)``, float64.

    Raises:
        InputError: readouts that are not such spokes.

    Example:
        >>> from medinv.operators import trajectories
        >>> w = radial_ramp(trajectories.radial(4, 8).points)
        >>> torch.allclose(w[0, 4:6] / math.pi, torch.tensor([1 / 16, 1 / 4]).double())
        True
    """
    points = trajectory.double()
    ndim = points.shape[-1]
    if points.ndim != 3 or ndim not in (2, 3) or points.shape[1] < 2:
        raise InputError(f"radial_ramp: the trajectory is {tuple(points.shape)}; pass "
                         "(spoke, sample, 2 or 3), two samples or more.")
    steps = points.diff(dim=1)
    step, radius = steps[:, :1].norm(dim=-1), points.norm(dim=-1)
    straight = torch.allclose(steps, steps[:, :1].expand_as(steps), atol=1e-4)
    if not (straight and bool((radius.amin(1) < 0.51 * step[:, 0]).all())):
        raise InputError("radial_ramp: readouts are not straight, evenly sampled lines through "
                         "the centre; use pipe_menon for other trajectories.")
    if ndim == 3:
        volume: Tensor = 2 * math.pi / len(points) * step * (radius**2 + step**2 / 12)
        return volume
    ring = torch.where(radius < 0.5 * step, radius**2 / step + step / 4, radius)
    area: Tensor = _angular_width(steps[:, 0])[:, None] * step * ring
    return area


def _angular_width(directions: Tensor) -> Tensor:
    """Half-way from the neighbour on one side to the other's, over half a turn; ``(spoke,)``."""
    angles, order = torch.sort(torch.atan2(*directions.unbind(-1)) % math.pi)
    gaps = torch.diff(angles, append=angles[:1] + math.pi)
    return torch.empty_like(gaps).scatter_(0, order, (gaps + gaps.roll(1)) / 2)


def pipe_menon(trajectory: Tensor, shape: Sequence[int], *, max_iter: int = 30) -> Tensor:
    """Weights for any trajectory, by sigpy's iteration ``w / |G^H G w|`` with a gridding kernel.

    They are scaled so that gridding keeps the intensity of a smooth object (a Gaussian whose
    standard deviation is an eighth of the field of view) in least squares.

    Args:
        trajectory: ``(*samples, 2 or 3)``, cycles per field of view.
        shape: pixels along each axis.
        max_iter: number of iterations.

    Returns:
        ``(*samples)``, float64.

    Raises:
        InputError: a trajectory outside the grid or in other units.

    Source:
        Pipe and Menon, "Sampling density compensation in MRI: rationale and an iterative
        numerical solution", Magn. Reson. Med. 41 (1999), 179.

    Example:
        >>> k = torch.cartesian_prod(torch.arange(-8.0, 8), torch.arange(-8.0, 8))
        >>> w = pipe_menon(k, (16, 16))  # a Cartesian grid
        >>> (w - 1).abs().max().item() < 0.05
        True
    """
    import sigpy.mri

    if trajectory.shape[-1] != len(shape):
        raise InputError(f"pipe_menon: the trajectory has {trajectory.shape[-1]} axes but shape "
                         f"is {tuple(shape)}; pass one number of pixels per axis.")
    points = check_trajectory("pipe_menon", trajectory, shape).cpu()
    weights = torch.from_numpy(sigpy.mri.pipe_menon_dcf(points.numpy(), tuple(shape),
                                                        max_iter=max_iter, show_pbar=False))
    transform = NUFFT(points.reshape(-1, len(shape)), shape, eps=1e-4)
    smooth = _gaussian(shape)
    gridded = transform.adjoint(weights.reshape(1, -1) * transform.forward(smooth[None]))[0]
    scale = (smooth * gridded).real.sum() / gridded.abs().square().sum()
    return (scale * weights).to(trajectory.device)


def _gaussian(shape: Sequence[int]) -> Tensor:
    """Centred in the field of view, an eighth of it wide; complex128."""
    axes = [((torch.arange(n, dtype=torch.float64) - n // 2) * 8 / n) ** 2 for n in shape]
    distances = torch.stack(torch.meshgrid(*axes, indexing="ij")).sum(0)
    return torch.exp(-0.5 * distances).to(torch.complex128)
