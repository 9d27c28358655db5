"""Network priors: preconditioning, the complex adapter, slices, checkpoints, scales."""

import json
import math
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from medinv.errors import CheckpointError, InputError, ShapeError
from medinv.operators.base import LinearOperator, Space
from medinv.priors import (
    GaussianPrior,
    IntensityScale,
    NetworkPrior,
    PriorCard,
    ProductPrior,
    SlicePrior,
    UNet,
    karras_sigmas,
    load_prior,
    save_prior,
)
from medinv.priors.card import build_network
from medinv.resources import TensorCount


def tiny_prior(*, complex_images, trained=True):
    torch.manual_seed(0)
    network = UNet(2 if complex_images else 1, widths=(16, 32), blocks=(1, 1), embedding=16)
    if trained:  # untrained heads are zero, which would hide mistakes
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return NetworkPrior(network, 0.5, complex_images=complex_images).eval().requires_grad_(False)


class Identity(LinearOperator):
    def __init__(self, shape, dtype):
        super().__init__(Space(shape, dtype), Space(shape, dtype))

    def _forward(self, x):
        return 3 * x

    _adjoint = _forward


@pytest.mark.parametrize("complex_images", [False, True])
@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (3, 5, 6), (2, 3, 6, 5), (1, 9), (2, 1, 1)])
def test_any_size_and_batch(complex_images, shape):
    prior = tiny_prior(complex_images=complex_images)
    x = torch.randn(shape, dtype=prior.dtype)
    out = prior(x, 0.3)
    assert out.shape == x.shape
    assert out.dtype == x.dtype


def test_an_untrained_network_is_the_gaussian_of_its_sigma_data():
    """With F = 0, D = c_skip x: the exact denoiser of white images of deviation sigma_data."""
    prior = tiny_prior(complex_images=True, trained=False)
    x = torch.randn(4, 8, 8, dtype=torch.complex64)
    torch.testing.assert_close(prior(x, 0.7), x * 0.25 / (0.25 + 0.49))


def test_items_do_not_interact_and_keep_their_level():
    prior = tiny_prior(complex_images=False)
    x, sigma = torch.randn(3, 8, 8), torch.tensor([0.1, 1.0, 5.0])
    alone = torch.stack([prior(image, s) for image, s in zip(x, sigma, strict=True)])
    # bfloat16 convolutions may sum in another order for another batch size
    torch.testing.assert_close(prior(x, sigma), alone, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_slices_along_any_axis(axis):
    prior = tiny_prior(complex_images=False)
    volume = torch.randn(2, 8, 10, 12)
    expected = torch.stack([
        torch.stack([prior(s, 0.4) for s in v.unbind(axis)], dim=axis) for v in volume
    ])
    got = SlicePrior(prior, axis=axis, chunk=3)(volume, torch.tensor([0.4, 0.4]))
    torch.testing.assert_close(got, expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("axis", [-2, -1])
def test_single_slices_of_a_product_are_those_of_the_volume(axis):
    """The planes across them see their neighbours, though these are not asked for."""
    other = tiny_prior(complex_images=False)
    other.sigma_data = 0.3
    z, across = SlicePrior(tiny_prior(complex_images=False)), SlicePrior(other, axis)
    x, index = torch.randn(6, 8, 10), torch.tensor([0, 3, 5])
    for volumes in (across, ProductPrior([z, across])):
        torch.testing.assert_close(volumes.at_slices(x, 0.4, index), volumes(x, 0.4)[index])
    cut = ProductPrior([z, across]).of_slices(index)(x[index], 0.4)
    assert not torch.allclose(cut, z(x, 0.4)[index], atol=1e-3)


@pytest.mark.parametrize("wrap", [lambda p: p, SlicePrior], ids=["network", "slices"])
def test_a_gradient_holds_one_part_at_a_time(wrap):
    x = torch.randn(8, 16, 16, requires_grad=True)
    gradients, peaks = [], []
    for chunk in (8, 2):
        images = wrap(tiny_prior(complex_images=False))
        for module in images.modules():
            if isinstance(module, NetworkPrior | SlicePrior):
                module.chunk = chunk
        with TensorCount() as count:
            gradients += torch.autograd.grad(images(x, 0.4).square().sum(), x)
        peaks.append(count.peak_bytes)
    torch.testing.assert_close(*gradients)
    assert peaks[1] < 0.4 * peaks[0]


def test_a_slice_prior_needs_images():
    with pytest.raises(ShapeError, match="2D prior"):
        SlicePrior(GaussianPrior(torch.zeros(1, 1, 1), torch.eye(1)))
    with pytest.raises(ShapeError, match=r"got torch.float32 \(8, 8\)"):
        SlicePrior(tiny_prior(complex_images=False))(torch.zeros(8, 8), 0.1)


def test_checkpoint_round_trip(tmp_path):
    prior = tiny_prior(complex_images=True)
    prior.scale, prior.error_by_sigma = IntensityScale(percentile=99.0), {0.1: 0.004, 1.0: 0.05}
    save_prior(tmp_path / "p.safetensors", prior, "a test", {"data": ["none"]})
    again = load_prior(tmp_path / "p.safetensors")
    x = torch.randn(8, 8, dtype=torch.complex64)
    # weights are kept in half precision
    torch.testing.assert_close(again(x, 0.2), prior(x, 0.2), atol=5e-3, rtol=5e-3)
    assert (again.scale, again.sigma_data, again.dtype) == (prior.scale, 0.5, torch.complex64)
    assert again.error_variance(0.1) == pytest.approx(0.004)
    assert 0.004 < again.error_variance(0.3) < 0.05


def test_error_variance_without_measurement_is_gaussian():
    prior = tiny_prior(complex_images=False)
    assert prior.error_variance(0.5) == pytest.approx(0.125)


def test_checkpoint_errors(tmp_path):
    with pytest.raises(CheckpointError, match="no prior is called 'nothing'"):
        load_prior("nothing")
    with pytest.raises(CheckpointError, match="no such file"):
        load_prior(tmp_path / "p.safetensors")
    path = tmp_path / "p.safetensors"
    save_prior(path, tiny_prior(complex_images=False), "a test")
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | {"surprise": 1}))
    with pytest.raises(CheckpointError, match="surprise"):
        load_prior(path)
    card["network"]["widths"] = [16, 48]
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="another network"):
        load_prior(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(CheckpointError, match="not the description"):
        load_prior(path)


def changed_network(**fields):
    return lambda card: card | {"network": card["network"] | fields}


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(("change", "message"), [
    (changed_network(widths=[]), "widths"),
    (changed_network(widths=[0, 16]), "widths"),
    (changed_network(widths=[16, 17]), "multiple of 16"),
    (changed_network(widths=[16]), "blocks: expected one number for each of 1 widths"),
    (changed_network(widths=[16] * 40, blocks=[1] * 40), "widths"),
    (changed_network(blocks=[1, 1_000_000]), "less than or equal to 64"),
    (changed_network(embedding=0), "embedding"),
    (changed_network(embedding=10**12), "embedding"),
    (changed_network(widths=[8192, 16384], blocks=[64, 64]), "numbers, but the file"),
    (changed_network(context=-1), "context"),
    (lambda card: card | {"sigma_data": math.inf}, "sigma_data"),
    (lambda card: card | {"sigma_data": math.nan}, "sigma_data"),
    (lambda card: card | {"scale": {"value": -1.0}}, "positive value"),
    (lambda card: card | {"error_by_sigma": {"0": 1.0}}, "error_by_sigma"),
    (lambda card: card | {"error_by_sigma": {"0.1": -1.0}}, "error_by_sigma"),
    (lambda card: card | {"patch": {"patch": 10**12, "side": 8}}, "patch"),
    (lambda _: DEEP, "not the description of a prior"),
    (lambda _: b"\xff\xfe{}", "UTF-8"),
    (lambda _: '{"sigma_data": ' + "9" * 5000 + "}", "not the description of a prior"),
    (lambda _: '{"format": ' + "9" * 50 + "}", "an integer below"),
    (lambda _: " " * 2**21, "at most 1 MiB"),
    (lambda _: "[1, 2]", "not the description of a prior"),
], ids=lambda item: item[:20] if isinstance(item, str) else "")
def test_a_damaged_card_is_refused_quickly(change, message, tmp_path):
    path = tmp_path / "p.safetensors"
    save_prior(path, tiny_prior(complex_images=False), "a test")
    card = path.with_suffix(".json")
    content = change(json.loads(card.read_text()))
    if isinstance(content, dict):
        content = json.dumps(content)
    card.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=message) as error:
        load_prior(path)
    assert time.monotonic() - start < 10
    assert len(str(error.value)) < 1000


