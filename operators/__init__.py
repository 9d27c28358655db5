"""Physics: operators, their exact adjoints and derivatives, and the tools to invert them."""

from medinv.operators.base import LinearOperator, Operator, Space
from medinv.operators.check import check
from medinv.operators.cone import ConeBeam
from medinv.operators.ct import FanBeam, ParallelBeam
from medinv.operators.image import Blur, Identity, Inpainting, Patches, SliceDownsampling
from medinv.operators.kspace_grid import CentreCrop
from medinv.operators.mri import CartesianMRI
from medinv.operators.multislice import SliceSum
from medinv.operators.noncartesian import NonCartesianMRI, StackOfStars
from medinv.operators.nonlinear import Magnitude, TransmissionCounts
from medinv.operators.off_resonance import OffResonance
from medinv.operators.partial_fourier import KnownPhase
from medinv.operators.stacked import stack

__all__ = [
    "Blur",
    "CartesianMRI",
    "CentreCrop",
    "ConeBeam",
    "FanBeam",
    "Identity",
    "Inpainting",
    "KnownPhase",
    "LinearOperator",
    "Magnitude",
    "NonCartesianMRI",
    "OffResonance",
    "Operator",
    "ParallelBeam",
    "Patches",
    "SliceDownsampling",
    "SliceSum",
    "Space",
    "StackOfStars",
    "TransmissionCounts",
    "check",
    "stack",
]
