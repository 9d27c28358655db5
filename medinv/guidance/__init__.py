"""Approximations of the posterior's denoiser, for denoisers that know the prior alone."""

from medinv.guidance.adaptation import Adaptation, AdaptedPrior
from medinv.guidance.guided import Guidance, Guided
from medinv.guidance.jensen import Jensen
from medinv.guidance.mmps import MMPS
from medinv.guidance.peng import Peng
from medinv.guidance.pigdm import PiGDM
from medinv.guidance.residual import denoise_with_residual_gradient

__all__ = [
    "MMPS",
    "Adaptation",
    "AdaptedPrior",
    "Guidance",
    "Guided",
    "Jensen",
    "Peng",
    "PiGDM",
    "denoise_with_residual_gradient",
]