def test_published_layouts_without_sense_are_refused():
    for fields in ({"kind": "unet2d", "norm_num_groups": 9},
                   {"kind": "monai", "channels": [8, 8], "norm_num_groups": 3},
                   {"kind": "adm", "image_size": 64, "num_channels": 32,
                    "attention_resolutions": [0]}):
        card = PriorCard(description="", network=fields, complex_images=False, sigma_data=0.5,
                         scale=IntensityScale())
        with pytest.raises(CheckpointError, match=fields["kind"]):
            build_network(card)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    path, prior = tmp_path / "p.safetensors", tiny_prior(complex_images=False)
    save_prior(path, prior, "a test")
    tensors = load_file(path)
    tensors["stem.bias"][0] = value
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="finite weights, got NaN or infinity in 1 of"):
        load_prior(path)
    prior.network.stem.bias.data[0] = 1e5  # more than half precision holds
    with pytest.raises(CheckpointError, match=r"stem\.bias"):
        save_prior(tmp_path / "q.safetensors", prior, "a test")
    assert not (tmp_path / "q.safetensors").exists()


def test_a_prior_of_another_domain_is_refused():
    real = tiny_prior(complex_images=False)
    with pytest.raises(CheckpointError, match="real images but the operator acts on complex"):
        real.check(Identity((8, 8), torch.complex64))
    real.check(Identity((8, 8), torch.float32))


def test_scale_is_the_percentile_of_the_least_squares_image():
    A = Identity((10, 10), torch.float32)
    x = torch.arange(100.0).reshape(10, 10)
    assert IntensityScale(percentile=99).estimate(A(x), A) == pytest.approx(98, rel=1e-4)
    assert IntensityScale(value=0.02).estimate(A(x), A) == 0.02
    with pytest.raises(ShapeError, match="empty"):
        IntensityScale(percentile=99).estimate(torch.zeros(10, 10), A)


def test_sigmas():
    sigmas = karras_sigmas(10, 0.01, 10.0)
    assert len(sigmas) == 11
    assert sigmas[0].item() == pytest.approx(10)
    assert sigmas[-2].item() == pytest.approx(0.01)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    steps = sigmas[:-1] ** (1 / 7)
    assert math.isclose(steps.diff().max(), steps.diff().min(), rel_tol=1e-9)
    with pytest.raises(InputError, match="sigma_min"):
        karras_sigmas(10, 2.0, 1.0)
