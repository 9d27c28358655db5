"""Shared fixtures: where real data are, a seeded generator, one thread for reproducible timing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(skip)


@pytest.fixture
def rng() -> torch.Generator:
    """A generator with a fixed seed; the same numbers in every run."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _same_defaults() -> Iterator[None]:
    """No test sees another test's seed or default dtype."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets that no package client carries."""
    folder = Path(os.environ.get("MEDINV_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data are absent: {folder} (set MEDINV_SHARED_DATA)")
    return folder
