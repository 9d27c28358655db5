"""Training writes decoded slices into the cache; here, into a folder of the test."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDINV_CACHE", str(tmp_path / "cache"))
