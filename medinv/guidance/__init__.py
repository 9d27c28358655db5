"""Approximations of the likelihood's score, for denoisers that know the prior alone."""

from medinv.guidance.adaptation import Adaptation, AdaptedPrior
from medinv.guidance.residual import denoise_with_residual_gradient

__all__ = ["Adaptation", "AdaptedPrior", "denoise_with_residual_gradient"]
