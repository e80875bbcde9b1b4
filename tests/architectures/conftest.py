"""Runs that several tests look at, trained once."""

from collections.abc import Callable
from functools import cache

import pytest

from tests.support.zoo import architecture
from tests.support.zoo_runs import Run, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, float], Run]:
    """Return a function from an architecture's name, a pattern and a sparsity to a finished run."""

    @cache
    def run(name: str, pattern: str, final: float) -> Run:
        return train(architecture(name), tmp_path_factory.mktemp("zoo"), pattern, final)

    return run
