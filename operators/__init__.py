"""Physics: linear operators, their exact adjoints, and the tools to build and invert them."""

from medinv.operators.base import LinearOperator, Space, stack
from medinv.operators.ct import ParallelBeam
from medinv.operators.mri import CartesianMRI

__all__ = ["CartesianMRI", "LinearOperator", "ParallelBeam", "Space", "stack"]
