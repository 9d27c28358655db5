"""Conditioned priors against closed forms, and text encoders against BERT's own definition."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medinv.data.sets.fetch import cache_folder
from medinv.errors import CheckpointError, DependencyError, InputError, ShapeError
from medinv.operators import Inpainting
from medinv.priors import (
    CLIPText,
    ContextPrior,
    MiniLM,
    NetworkPrior,
    SlicePrior,
    TextEncoder,
    UNet,
    conditioned,
    load_prior,
    save_prior,
)
from medinv.problem import Problem
from medinv.solvers import DDS

SPREAD = 0.2
MEAN = torch.tensor([[0.0, 1.0]])


class TwoGaussians(nn.Module):
    """The network of N(c MEAN, SPREAD^2) given c = -1 or 1, and of their mixture without."""

    def forward(self, inner, noise, context=None):
        sigma = (4 * noise).exp()[:, None, None, None]
        total = sigma**2 + SPREAD**2
        along = (inner * total.sqrt() * MEAN).sum((1, 2, 3), keepdim=True)
        c = (along / total).tanh() if context is None else context[:, :1, None, None]
        return c * MEAN * sigma / (SPREAD * total.sqrt())


class Letters(TextEncoder):
    """Vectors of a prompt's first letters."""

    name, size = "letters", 3

    def encode(self, prompt):
        return torch.tensor([float(ord(letter)) for letter in prompt[:3].ljust(3)])


@pytest.fixture
def prior():
    return NetworkPrior(TwoGaussians(), sigma_data=SPREAD)


@pytest.fixture
def network_prior():
    torch.manual_seed(0)
    network = UNet(1, (16, 16), (1, 1), 16, context=3)
    for weights in network.parameters():  # many layers start at zero
        nn.init.normal_(weights, std=0.3)
    return NetworkPrior(network, sigma_data=0.5, text_encoder="letters").requires_grad_(False)


def test_the_given_gaussian_is_exact(prior):
    x, sigma = torch.tensor([[[0.4, -0.3]]]), 0.7
    expected = (SPREAD**2 * x + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)
    given = ContextPrior(prior, torch.ones(1))(x, sigma)
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 3.0])
def test_guidance_shifts_the_mean_in_proportion(prior, weight):
    """Two equal Gaussians: D_w - D_0 = w sigma^2 / (sigma^2 + s^2) (m_c - E[m | x])."""
    x, sigma = torch.tensor([[[0.4, -0.3]], [[0.1, 2.0]]]), 0.7
    total = SPREAD**2 + sigma**2
    believed = ((x * MEAN).sum((1, 2), keepdim=True) / total).tanh()
    shift = weight * sigma**2 / total * (1 - believed) * MEAN
    guided = ContextPrior(prior, torch.ones(1), weight)(x, sigma)
    torch.testing.assert_close(guided, prior(x, sigma) + shift)


def test_weights_zero_and_one_are_the_two_branches(network_prior):
    x, vector = torch.randn(2, 8, 8), torch.tensor([1.0, -1.0, 0.5])
    free = network_prior(x, 0.3)
    torch.testing.assert_close(ContextPrior(network_prior, vector, 0.0)(x, 0.3), free)
    given = ContextPrior(network_prior, vector, 1.0)(x, 0.3)
    torch.testing.assert_close(given, network_prior(x, 0.3, vector))
    assert not torch.allclose(given, free)


def test_a_context_halves_the_error_of_what_was_not_measured(prior):
    """Only the first pixel is measured, which both Gaussians share; the second is a coin toss."""
    A = Inpainting(torch.tensor([[1.0, 0.0]]).bool())
    rng = torch.Generator().manual_seed(0)
    truth = MEAN + SPREAD * torch.randn(200, 1, 2, generator=rng)
    y = A(truth) + 0.01 * torch.randn(200, 1, 2, generator=rng) * A.mask
    solver = DDS(steps=15, noise_aware=True, eta=1.0, sigma_max=5.0)
    errors = [float((solver(Problem(y, A), p, rng=torch.Generator().manual_seed(1)) - truth)
                    .square().mean((0, 1))[1])
              for p in (prior, ContextPrior(prior, torch.ones(1)))]
    assert errors[1] < 4 * SPREAD**2  # two independent draws of the Gaussian differ by 2 s^2
    assert errors[0] > 1.0  # half of the draws are 2 away


