"""Reconstruction algorithms: each a frozen dataclass of hyper-parameters with one call."""

from dataclasses import is_dataclass

from medinv.arguments import checked
from medinv.samplers import OnStep
from medinv.solvers.cg_sense import CGSENSE
from medinv.solvers.cgls import CGLS
from medinv.solvers.ddim import DDIM
from medinv.solvers.ddip import DDIP
from medinv.solvers.ddnm import DDNM
from medinv.solvers.ddrm import DDRM
from medinv.solvers.dds import DDS
from medinv.solvers.diffpir import DiffPIR
from medinv.solvers.diffusion import Diffusion
from medinv.solvers.diffusion_mbir import DiffusionMBIR
from medinv.solvers.dmap import DMAP
from medinv.solvers.dpps import DPPS
from medinv.solvers.dps import DPS
from medinv.solvers.dsg import DSG
from medinv.solvers.fbp import FBP
from medinv.solvers.fdk import FDK
from medinv.solvers.flowchef import FlowChef
from medinv.solvers.flowdps import FlowDPS
from medinv.solvers.heun import Heun
from medinv.solvers.l1_wavelet import L1Wavelet
from medinv.solvers.mcg import MCG
from medinv.solvers.mpgd import MPGD
from medinv.solvers.osem import OSEM
from medinv.solvers.padis import PaDIS
from medinv.solvers.pnpdm import PnPDM
from medinv.solvers.sart import SART
from medinv.solvers.scd import SCD
from medinv.solvers.score_ald import ScoreALD
from medinv.solvers.score_sde import ScoreSDE
from medinv.solvers.sirt import SIRT
from medinv.solvers.snips import SNIPS
from medinv.solvers.tpdm import TPDM
from medinv.solvers.tv import TV, total_variation
from medinv.solvers.zero_filled import ZeroFilled

__all__ = [
    "CGLS",
    "CGSENSE",
    "DDIM",
    "DDIP",
    "DDNM",
    "DDRM",
    "DDS",
    "DMAP",
    "DPPS",
    "DPS",
    "DSG",
    "FBP",
    "FDK",
    "MCG",
    "MPGD",
    "OSEM",
    "SART",
    "SCD",
    "SIRT",
    "SNIPS",
    "TPDM",
    "TV",
    "DiffPIR",
    "Diffusion",
    "DiffusionMBIR",
    "FlowChef",
    "FlowDPS",
    "Heun",
    "L1Wavelet",
    "OnStep",
    "PaDIS",
    "PnPDM",
    "ScoreALD",
    "ScoreSDE",
    "ZeroFilled",
    "total_variation",
]

for _solver in map(globals().__getitem__, __all__):
    if isinstance(_solver, type) and is_dataclass(_solver):
        checked(_solver, "prior")
