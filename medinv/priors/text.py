"""Text encoders: from prompts to vectors that condition a prior.

An encoder is a callable ``encoder(prompts) -> (n, size)``. Vectors are in units of their own root
mean square, and the empty prompt is the zero vector, which a `UNet` treats as no prompt at all.
`MiniLM` needs nothing but torch and the files of the data set ``minilm-l6-v2``; `CLIPText` needs
``transformers`` and weights that it finds on this machine.
"""

from __future__ import annotations

import importlib
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medinv.errors import CheckpointError, DependencyError

_LONGEST_WORD = 100  # BERT takes no pieces of longer ones


class TextEncoder(ABC):
    """Prompts to vectors, each prompt encoded once.

    Attributes:
        name: what a checkpoint calls it.
        size: numbers in a vector.

    Example:
        >>> class Length(TextEncoder):
        ...     name, size = "length", 2
        ...     def encode(self, prompt):
        ...         return torch.tensor([len(prompt), 0.0])
        >>> Length()(["brain", ""])
        tensor([[1.4142, 0.0000],
                [0.0000, 0.0000]])
    """

    name: str
    size: int

    def __init__(self) -> None:
        self._known: dict[str, Tensor] = {}

    @abstractmethod
    def encode(self, prompt: str) -> Tensor:
        """The vector (size,) of a prompt that is not empty, of any length but zero."""

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Vectors (n, size) of root mean square one; zero for empty prompts."""
        return torch.stack([self._cached(prompt) for prompt in prompts])

    def _cached(self, prompt: str) -> Tensor:
        if not prompt:
            return torch.zeros(self.size)
        if prompt not in self._known:
            vector = self.encode(prompt)
            self._known[prompt] = vector / vector.square().mean().sqrt()
        return self._known[prompt]


class WordPiece:
    """BERT's uncased tokens (Devlin et al. 2019; Wu et al. 2016): longest known piece first.

    Words are lower-cased and lose their accents, punctuation stands alone, and what no pieces
    spell is ``[UNK]``.

    Args:
        pieces: the vocabulary; a piece that continues a word begins with ``##``.

    Example:
        >>> tokens = WordPiece(["[UNK]", "[CLS]", "[SEP]", "knee", ",", "t", "##2"])
        >>> tokens("Knee, T2 é")
        [1, 3, 4, 5, 6, 0, 2]
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.ids = {piece: i for i, piece in enumerate(pieces)}
        if missing := {"[UNK]", "[CLS]", "[SEP]"} - set(self.ids):
            raise CheckpointError(f"WordPiece: the vocabulary lacks {sorted(missing)}; it is not "
                                  "that of an uncased BERT")

    def __call__(self, text: str) -> list[int]:
        """Numbers of the pieces, between ``[CLS]`` and ``[SEP]``."""
        pieces = chain.from_iterable(map(self._pieces, _words(text)))
        return [self.ids["[CLS]"], *pieces, self.ids["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        if len(word) > _LONGEST_WORD:
            return [self.ids["[UNK]"]]
        found: list[int] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            stops = range(len(word), start, -1)
            stop = next((s for s in stops if mark + word[start:s] in self.ids), None)
            if stop is None:
                return [self.ids["[UNK]"]]
            found.append(self.ids[mark + word[start:stop]])
            start = stop
        return found


def _words(text: str) -> list[str]:
    """Lower-case words without accents, and every punctuation mark."""
    plain = (c for c in unicodedata.normalize("NFD", text.lower())
             if unicodedata.category(c) != "Mn")
    return "".join(f" {c} " if _punctuation(c) else c for c in plain).split()


def _punctuation(character: str) -> bool:
    """Unicode's punctuation, and all of ASCII that is neither letter, digit nor space."""
    ascii_mark = character.isascii() and character.isprintable() and not (
        character.isalnum() or character.isspace())
    return ascii_mark or unicodedata.category(character).startswith("P")


class MiniLM(TextEncoder):
    """all-MiniLM-L6-v2 (Wang et al., arXiv:2002.10957): a BERT of 6 layers, mean over its tokens.

    Args:
        weights: safetensors file with BERT's tensors as ``transformers`` names them.
        vocabulary: text file with one piece a line.
        n_heads: attention heads of each layer.

    Raises:
        CheckpointError: a file is not what it should be.

    Example:
        >>> from medinv.data import load_manifest
        >>> encoder = MiniLM(**load_manifest("minilm-l6-v2").fetch())  # doctest: +SKIP
        >>> encoder(["brain, T2w, axial"]).shape  # doctest: +SKIP
        torch.Size([1, 384])
    """

    name = "minilm"

    def __init__(self, weights: Path, vocabulary: Path, n_heads: int = 12) -> None:
        super().__init__()
        self.tokens = WordPiece(vocabulary.read_text(encoding="utf-8").splitlines())
        try:
            tensors = load_file(weights)
            self.embedding = tensors["embeddings.word_embeddings.weight"]
            self.positions = (tensors["embeddings.position_embeddings.weight"]
                              + tensors["embeddings.token_type_embeddings.weight"][0])
            self.size = self.embedding.shape[1]
            self.norm = nn.LayerNorm(self.size, eps=1e-12)
            self.norm.load_state_dict(_part(tensors, "embeddings.LayerNorm"))
            self.layers = _layers(tensors, self.size, n_heads)
        except (KeyError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"{weights.name}: expected the weights of a BERT encoder, as "
                                  f"all-MiniLM-L6-v2 has them; {error}") from error

    def encode(self, prompt: str) -> Tensor:
        """The mean (size,) of the last layer over its tokens; what has no room is cut."""
        ids = torch.tensor(self.tokens(prompt)[: len(self.positions)])
        h = self.norm(self.embedding[ids] + self.positions[: len(ids)])[None]
        for layer in self.layers:
            h = layer(h)
        mean: Tensor = h[0].mean(0)
        return mean


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {kind: tensors[f"{name}.{kind}"] for kind in ("weight", "bias")}


def _layers(tensors: dict[str, Tensor], size: int, n_heads: int) -> nn.ModuleList:
    """BERT's layers are torch's, normalised after each sum, under other names."""
    layers = nn.ModuleList()
    while f"encoder.layer.{len(layers)}.output.dense.weight" in tensors:
        prefix = f"encoder.layer.{len(layers)}."
        wide = len(tensors[f"{prefix}intermediate.dense.weight"])
        layer = nn.TransformerEncoderLayer(size, n_heads, wide, dropout=0.0, activation="gelu",
                                           layer_norm_eps=1e-12, batch_first=True)
        attention = [_part(tensors, f"{prefix}attention.self.{name}")
                     for name in ("query", "key", "value")]
        names = {"self_attn.out_proj": "attention.output.dense",
                 "linear1": "intermediate.dense", "linear2": "output.dense",
                 "norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm"}
        state = {f"{ours}.{kind}": value for ours, theirs in names.items()
                 for kind, value in _part(tensors, prefix + theirs).items()}
        state |= {f"self_attn.in_proj_{kind}": torch.cat([part[kind] for part in attention])
                  for kind in ("weight", "bias")}
        layer.load_state_dict(state)
        layers.append(layer)
    return layers.eval().requires_grad_(False)


class CLIPText(TextEncoder):
    """The text half of CLIP (Radford et al. 2021), which the published ContextMRI uses; pooled.

    Nothing is downloaded: the weights must be in a folder, or in the cache of ``transformers``.

    Args:
        source: folder with the model and its tokenizer, or the name they were cached under.

    Raises:
        DependencyError: ``transformers`` is not installed.
        CheckpointError: no weights are at hand.

    Example:
        >>> CLIPText("a/folder/with/clip-vit-large-patch14")  # doctest: +SKIP
    """

    name = "clip"

    def __init__(self, source: str | Path = "openai/clip-vit-large-patch14") -> None:
        super().__init__()
        try:
            transformers = importlib.import_module("transformers")
        except ImportError as error:
            raise DependencyError("CLIPText: needs the package transformers; pip install "
                                  "transformers, or use MiniLM, which needs none") from error
        try:
            tokenizer = transformers.CLIPTokenizerFast.from_pretrained(
                source, local_files_only=True)
            model = transformers.CLIPTextModel.from_pretrained(source, local_files_only=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"CLIPText: no weights of {str(source)!r} are on this machine; "
                                  "download them first and pass their folder, or use MiniLM "
                                  f"({error})") from error
        self.tokenizer, self.model = tokenizer, model.eval()
        self.size = int(model.config.hidden_size)

    def encode(self, prompt: str) -> Tensor:
        """The pooled vector (size,) of as many tokens as the model has room for (77)."""
        room = self.model.config.max_position_embeddings
        tokens = self.tokenizer(prompt, truncation=True, max_length=room, return_tensors="pt")
        pooled: Tensor = self.model(**tokens).pooler_output[0]
        return pooled
