"""Diffusion priors: denoisers in the VE coordinate."""

from medinv.priors.base import IntensityScale, Prior
from medinv.priors.card import PriorCard
from medinv.priors.checkpoint import load_prior, prior_names, read_card, save_prior
from medinv.priors.context import ContextPrior, conditioned
from medinv.priors.depth import DepthPrior
from medinv.priors.edm import NetworkPrior
from medinv.priors.foreign.convert import import_prior
from medinv.priors.gaussian import GaussianMixturePrior, GaussianPrior
from medinv.priors.jacobian import linearize
from medinv.priors.networks import UNet
from medinv.priors.own import DenoiserPrior
from medinv.priors.patches import PatchPrior
from medinv.priors.product import ProductPrior
from medinv.priors.schedule import geometric_sigmas, karras_sigmas
from medinv.priors.slabs import SlabPrior, cycled_offset, random_offset
from medinv.priors.slices import SlicePrior
from medinv.priors.text import CLIPText, MiniLM, TextEncoder

__all__ = [
    "CLIPText",
    "ContextPrior",
    "DenoiserPrior",
    "DepthPrior",
    "GaussianMixturePrior",
    "GaussianPrior",
    "IntensityScale",
    "MiniLM",
    "NetworkPrior",
    "PatchPrior",
    "Prior",
    "PriorCard",
    "ProductPrior",
    "SlabPrior",
    "SlicePrior",
    "TextEncoder",
    "UNet",
    "conditioned",
    "cycled_offset",
    "geometric_sigmas",
    "import_prior",
    "karras_sigmas",
    "linearize",
    "load_prior",
    "prior_names",
    "random_offset",
    "read_card",
    "save_prior",
]
