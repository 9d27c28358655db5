"""Networks of published priors, laid out so that their weights load key by key."""

from medinv.priors.foreign.adm import ADM, ADMLayout
from medinv.priors.foreign.edm import DhariwalLayout, DhariwalUNet, SongLayout, SongUNet
from medinv.priors.foreign.monai_unet import MonaiLayout
from medinv.priors.foreign.ncsnpp import NCSNpp, NCSNppLayout
from medinv.priors.foreign.reading import find_weights, read_tensor, read_weights
from medinv.priors.foreign.unet2d import UNet2D, UNet2DLayout
from medinv.priors.foreign.unet2d_condition import UNet2DCondition, UNet2DConditionLayout

ForeignLayout = (ADMLayout | NCSNppLayout | SongLayout | DhariwalLayout | UNet2DLayout
                 | UNet2DConditionLayout | MonaiLayout)
"""Any layout of a published network."""

__all__ = [
    "ADM",
    "ADMLayout",
    "DhariwalLayout",
    "DhariwalUNet",
    "ForeignLayout",
    "MonaiLayout",
    "NCSNpp",
    "NCSNppLayout",
    "SongLayout",
    "SongUNet",
    "UNet2D",
    "UNet2DCondition",
    "UNet2DConditionLayout",
    "UNet2DLayout",
    "find_weights",
    "read_tensor",
    "read_weights",
]
