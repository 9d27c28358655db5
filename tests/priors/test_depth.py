"""Networks that mix neighbours: the 2D prior at first, without seams, told the spacing."""

import pytest
import torch

from medinv.errors import CheckpointError, InputError
from medinv.priors import (
    DepthPrior,
    linearize,
    load_prior,
    save_prior,
)
from medinv.priors.depth import spacing_context
from medinv.priors.lora import adaptable_copy
from tests.priors.volume_networks import network_of_taps
from tests.solvers.matrix_operator import random_image


def close(a, b):
    """bfloat16 features of the same values, summed in another order: 2^-8 of their size."""
    torch.testing.assert_close(a, b, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("complex_images", [False, True])
def test_new_taps_leave_the_2d_prior_as_it_is(complex_images):
    plain = network_of_taps(complex_images=complex_images, taps=False)
    inflated = network_of_taps(complex_images=complex_images, trained=False)
    weights = inflated.network.state_dict() | plain.network.state_dict()
    inflated.network.load_state_dict(weights)
    x = random_image((5, 9, 10), plain.dtype)
    close(DepthPrior(inflated)(x, 0.3), plain(x, 0.3))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
@pytest.mark.parametrize("complex_images", [False, True])
def test_a_streamed_volume_has_no_seams(chunk, complex_images):
    prior = network_of_taps(complex_images=complex_images)
    x = random_image((7, 9, 10), prior.dtype)
    streamed = DepthPrior(prior, (1.0, 2.0), chunk=chunk)(x, 0.3)
    stack = torch.view_as_real(x).movedim(-1, 0)[None] if complex_images else x[None, None]
    whole = prior.denoise(stack, torch.tensor([0.3]), spacing_context((1.0, 2.0))[None])[0]
    close(torch.view_as_real(streamed).movedim(-1, 0) if complex_images else streamed[None], whole)


def test_neighbours_count_and_volumes_of_a_batch_do_not():
    prior = DepthPrior(network_of_taps())
    x = torch.randn(2, 6, 8, 8)
    moved = x.clone()
    moved[0, 3] += 1
    change = (prior(moved, torch.tensor([0.3, 0.8])) - prior(x, torch.tensor([0.3, 0.8]))).abs()
    assert float(change[0, 2].max()) > 0.02
    assert not change[1].any()
    close(prior(x, torch.tensor([0.3, 0.8]))[1], prior(x[1], 0.8))


def test_a_slice_sees_one_neighbour_for_each_block():
    prior = DepthPrior(network_of_taps())
    assert prior.reach == 4
    x = torch.randn(20, 8, 8)
    moved = x.clone()
    moved[0] += 5
    change = (prior(moved, 0.3) - prior(x, 0.3)).abs().amax((1, 2))
    assert (change[: prior.reach + 1] > 0).all()
    assert not change[prior.reach + 1 :].any()


def test_gradients_are_those_of_the_whole_volume():
    """In windows, with all that they see, and streamed for the value."""
    prior = DepthPrior(network_of_taps())
    x, v = torch.randn(19, 8, 8), torch.randn(19, 8, 8)  # longer than two windows
    D, vjp = linearize(prior, x, 0.3)
    close(D, prior(x, 0.3))
    stack = x[None, None].requires_grad_()
    whole = prior.prior.denoise(stack, torch.tensor([0.3]))[0, 0]
    expected, = torch.autograd.grad(whole, stack, v)
    error = (vjp(v) - expected[0, 0]).norm() / expected.norm()
    assert float(error) < 0.02  # bfloat16


def test_single_slices_are_asked_for_what_they_see():
    prior = DepthPrior(network_of_taps())
    x, index = torch.randn(20, 8, 8), torch.tensor([9, 7])
    close(prior.at_slices(x, 0.3, index), prior(x, 0.3)[index])
    sizes = []
    prior.network.stem.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    with torch.no_grad():
        prior.at_slices(x, 0.3, index)
    assert sum(sizes) == 11  # 7 - 4 to 9 + 4


def test_one_image_is_a_stack_of_one():
    prior = DepthPrior(network_of_taps())
    x = torch.randn(8, 8)
    close(prior(x, 0.3), prior(x[None], 0.3)[0])


def test_the_spacing_is_told_or_not():
    prior, x = DepthPrior(network_of_taps()), torch.randn(3, 8, 8)
    told, other = (prior.at_spacing(mm)(x, 0.3) for mm in ((1.0, 1.0), (1.0, 5.0)))
    assert (told - other).abs().max() > 0.02
    assert (told - prior(x, 0.3)).abs().max() > 0.02
    assert spacing_context(None).tolist() == [0, 0, 0, 0]
    for wrong in ((0.0, 1.0), (1.0, float("nan"))):
        with pytest.raises(InputError, match="millimetres above 0"):
            spacing_context(wrong)


def test_memory_is_that_of_the_parts_in_flight():
    """However long a volume is, at most two parts are in each block."""
    prior = DepthPrior(network_of_taps(), chunk=1)
    alive, most = set(), 0

    def seen(_, __, out):
        nonlocal most
        import weakref
        key = id(out)
        alive.add(key)
        weakref.finalize(out, alive.discard, key)
        most = max(most, len(alive))

    for stage in (*prior.network.down, *prior.network.up):
        for block in stage:
            block.norm1.register_forward_hook(seen)
            block.conv2.register_forward_hook(seen)
    peaks = []
    for n in (20, 80):
        most = 0
        prior(torch.randn(n, 8, 8), 0.3)
        peaks.append(most)
    assert peaks[0] == peaks[1] < 20


def test_checkpoint_round_trip(tmp_path):
    prior = DepthPrior(network_of_taps(complex_images=True))
    card = save_prior(tmp_path / "deep.safetensors", prior, "deep")
    loaded = load_prior(tmp_path / "deep.safetensors")
    assert isinstance(loaded, DepthPrior)
    assert card.network.taps
    x = random_image((3, 8, 8), prior.dtype)
    close(loaded.at_spacing((1.0, 2.0))(x, 0.3), prior.at_spacing((1.0, 2.0))(x, 0.3))


def test_taps_are_adapted_too():
    copied, parameters = adaptable_copy(DepthPrior(network_of_taps()), rank=1, targets=("along",))
    assert len(parameters) == 8  # two factors for each of four blocks, which have no bias
    x = torch.randn(3, 8, 8)
    copied(x, 0.3).square().sum().backward()
    assert all(parameter.grad is not None for parameter in parameters)


def test_networks_of_single_images_are_refused():
    with pytest.raises(CheckpointError, match="wrap its prior in SlicePrior"):
        DepthPrior(network_of_taps(taps=False))
