"""Approximations of the likelihood's score, for denoisers that know the prior alone."""

from medinv.guidance.residual import denoise_with_residual_gradient

__all__ = ["denoise_with_residual_gradient"]
