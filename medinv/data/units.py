"""Hounsfield units at the file boundary, attenuation in 1/mm inside.

``mu = mu_water (1 + HU / 1000)``. ``mu_water`` depends on the beam (0.02 1/mm near 65 keV); it is
an argument everywhere and stored with results.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from medinv.errors import InputError

MU_WATER = 0.02
"""Default attenuation of water, 1/mm."""


def hu_to_mu(hu: Float[Tensor, "*shape"], mu_water: float = MU_WATER) -> Float[Tensor, "*shape"]:
    """Attenuation (1/mm) of Hounsfield units; below -1000 HU, where none is possible, 0.

    Raises:
        InputError: ``mu_water`` is not positive.

    >>> import torch
    >>> [round(mu, 6) for mu in hu_to_mu(torch.tensor([-1024.0, 0.0, 1000.0])).tolist()]
    [0.0, 0.02, 0.04]
    """
    _check(mu_water)
    return (mu_water * (1 + hu / 1000)).clamp(min=0)


def mu_to_hu(mu: Float[Tensor, "*shape"], mu_water: float = MU_WATER) -> Float[Tensor, "*shape"]:
    """Hounsfield units of an attenuation (1/mm).

    Raises:
        InputError: ``mu_water`` is not positive.

    >>> import torch
    >>> round(mu_to_hu(torch.tensor(0.03)).item())
    500
    """
    _check(mu_water)
    return 1000 * (mu / mu_water - 1)


def _check(mu_water: float) -> None:
    if not mu_water > 0:
        raise InputError(f"mu_water: expected a positive attenuation in 1/mm, got {mu_water}")
