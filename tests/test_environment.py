"""The machine and versions of a measurement; processors that multiply bfloat16, and how much that gains."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import hf_sparse
from hf_sparse import environment
from hf_sparse.environment import hardware, versions
from hf_sparse.native import features


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    def become(line: str) -> None:
        (tmp_path / "cpuinfo").write_text(f"flags : {line}\n")
        monkeypatch.setattr(features, "_PROCESSOR", tmp_path / "cpuinfo")
        features.processor_features.cache_clear()

    yield become
    features.processor_features.cache_clear()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("avx2 avx512f avx512_bf16 amx_bf16", "amx_bf16"),
        ("avx2 avx512f avx512_bf16", "avx512_bf16"),
        ("avx2 avx512f avx512_vnni", None),
        ("", None),
    ],
)
def test_the_best_instructions_are_named(
    flags: Callable[[str], None], line: str, expected: str | None
) -> None:
    flags(line)
    assert environment.bf16_hardware(accelerator=False) == expected


def test_a_gpu_is_asked_first(monkeypatch: pytest.MonkeyPatch, flags: Callable[[str], None]) -> None:
    flags("amx_bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    for supported, expected in ((True, "a GPU"), (False, None)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        assert environment.bf16_hardware() == expected
    assert environment.bf16_hardware(accelerator=False) == "amx_bf16"


def test_the_gain_is_a_ratio_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0] * 5 + [0.0, 1.0] * 5)
    monkeypatch.setattr(environment, "perf_counter", lambda: next(clock))
    assert environment.bf16_speedup() == 4.0


def test_hardware_names_the_8_bit_instructions_the_fastest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    features = frozenset({"avx2", "sse4_2", "avx512_vnni", "amx_int8"})
    monkeypatch.setattr(environment, "processor_features", lambda: features)
    assert hardware()["instructions"] == "amx_int8 avx512_vnni avx2"


def test_hardware_and_versions_are_named() -> None:
    assert hardware()["processor"] and hardware()["cores"] >= 1 and hardware()["torch_threads"] >= 1
    assert versions()["hf_sparse"] == hf_sparse.__version__
    assert {"python", "torch", "transformers"} <= versions().keys()
    assert "rich" not in versions() and versions("rich", "no_such_package").keys() - versions().keys() == {
        "rich"
    }
