"""Keep the cache of evaluate in the temporary directory of the test."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def metrics_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path)
