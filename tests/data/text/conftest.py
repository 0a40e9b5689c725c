"""Nothing that a test prepares outlives it."""

import pytest


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("JATTN_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("JATTN_DATA", raising=False)