def test_each_slice_has_its_own_context(network_prior):
    x, vectors = torch.randn(3, 8, 8), torch.randn(3, 3)
    together = ContextPrior(network_prior, vectors)(x, 0.3)
    for image, vector, expected in zip(x, vectors, together, strict=True):
        alone = ContextPrior(network_prior, vector)(image[None], 0.3)[0]
        torch.testing.assert_close(alone, expected)
    twice = ContextPrior(network_prior, vectors)(x.expand(2, 3, 8, 8), 0.3)
    torch.testing.assert_close(twice[1], together)
    with pytest.raises(ShapeError, match="3 slices are described"):
        ContextPrior(network_prior, vectors)(x[:2], 0.3)


def test_no_context_is_the_network_without(network_prior):
    """The weights of a network without context give the same numbers in one with it."""
    plain = NetworkPrior(UNet(1, (16, 16), (1, 1), 16), sigma_data=0.5)
    tensors = network_prior.network.state_dict()
    plain.network.load_state_dict({k: v for k, v in tensors.items() if "describe." not in k})
    x = torch.randn(2, 8, 8)
    torch.testing.assert_close(network_prior(x, 0.3), plain(x, 0.3))
    torch.testing.assert_close(network_prior(x, 0.3, torch.zeros(3)), plain(x, 0.3))


def test_a_checkpoint_keeps_context_and_encoder(network_prior, tmp_path):
    path = tmp_path / "told.safetensors"
    save_prior(path, network_prior, "told")
    loaded = load_prior(path)
    assert loaded.text_encoder == "letters"
    told = conditioned(loaded, ["abc", ""], Letters(), weight=2.0)
    assert told.context.square().mean(1).tolist() == pytest.approx([1.0, 0.0])
    assert conditioned(loaded, "abc", Letters()).context.shape == (3,)


def test_what_cannot_be_conditioned(network_prior):
    plain = NetworkPrior(UNet(1, (16, 16), (1, 1), 16), sigma_data=0.5)
    with pytest.raises(CheckpointError, match="takes no context"):
        ContextPrior(plain, torch.ones(3))
    with pytest.raises(CheckpointError, match="vectors of 3 numbers"):
        ContextPrior(network_prior, torch.ones(4))
    with pytest.raises(InputError, match="weight of at least 0, got -1"):
        ContextPrior(network_prior, torch.ones(3), -1)
    with pytest.raises(CheckpointError, match="no prompts, got the encoder letters"):
        conditioned(plain, "abc", Letters())


