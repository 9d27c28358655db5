"""Networks of patches: positions beside the image, checkpoints, adaptation."""

import pytest
import torch

from medinv.errors import CheckpointError
from medinv.guidance import Adaptation, AdaptedPrior
from medinv.priors import (
    GaussianPrior,
    IntensityScale,
    NetworkPrior,
    PatchPrior,
    UNet,
    load_prior,
    read_card,
    save_prior,
)
from medinv.priors.lora import adaptable_copy
from medinv.problem import Problem
from medinv.solvers import DDIP, DDS, PaDIS
from tests.solvers.matrix_operator import random_image, random_operator


def network_prior(*, complex_images=False, trained=True):
    torch.manual_seed(0)
    network = UNet(2 if complex_images else 1, (16, 32), (1, 1), 16, extra_channels=2)
    if trained:  # untrained heads are zero, which would hide mistakes
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    prior = NetworkPrior(network, 0.5, complex_images=complex_images,
                         scale=IntensityScale(value=2.0), error_by_sigma={0.1: 0.004, 1.0: 0.05})
    return prior.eval().requires_grad_(False)


def patch_prior(**settings):
    return PatchPrior.from_network(network_prior(**settings), patch=4, side=16)


def problem():
    A = random_operator(20, (6, 7), torch.float32)
    return A, A(random_image((6, 7), torch.float32))


def test_a_network_without_extra_channels_is_the_one_of_older_checkpoints():
    torch.manual_seed(0)
    plain = UNet(1, (16, 32), (1, 1), 16).state_dict()
    more = UNet(1, (16, 32), (1, 1), 16, extra_channels=2).state_dict()
    assert plain.keys() == more.keys()
    assert [key for key in plain if plain[key].shape != more[key].shape] == ["stem.weight"]
    assert more["stem.weight"].shape[1] == 3


def test_preconditioning_is_the_image_s_alone():
    """The network sees ``c_in x`` and the positions as they are."""
    prior = network_prior()
    seen = []
    prior.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x, where = torch.randn(2, 1, 4, 4), torch.rand(2, 2, 4, 4)
    prior.denoise(x, torch.tensor([0.5, 2.0]), where=where)
    c_in = torch.tensor([0.5, 4.25]).rsqrt()[:, None, None, None]
    assert torch.equal(seen[0][:, 1:], where)
    torch.testing.assert_close(seen[0][:, :1], c_in * x)


@pytest.mark.parametrize("complex_images", [False, True])
def test_an_untrained_network_is_the_gaussian_of_its_sigma_data(complex_images):
    prior = patch_prior(complex_images=complex_images, trained=False)
    x = random_image((3, 9, 10), prior.dtype)
    torch.testing.assert_close(prior(x, 0.7), x * 0.25 / (0.25 + 0.49))


def test_positions_matter():
    prior = network_prior()
    x = torch.zeros(1, 1, 8, 8)
    here, there = (prior.denoise(x, torch.ones(1), where=torch.full((1, 2, 8, 8), place))
                   for place in (-0.5, 0.5))
    assert (here - there).abs().max() > 0.01


@pytest.mark.parametrize("complex_images", [False, True])
def test_checkpoint_round_trip(tmp_path, complex_images):
    prior = patch_prior(complex_images=complex_images)
    save_prior(tmp_path / "p.safetensors", prior, "patches")
    card = read_card(tmp_path / "p.safetensors")
    assert (card.patch.patch, card.patch.side, card.network.extra_channels) == (4, 16, 2)
    again = load_prior(tmp_path / "p.safetensors")
    assert isinstance(again, PatchPrior)
    x = random_image((9, 10), prior.dtype)
    # weights are kept in half precision
    torch.testing.assert_close(again(x, 0.2), prior(x, 0.2), atol=2e-2, rtol=2e-2)
    assert (again.scale, again.dtype) == (prior.scale, prior.dtype)
    assert again.error_variance(0.1) == pytest.approx(0.004)


def test_other_priors_are_not_saved(tmp_path):
    others = (PatchPrior(lambda x, sigma, where: x, 4, 16),
              GaussianPrior(torch.zeros(2, 2), torch.eye(4)))
    for prior in others:
        with pytest.raises(CheckpointError, match=type(prior).__name__):
            save_prior(tmp_path / "p.safetensors", prior, "nothing")


def test_the_network_inside_is_adapted():
    """Patch test-time adaptation: the network fits the measurement, and the prior is untouched."""
    prior = patch_prior()
    weights = {key: value.clone() for key, value in prior.state_dict().items()}
    copied, parameters = adaptable_copy(prior, rank=2)
    x = random_image((6, 7), torch.float32)
    torch.testing.assert_close(copied(x, 0.4), prior(x, 0.4))  # sums may run in another order
    assert parameters
    A, y = problem()
    adapted = AdaptedPrior(prior, Problem(y, A),
                           Adaptation(rank=2, inner_steps=20, learning_rate=1e-2))
    before = (A(adapted._refine(prior(x, 0.4), adapted.y, adapted.seen)) - y / 2).norm()
    after = (A(adapted.refined(x, 0.4)) - y / 2).norm()
    assert after < 0.9 * before
    assert all(torch.equal(value, prior.state_dict()[key]) for key, value in weights.items())


@pytest.mark.parametrize("solver", [DDIP(DDS(steps=3), Adaptation(rank=2, inner_steps=1)),
                                    PaDIS(steps=2, inner_steps=2), DDS(steps=3)])
def test_solvers_take_a_network_of_patches(solver):
    A, y = problem()
    draws = [solver(Problem(y, A), patch_prior(),
                    rng=torch.Generator().manual_seed(0)) for _ in range(2)]
    assert draws[0].shape == (6, 7)
    assert torch.equal(*draws)
    assert draws[0].isfinite().all()


def test_without_inner_steps_adaptation_changes_nothing():
    A, y = problem()
    plain, adapted = (solver(Problem(y, A), patch_prior(), rng=torch.Generator().manual_seed(0))
                      for solver in (DDS(steps=3),
                                     DDIP(DDS(steps=3), Adaptation(rank=2, inner_steps=0))))
    torch.testing.assert_close(plain, adapted, rtol=1e-3, atol=1e-4)  # rounding, through 3 levels
