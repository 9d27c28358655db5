"""Small networks that see neighbouring slices, with weights that hide no mistake."""

import torch

from medinv.priors import IntensityScale, NetworkPrior, UNet


def network_of_taps(*, complex_images=False, taps=True, trained=True):
    """A prior's network with taps along z; untrained, the head and the taps are zero."""
    network = UNet(2 if complex_images else 1, (16, 32), (1, 1), 16, context=4, taps=taps)
    return _prior(network, trained=trained, complex_images=complex_images)


def network_of_slabs(*, complex_images=False):
    """A prior's network of slabs of three slices."""
    network = UNet(2 if complex_images else 1, (16, 32), (1, 1), 16, context=4, slab=3)
    return _prior(network, trained=True, complex_images=complex_images)


def _prior(network, *, trained, complex_images):
    rng = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters() if trained else ():
        wide = any(part in name for part in ("along", "describe", "head"))
        torch.nn.init.normal_(parameter, std=0.5 if wide else 0.1, generator=rng)
    prior = NetworkPrior(network, 0.5, complex_images=complex_images,
                         scale=IntensityScale(value=2.0), error_by_sigma={0.1: 0.004, 1.0: 0.05})
    return prior.eval().requires_grad_(False)