def bert(size=8, wide=16, layers=2, pieces=7):
    """Random weights of a small BERT, as transformers names them."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"embeddings.word_embeddings": (pieces, size), "embeddings.LayerNorm": (size,),
              "embeddings.position_embeddings": (6, size),
              "embeddings.token_type_embeddings": (2, size)}
    for i in range(layers):
        names = {"attention.self.query": (size, size), "attention.self.key": (size, size),
                 "attention.self.value": (size, size), "attention.output.dense": (size, size),
                 "attention.output.LayerNorm": (size,), "intermediate.dense": (wide, size),
                 "output.dense": (size, wide), "output.LayerNorm": (size,)}
        shapes |= {f"encoder.layer.{i}.{name}": shape for name, shape in names.items()}
    return {f"{name}.{kind}": torch.randn(shape if kind == "weight" else shape[:1], generator=rng)
            for name, shape in shapes.items() for kind in ("weight", "bias")}


def reference(tensors, ids, n_heads):
    """BERT (Devlin et al. 2019) written out, mean over the tokens."""
    def linear(h, name):
        return h @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(h, name):
        h = (h - h.mean(-1, keepdim=True)) / h.var(-1, unbiased=False, keepdim=True).sqrt()
        return h * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    h = (tensors["embeddings.word_embeddings.weight"][ids]
         + tensors["embeddings.position_embeddings.weight"][: len(ids)]
         + tensors["embeddings.token_type_embeddings.weight"][0])
    h = norm(h, "embeddings.LayerNorm")
    for i in range(2):
        at = f"encoder.layer.{i}"
        q, k, v = (linear(h, f"{at}.attention.self.{name}").unflatten(-1, (n_heads, -1))
                   for name in ("query", "key", "value"))
        scores = torch.einsum("thd,shd->hts", q, k) / math.sqrt(q.shape[-1])
        mixed = torch.einsum("hts,shd->thd", scores.softmax(-1), v).flatten(1)
        h = norm(h + linear(mixed, f"{at}.attention.output.dense"),
                 f"{at}.attention.output.LayerNorm")
        inner = linear(h, f"{at}.intermediate.dense")
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        h = norm(h + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return h.mean(0)


@pytest.fixture
def tiny_bert(tmp_path):
    save_file(bert(), tmp_path / "model.safetensors")
    pieces = ["[UNK]", "[CLS]", "[SEP]", "knee", ",", "t", "##2"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    return MiniLM(tmp_path / "model.safetensors", tmp_path / "vocab.txt", n_heads=2)


def test_the_encoder_is_bert(tiny_bert):
    encoded = tiny_bert.encode("T2")
    torch.testing.assert_close(encoded, reference(bert(), [1, 5, 6, 2], 2), atol=1e-4, rtol=1e-4)
    vectors = tiny_bert(["T2", "", "knee, knee, knee, knee"])  # the last is longer than it can be
    torch.testing.assert_close(vectors[0], encoded / encoded.square().mean().sqrt())
    assert not vectors[1].any()


def test_words_that_nothing_spells(tiny_bert):
    assert tiny_bert.tokens("t22 t9 KNÉE" + " " + 101 * "t") == [1, 5, 6, 6, 0, 3, 0, 2]


def test_files_of_another_model(tiny_bert, tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="expected the weights of a BERT encoder"):
        MiniLM(tmp_path / "other.safetensors", tmp_path / "vocab.txt")
    (tmp_path / "empty.txt").write_text("knee")
    with pytest.raises(CheckpointError, match="vocabulary lacks"):
        MiniLM(tmp_path / "model.safetensors", tmp_path / "empty.txt")


def test_the_published_encoder_tells_contrasts_apart():
    folder = cache_folder("minilm-l6-v2")
    if not (folder / "model.safetensors").is_file():
        pytest.skip("minilm-l6-v2 is not downloaded; `medinv data fetch minilm-l6-v2`")
    encoder = MiniLM(folder / "model.safetensors", folder / "vocab.txt")
    # the tokens that the package tokenizers 0.23 gives with the model's tokenizer.json
    assert encoder.tokens("Brain, T2w; CORPDFS_FBK é") == [
        101, 4167, 1010, 1056, 2475, 2860, 1025, 13058, 20952, 2015, 1035, 1042, 2497, 2243, 1041,
        102]
    told = encoder(["brain, T2w", "brain, T2w, axial", "knee"])
    likeness = told @ told.T / encoder.size
    assert likeness[0, 1] > 0.7 > 0.3 > likeness[0, 2]


def test_clip_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(DependencyError, match="pip install transformers"):
        CLIPText()


def test_slices_of_a_volume_keep_their_contexts(network_prior):
    """However many go through the network at once, and in any part of the stack."""
    contexts, x = torch.randn(5, 3), torch.randn(5, 8, 8)
    given = ContextPrior(network_prior, contexts)
    whole = given(x, 0.5)
    torch.testing.assert_close(SlicePrior(given, chunk=2)(x, 0.5), whole)
    index = torch.tensor([1, 3])
    for prior in (given, SlicePrior(given)):
        torch.testing.assert_close(prior.of_slices(index)(x[index], 0.5), whole[index])
    torch.testing.assert_close(SlicePrior(given, -1, chunk=2)(x.movedim(0, -1), 0.5),
                               whole.movedim(0, -1))
