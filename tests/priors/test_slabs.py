"""Slabs: the closed form of the blend, any number of slices, places of the cuts, checkpoints."""

import pytest
import torch

from medinv.errors import CheckpointError, ShapeError
from medinv.priors import (
    GaussianPrior,
    NetworkPrior,
    SlabPrior,
    UNet,
    cycled_offset,
    linearize,
    load_prior,
    random_offset,
    save_prior,
)
from tests.priors.volume_networks import network_of_slabs
from tests.solvers.matrix_operator import random_image

Z, SHAPE = 9, (2, 3)
CORRELATION = 0.8


def volume_prior(z, dtype=torch.float64):
    """AR(1) along z; in plane, any covariance."""
    steps = torch.arange(z, dtype=torch.float64)
    along = CORRELATION ** (steps[:, None] - steps).abs()
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    covariance = torch.kron(along, root @ root.T / 6 + 0.1 * torch.eye(6, dtype=torch.float64))
    mean = torch.zeros(z, *SHAPE, dtype=dtype)
    return GaussianPrior(mean, covariance)


def slabs_of(k, **settings):
    """The best denoiser of slabs of that volume: K slices of an AR(1) are an AR(1)."""
    exact = volume_prior(k)
    return SlabPrior(lambda x, sigma: exact(x, sigma), k, dtype=torch.float64,
                     **{"chunk": 64, **settings})


def noisy(n=30, sigma=0.7):
    rng = torch.Generator().manual_seed(2)
    covariance = volume_prior(Z)
    root = torch.linalg.cholesky(
        covariance.vectors @ torch.diag(covariance.variances) @ covariance.vectors.mT)
    clean = torch.randn(n, Z * 6, generator=rng, dtype=torch.float64) @ root.T
    clean = clean.reshape(n, Z, *SHAPE)
    return clean + sigma * torch.randn(clean.shape, generator=rng, dtype=torch.float64)


def test_longer_slabs_come_closer_to_the_whole_volume_and_reach_it():
    x, sigma = noisy(), 0.7
    whole = volume_prior(Z)(x, sigma)
    errors = [float((slabs_of(k)(x, sigma) - whole).square().mean()) for k in (2, 3, 5, 7)]
    assert all(a > b > 0 for a, b in zip(errors, errors[1:], strict=False))
    torch.testing.assert_close(slabs_of(Z)(x, sigma), whole)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_cycled_and_random_places_have_the_same_mean(k):
    x, levels = noisy(1)[0], [1.0 / 2**i for i in range(k)]
    cycle = cycled_offset(levels)
    assert [cycle(x, sigma) % k for sigma in levels] == list(range(k))
    blended = torch.stack([slabs_of(k, offset=lambda v, s, o=o: o)(x, 0.7)
                           for o in range(k)]).mean(0)
    turns = range(30 * k)
    drawn = torch.stack([slabs_of(k, offset=lambda v, s, i=i: random_offset(v, s + i))(x, 0.7)
                         for i in turns]).mean(0)
    apart = float((slabs_of(k, offset=lambda v, s: 0)(x, 0.7) - blended).norm())
    assert float((drawn - blended).norm()) < 0.5 * apart  # of 30 k draws


@pytest.mark.parametrize("z", [3, 4, 5, 8])
def test_every_slice_is_from_its_own_slab(z):
    """A denoiser that adds its slab's number of slices and slice places them all."""
    x = torch.arange(float(z))[:, None, None].expand(z, 1, 1)
    for cut in range(3):
        prior = SlabPrior(lambda slabs, sigma: slabs, 3, offset=lambda v, s, o=cut: o)
        assert torch.equal(prior(x, 1.0), x)
        means = SlabPrior(lambda slabs, sigma: slabs.mean(1, keepdim=True).expand_as(slabs), 3,
                          offset=lambda v, s, o=cut: o)(x, 1.0).flatten().tolist()
        for i in range(z):
            first = min(max((i - cut) // 3 * 3 + cut, 0), z - 3)
            assert means[i] == first + 1


def test_too_few_slices():
    for shape in ((2, 4, 4), (4, 4)):
        with pytest.raises(ShapeError, match="at least 3 slices, got"):
            SlabPrior(lambda x, sigma: x, 3)(torch.zeros(shape), 1.0)
    with pytest.raises(ShapeError, match="at least 2 slices, got 1"):
        SlabPrior(lambda x, sigma: x, 1)


def test_a_volume_does_not_influence_another():
    prior, x = slabs_of(3), noisy(3)
    levels = torch.tensor([0.3, 0.7, 0.9], dtype=torch.float64)
    alone = prior(x[1], 0.7)
    torch.testing.assert_close(prior(x, levels)[1], alone)


def test_gradients_go_through_every_slab():
    prior, x = slabs_of(3, chunk=1), noisy(1)[0]
    D, vjp = linearize(prior, x, 0.7)
    direction = torch.randn_like(x)
    fixed = slabs_of(3, offset=lambda v, s: random_offset(x, 0.7))
    change = fixed(x + direction, 0.7) - D  # the denoiser is linear
    other = torch.randn_like(x)
    torch.testing.assert_close((other * change).sum(), (vjp(other) * direction).sum())


def test_single_slices_are_those_of_the_volume():
    prior, x = slabs_of(3), noisy(2)
    index = torch.tensor([8, 0, 4])
    torch.testing.assert_close(prior.at_slices(x, 0.7, index), prior(x, 0.7)[:, index])


@pytest.mark.parametrize("complex_images", [False, True])
def test_checkpoint_round_trip(tmp_path, complex_images):
    prior = SlabPrior.from_network(network_of_slabs(complex_images=complex_images))
    card = save_prior(tmp_path / "slabs.safetensors", prior, "slabs")
    assert card.network.slab == 3
    loaded, x = load_prior(tmp_path / "slabs.safetensors"), random_image((7, 8, 8), prior.dtype)
    assert isinstance(loaded, SlabPrior)
    for told in ((1.0, 2.0), (1.0, 5.0)):  # half precision of the weights, bfloat16 features
        torch.testing.assert_close(loaded.at_spacing(told)(x, 0.3),
                                   prior.at_spacing(told)(x, 0.3), atol=0.02, rtol=0.02)
    near, far = (prior.at_spacing(told)(x, 0.3) for told in ((1.0, 2.0), (1.0, 5.0)))
    assert (near - far).abs().max() > 0.01


def test_a_slab_s_channels_are_its_slices():
    """Stem and head see slices in their order, real parts before imaginary ones."""
    prior = network_of_slabs(complex_images=True)
    seen = []
    prior.network.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = random_image((3, 8, 8), torch.complex64)
    SlabPrior.from_network(prior)(x, 0.3)
    c_in = (0.3**2 + 0.5**2) ** -0.5
    torch.testing.assert_close(seen[0][0].float(), c_in * torch.cat([x.real, x.imag]),
                               atol=0.02, rtol=0.01)  # bfloat16


def test_other_networks_are_refused():
    plain = NetworkPrior(UNet(1, (16, 32), (1, 1), 16), 0.5)
    with pytest.raises(CheckpointError, match="a network of slabs"):
        SlabPrior.from_network(plain)
