"""Fixtures of the tests of the kernels."""

from collections.abc import Iterator

import pytest

from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.cpu import SWITCH, available_paths


@pytest.fixture(params=available_paths())
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Set each path that runs here in turn."""
    monkeypatch.setenv(SWITCH, request.param)
    load_kernels.cache_clear()
    yield request.param
    load_kernels.cache_clear()
