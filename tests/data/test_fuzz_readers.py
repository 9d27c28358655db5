"""A few damaged files of every kind that medinv reads; ``benchmarks/fuzz.py`` reads thousands."""

from __future__ import annotations

import pytest

from tests.data.fuzz_readers import Reader, readers
from tests.data.fuzzing import assert_survives, is_text, mutations


@pytest.mark.parametrize("reader", readers(), ids=lambda reader: reader.name)
def test_damaged_files(reader: Reader, tmp_path):
    seeds = reader.seeds(tmp_path)[:3]
    assert_survives(reader.read, reader.suffix, seeds, 5 * len(seeds))


def test_words_of_a_text_are_damaged():
    content = b"name: tiny\nsteps: 50\n"
    assert is_text(content)
    assert not is_text(b"\x00\x01binary")
    damaged = list(mutations(content, 200, 0))
    assert any(b"steps: 1e999" in text or b"steps: [[[" in text for text in damaged)
