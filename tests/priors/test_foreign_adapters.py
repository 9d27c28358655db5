"""Parametrisations against the exact networks of a Gaussian, x0 ~ N(0, v)."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from medinv.errors import CheckpointError
from medinv.priors import NetworkPrior
from medinv.priors.adapters import EDM, VE, VP, AdaptedNetwork, Flow

V = 1.7


def schedule_sigmas(schedule):
    """Written from the definitions, in numpy."""
    i = np.arange(1000)
    if schedule == "linear":
        betas = 1e-4 + (0.02 - 1e-4) * i / 999
    elif schedule == "scaled_linear":
        betas = (1e-2 + (0.02**0.5 - 1e-2) * i / 999) ** 2
    else:
        signal = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - signal[1:] / signal[:-1], 0.999)
    kept = np.cumprod(1 - betas)
    return np.sqrt((1 - kept) / kept)


class Exact(nn.Module):
    """The exact network of each kind, which learns the level from its noise coordinate alone."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def level(self, t):
        if isinstance(self.form, VE):
            return t
        if isinstance(self.form, EDM):
            return (4 * t).exp()
        if isinstance(self.form, Flow):
            return (t / self.form.time_scale) / (1 - t / self.form.time_scale)
        if self.form.schedule == "continuous":
            s = t / 999
            return (torch.exp(0.1 * s + 19.9 * s**2 / 2) - 1).sqrt()
        logs = np.log(schedule_sigmas(self.form.schedule))
        return torch.from_numpy(np.exp(np.interp(t.double(), np.arange(1000), logs))).float()

    def forward(self, u, t):
        sigma = self.level(t)[:, None, None, None]
        x = u / self.input_scale(sigma)
        x0 = V / (V + sigma**2) * x
        noise = (x - x0) / sigma
        target = self.target(x, x0, noise, sigma)
        return torch.cat([target, torch.full_like(target, 9.0)], dim=1)  # learn_sigma's half

    def input_scale(self, sigma):
        if isinstance(self.form, VP):
            return (1 + sigma**2) ** -0.5
        if isinstance(self.form, EDM):
            return (self.form.sigma_data**2 + sigma**2) ** -0.5
        return 1 / (1 + sigma) if isinstance(self.form, Flow) else torch.ones(())

    def target(self, x, x0, noise, sigma):
        form = self.form
        if isinstance(form, VE):
            return -noise / sigma
        if isinstance(form, EDM):
            s = form.sigma_data
            return (x0 - s**2 / (s**2 + sigma**2) * x) * (s**2 + sigma**2) ** 0.5 / (sigma * s)
        if isinstance(form, Flow):
            return noise - x0 if form.velocity == "to-noise" else x0 - noise
        alpha = (1 + sigma**2) ** -0.5
        v = alpha * noise - sigma * alpha * x0
        return {"eps": noise, "x0": x0, "v": v}[form.predicts]


FORMS = [VP(predicts=p, schedule=s) for p in ("eps", "x0", "v")
         for s in ("linear", "scaled_linear", "cosine", "continuous")]
FORMS += [VE(), EDM(sigma_data=0.7), Flow(), Flow(velocity="to-data", time_scale=1000)]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_exact_network_is_the_exact_denoiser_at_any_level(form):
    prior = NetworkPrior(AdaptedNetwork(Exact(form), form, 0.6), 0.6)
    sigmas = torch.tensor([0.02, 0.0313, 0.4, 3.0, 11.7])
    x = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0)) * sigmas[:, None, None]
    expected = V / (V + sigmas[:, None, None].square()) * x
    # a network of eps errs sigma times: single precision at sigma = 12
    torch.testing.assert_close(prior(x, sigmas), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("form", [VP(), VP(schedule="continuous"), VE()], ids=str)
def test_outside_its_range_a_network_is_asked_at_the_nearest_level(form):
    prior = NetworkPrior(AdaptedNetwork(Exact(form), form, 0.6), 0.6)
    low, high = form.sigma_range
    x = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior(x, low / 3), prior(x, low), rtol=1e-4, atol=1e-5)
    far = 1e3 * x
    torch.testing.assert_close(prior(far, 1e3), V / (V + high**2) * high * x, rtol=0.05, atol=1e-3)
    assert prior(far, 1e3).abs().max() < 0.1  # the prior's mean is zero


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_the_time_index_is_the_tables_at_its_levels(schedule):
    sigmas = torch.from_numpy(schedule_sigmas(schedule))[[0, 1, 500, 998]]
    index = VP(schedule=schedule).index(sigmas)
    torch.testing.assert_close(index, torch.tensor([0.0, 1, 500, 998]).double(), atol=1e-6,
                               rtol=0)
    between = VP(schedule=schedule).index((sigmas[0] * sigmas[1]).sqrt()[None])
    assert float(between) == pytest.approx(0.5, abs=1e-6)


def test_ranges_of_the_published_schedules():
    assert VP().sigma_range == (0.01, 157.4)
    assert VP(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).sigma_range[1] == (
        pytest.approx(14.61, abs=0.01))  # the well-known 14.6 of Stable Diffusion
    assert VP(schedule="continuous").sigma_range[1] == pytest.approx(
        math.sqrt(math.exp(10.05) - 1), rel=1e-3)


class Recorder(nn.Module):
    """Remembers the shape it was given."""

    def forward(self, x, t, context=None):
        self.shape, self.context = x.shape, context
        return x[:, :1]


def test_sides_are_padded_positions_pass_and_tokens_are_unflattened():
    network = Recorder()
    prior = NetworkPrior(AdaptedNetwork(network, EDM(), 0.5, stride=4, context_size=3), 0.5)
    where = torch.ones(2, 2, 5, 6)
    out = prior.denoise(torch.ones(2, 1, 5, 6), torch.ones(2), torch.arange(6.0).expand(2, -1),
                        where)
    assert out.shape == (2, 1, 5, 6)
    assert network.shape == (2, 3, 8, 8)
    assert network.context.tolist() == [[[0, 1, 2], [3, 4, 5]]] * 2


def test_contexts_that_do_not_fit_are_refused():
    plain = NetworkPrior(AdaptedNetwork(Recorder(), EDM(), 0.5), 0.5)
    with pytest.raises(CheckpointError, match="the network takes no context"):
        plain(torch.ones(1, 4, 4), 1.0, torch.ones(3))
    told = NetworkPrior(AdaptedNetwork(Recorder(), EDM(), 0.5, context_size=3), 0.5)
    with pytest.raises(CheckpointError, match="the network needs a context, tokens of 3 numbers"):
        told(torch.ones(1, 4, 4), 1.0)
    with pytest.raises(CheckpointError, match="expected a context of tokens of 3 numbers"):
        told(torch.ones(1, 4, 4), 1.0, torch.ones(4))


def test_the_empty_prompt_stands_in_for_no_context():
    network = Recorder()
    adapted = AdaptedNetwork(network, EDM(), 0.5, context_size=3, empty_context=torch.ones(2, 3))
    NetworkPrior(adapted, 0.5)(torch.ones(4, 4, 4), 1.0)
    assert torch.equal(network.context, torch.ones(4, 2, 3))
