"""The best path that a processor runs is chosen."""

import pytest

from hf_sparse.native import features
from hf_sparse.runtime import cpu as processor
from hf_sparse.runtime.bindings import load_kernels

ZEN5 = "avx2 fma avx512f avx512bw avx512vl avx512_vnni avx_vnni"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    def become(name: str, line: str) -> None:
        (tmp_path / "cpuinfo").write_text(f"processor : 0\n{line}\n")
        monkeypatch.setattr(features, "_PROCESSOR", tmp_path / "cpuinfo")
        monkeypatch.setattr(features.platform, "machine", lambda: name)
        monkeypatch.delenv(processor.SWITCH, raising=False)
        features.processor_features.cache_clear()

    yield become
    features.processor_features.cache_clear()


@pytest.mark.parametrize(
    ("name", "line", "best"),
    [
        ("x86_64", f"flags : {ZEN5}", "avx512_vnni"),
        ("x86_64", "flags : sse2 avx2 fma avx_vnni", "avx_vnni"),
        ("x86_64", "flags : sse2 avx2 fma avx512f", "avx2"),
        ("x86_64", "flags : sse2 avx2 avx_vnni", "portable"),
        ("x86_64", "flags : sse2", "portable"),
        ("aarch64", "Features : fp asimd asimddp", "neon"),
        ("arm64", "Features : fp asimd asimddp", "neon"),
        ("aarch64", "Features : fp asimd", "portable"),
        ("riscv64", "", "portable"),
    ],
)
def test_the_best_path_that_runs_is_chosen(machine, name: str, line: str, best: str) -> None:
    machine(name, line)
    assert processor.chosen_paths()[0].name == best == processor.available_paths()[0]
    assert processor.available_paths()[-1] == "portable"


def test_a_path_can_be_named(machine, monkeypatch) -> None:
    machine("x86_64", f"flags : {ZEN5}")
    monkeypatch.setenv(processor.SWITCH, "avx2")
    assert [path.name for path in processor.chosen_paths()] == ["avx2"]
    monkeypatch.setenv(processor.SWITCH, "neon")
    runs = ", ".join(processor.available_paths())
    assert runs.startswith("avx512_vnni, ") and runs.endswith(", portable")
    with pytest.raises(ValueError, match=rf"neon \(HF_SPARSE_RUNTIME_PATH\) .* {runs}"):
        processor.chosen_paths()


def test_kernels_of_another_processor_are_refused() -> None:
    for name in ("nonsense", "neon" if "neon" not in processor.available_paths() else "avx2"):
        with pytest.raises(ValueError, match=f"{name} .* none of the paths that this processor runs"):
            load_kernels(name)


@pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("path", processor.available_paths())
def test_words_and_tiles_fit_each_other(path: str) -> None:
    kernels = load_kernels(path)
    assert kernels.path == path and kernels.tokens == kernels.group * kernels.lanes


@pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")
def test_structures_have_the_size_of_the_kernels_own() -> None:
    import ctypes

    from hf_sparse.runtime.bindings import Encoder, Grid, Layer, Matrix, Rows

    sizes = (ctypes.c_int64 * 5)()
    load_kernels().library.hf_sparse_sizes(sizes)
    assert list(sizes) == [ctypes.sizeof(each) for each in (Matrix, Grid, Layer, Encoder, Rows)]
