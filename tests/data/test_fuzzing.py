"""The fuzzing harness itself: reproducible, and it notices what it is there to notice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from medinv.errors import DataError
from tests.data import fuzzing
from tests.data.fuzzing import assert_survives, mutations

CONTENT = bytes(range(256)) * 4


def test_mutations_are_reproducible_and_different():
    first = list(mutations(CONTENT, 100, 3))
    assert first == list(mutations(CONTENT, 100, 3))
    assert len(set(first)) > 90
    assert first != list(mutations(CONTENT, 100, 4))
    assert any(len(damaged) < len(CONTENT) for damaged in first)


def test_an_empty_file_can_be_damaged():
    assert len(list(mutations(b"", 50, 0))) == 50


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.delenv("MEDINV_FUZZ", raising=False)


def refuse_damage(path: Path) -> int:
    if path.read_bytes() != CONTENT:
        raise DataError("damaged")
    return 1


def test_medinv_errors_pass_and_their_number_is_set_by_the_environment(monkeypatch):
    monkeypatch.setenv("MEDINV_FUZZ", "7")
    read = []
    assert_survives(lambda path: read.append(path) or refuse_damage(path), ".x", [CONTENT], 1000)
    assert len(read) == 7 + 1


def break_on_damage(path: Path) -> int:
    return 1 if path.read_bytes() == CONTENT else {}["damage"]


def answer_text(path: Path) -> str:
    return path.suffix


def hang_on_damage(path: Path) -> int:
    if path.read_bytes() != CONTENT:
        time.sleep(10)
    return 1


def test_crashes_and_wrong_answers_are_found():
    with pytest.raises(AssertionError, match=r"damaged file 0 of seed 0, .* KeyError"):
        assert_survives(break_on_damage, ".x", [CONTENT], 5)
    with pytest.raises(AssertionError, match="got str"):
        assert_survives(answer_text, ".x", [CONTENT], 5, answer=int)


def test_hangs_and_bombs_are_found(monkeypatch):
    monkeypatch.setattr(fuzzing, "SECONDS", 1)
    with pytest.raises(AssertionError, match="TimeoutError"):
        assert_survives(hang_on_damage, ".x", [CONTENT], 5)
    with pytest.raises(AssertionError, match="MemoryError"):
        assert_survives(
            lambda path: bytearray(2**33) if path.read_bytes() != CONTENT else 1, ".x",
            [CONTENT], 5,
        )
