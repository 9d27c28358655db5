"""Physics: operators, their exact adjoints and derivatives, and the tools to invert them."""

from medinv.operators.base import LinearOperator, Operator, Space, stack
from medinv.operators.ct import FanBeam, ParallelBeam
from medinv.operators.image import Blur, Identity, Inpainting, Patches, SliceDownsampling
from medinv.operators.mri import CartesianMRI
from medinv.operators.noncartesian import NonCartesianMRI, StackOfStars
from medinv.operators.nonlinear import Magnitude, TransmissionCounts

__all__ = [
    "Blur",
    "CartesianMRI",
    "FanBeam",
    "Identity",
    "Inpainting",
    "LinearOperator",
    "Magnitude",
    "NonCartesianMRI",
    "Operator",
    "ParallelBeam",
    "Patches",
    "SliceDownsampling",
    "Space",
    "StackOfStars",
    "TransmissionCounts",
    "stack",
]
