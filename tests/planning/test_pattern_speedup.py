"""The speed-up of patterns: measured on one small layer, and as a table."""

from io import StringIO

import pytest
from rich.console import Console

from hf_sparse.planning.pattern_speedup import PATTERNS, SPARSITIES, Speedup, measure_speedup, print_speedup
from hf_sparse.runtime.bindings import load_kernels

compiled = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")


@compiled
def test_every_pattern_is_measured_at_every_sparsity() -> None:
    kernels = load_kernels()
    measured = measure_speedup(kernels, (64, 48), 20)
    assert measured.path == kernels.path and measured.shape == (64, 48) and measured.tokens == 20
    assert measured.dense > 0 and measured.floats > 0
    assert measured.times.keys() == PATTERNS.keys()
    for times in measured.times.values():
        assert tuple(times) == SPARSITIES and all(time > 0 for time in times.values())


@compiled
def test_shapes_that_no_block_divides_are_measured() -> None:
    assert measure_speedup(load_kernels(), (13, 7), 3).times["4x4"][0.9] > 0


def printed(chosen: list[str]) -> str:
    console = Console(file=StringIO(), width=80)
    times = {"4x4": {0.5: 1.26, 0.9: 5.0}, "unstructured": {0.5: 1.0, 0.9: 3.21}}
    print_speedup(Speedup("avx2", (3072, 768), 128, 0.002, 0.02, times), chosen, console)
    return console.file.getvalue()


def test_speedups_stand_by_pattern_and_sparsity() -> None:
    lines = printed([]).splitlines()
    assert lines[1] == "One layer of 3072 x 768 in the CPU runtime (avx2), 128 tokens:"
    assert lines[2] == "dense in 8 bits 2.00 ms, PyTorch in float32 20.00 ms."
    assert [line.split() for line in lines if line.startswith(("4x4", "unst"))] == [
        ["4x4", "1.3x", "5.0x"],
        ["unstructured", "1.0x", "3.2x"],
    ]
    assert "50% zeros" in printed([]) and "recipe" not in printed(["2:4"])


def test_the_pattern_of_the_recipe_is_marked() -> None:
    assert "4x4 *" in printed(["4x4"]) and "* the recipe's" in printed(["4x4"])
