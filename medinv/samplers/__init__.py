"""The loop over noise levels, and steps from one to the next."""

from medinv.samplers.descend import OnStep, Run, descend
from medinv.samplers.predictor_corrector import langevin, reverse_diffusion
from medinv.samplers.renoise import ddim_split, fixed_split, gaussian_like

__all__ = [
    "OnStep",
    "Run",
    "ddim_split",
    "descend",
    "fixed_split",
    "gaussian_like",
    "langevin",
    "reverse_diffusion",
]
