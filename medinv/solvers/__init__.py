"""Reconstruction algorithms: each a frozen dataclass of hyper-parameters with one call."""

from medinv.solvers.base import OnStep
from medinv.solvers.cg_sense import CGSENSE
from medinv.solvers.cgls import CGLS
from medinv.solvers.ddip import DDIP
from medinv.solvers.dds import DDS
from medinv.solvers.diffusion_mbir import DiffusionMBIR
from medinv.solvers.fbp import FBP
from medinv.solvers.fdk import FDK
from medinv.solvers.l1_wavelet import L1Wavelet
from medinv.solvers.osem import OSEM
from medinv.solvers.padis import PaDIS
from medinv.solvers.sart import SART
from medinv.solvers.scd import SCD
from medinv.solvers.sirt import SIRT
from medinv.solvers.tpdm import TPDM
from medinv.solvers.tv import TV, total_variation
from medinv.solvers.zero_filled import ZeroFilled

__all__ = [
    "CGLS",
    "CGSENSE",
    "DDIP",
    "DDS",
    "FBP",
    "FDK",
    "OSEM",
    "SART",
    "SCD",
    "SIRT",
    "TPDM",
    "TV",
    "DiffusionMBIR",
    "L1Wavelet",
    "OnStep",
    "PaDIS",
    "ZeroFilled",
    "total_variation",
]
