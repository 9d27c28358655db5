"""What networks compute in: who chooses, and that the choice is what is computed."""

import pytest
import torch

from medinv.errors import InputError
from medinv.priors import NetworkPrior, SlicePrior, UNet, precision
from medinv.priors.adapters import EDM, AdaptedNetwork
from medinv.priors.edm import set_precision, used_precision
from medinv.priors.precision import default_dtype

CPU = torch.device("cpu")


def network_prior():
    torch.manual_seed(0)
    network = UNet(1, widths=(16, 32), blocks=(1, 1), embedding=16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return NetworkPrior(network, 0.5).eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_the_environment_decides_where_nobody_chose(monkeypatch, name):
    monkeypatch.setenv(precision.VARIABLE, name)
    assert default_dtype(CPU) == getattr(torch, name)
    prior = SlicePrior(network_prior())
    assert used_precision(prior, CPU) == name
    set_precision(prior, torch.float32)
    assert used_precision(prior, CPU) == "float32"


def test_a_wrong_variable_says_what_there_is(monkeypatch):
    monkeypatch.setenv(precision.VARIABLE, "half")
    with pytest.raises(InputError, match="MEDINV_PRECISION: expected auto, float32, bfloat16, got "
                                         "'half'"):
        default_dtype(CPU)


@pytest.mark.parametrize(("bfloat16_seconds", "expected"),
                         [(0.5, torch.bfloat16), (0.9, torch.float32), (10.0, torch.float32)])
def test_else_the_faster_one_is_taken(monkeypatch, bfloat16_seconds, expected):
    monkeypatch.delenv(precision.VARIABLE, raising=False)
    monkeypatch.setattr(precision, "_seconds",
                        {torch.float32: 1.0, torch.bfloat16: bfloat16_seconds}.__getitem__)
    precision._bfloat16_is_faster.cache_clear()
    threads = torch.get_num_threads()
    try:
        assert default_dtype(CPU) == expected
    finally:
        precision._bfloat16_is_faster.cache_clear()
    assert torch.get_num_threads() == threads


def test_other_precisions_are_refused():
    with pytest.raises(InputError, match="float16"):
        set_precision(network_prior(), torch.float16)


def test_bfloat16_is_coarser_than_single_precision():
    """Its features have 8 bits: about 0.4 % of what they add to the image, and not less."""
    prior, x = network_prior(), torch.randn(2, 16, 16)
    set_precision(prior, torch.float32)
    fine = prior(x, 0.5)
    set_precision(prior, torch.bfloat16)
    error = float((prior(x, 0.5) - fine).norm() / fine.norm())
    assert 1e-4 < error < 3e-2


def test_a_published_network_stays_in_single_precision():
    network = torch.nn.Conv2d(1, 1, 3, padding=1)

    class Takes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.dtypes = network, set()

        def forward(self, x, noise):
            out = self.network(x)
            self.dtypes.add(out.dtype)
            return out

    inner = Takes()
    prior = NetworkPrior(AdaptedNetwork(inner, EDM(), sigma_data=0.5), 0.5)
    set_precision(prior, torch.bfloat16)
    assert used_precision(prior, CPU) == "float32"
    prior(torch.randn(1, 8, 8), 0.5)
    assert inner.dtypes == {torch.float32}


def test_a_prior_without_networks_has_no_precision():
    from medinv.priors import GaussianPrior

    assert used_precision(GaussianPrior(torch.zeros(1, 2), torch.eye(2)), CPU) is None
