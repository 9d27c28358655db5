"""Steps from one noise level to the next."""

from medinv.samplers.predictor_corrector import langevin, reverse_diffusion
from medinv.samplers.renoise import ddim_split, fixed_split, gaussian_like

__all__ = ["ddim_split", "fixed_split", "gaussian_like", "langevin", "reverse_diffusion"]
