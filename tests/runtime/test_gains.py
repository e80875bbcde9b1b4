"""What patterns buy, measured on one small layer."""

import pytest

from hf_sparse.runtime.gains import PATTERNS, SPARSITIES, measure_gains
from hf_sparse.runtime.library import load_kernels

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")


def test_every_pattern_is_measured_at_every_sparsity() -> None:
    kernels = load_kernels()
    gains = measure_gains(kernels, (64, 48), 20)
    assert gains.path == kernels.path and gains.shape == (64, 48) and gains.tokens == 20
    assert gains.dense > 0 and gains.floats > 0
    assert gains.times.keys() == PATTERNS.keys()
    for times in gains.times.values():
        assert tuple(times) == SPARSITIES and all(time > 0 for time in times.values())


def test_shapes_that_no_block_divides_are_measured() -> None:
    assert measure_gains(load_kernels(), (13, 7), 3).times["4x4"][0.9] > 0
