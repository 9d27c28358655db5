"""Schedule-free pieces of samplers, in the VE coordinate."""

from medinv.samplers.renoise import ddim_split, fixed_split, gaussian_like

__all__ = ["ddim_split", "fixed_split", "gaussian_like"]
