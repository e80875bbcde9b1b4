"""C++ is compiled once, for a wheel or at first use, whole or not at all; a warning says why not."""

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hf_sparse.native import build as building
from hf_sparse.native.build import load_first, load_library, prebuild

SOURCE = "native/groups.cpp"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(building.SWITCH, raising=False)
    load_first.cache_clear()
    yield tmp_path / "hf_sparse"
    load_first.cache_clear()


needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, building.COMPILERS)), reason="there is no C++ compiler"
)


def libraries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.so"))


def work(library: ctypes.CDLL) -> bool:
    library.group_norms.restype = None
    weight, scratch, norm = (ctypes.c_float * 2)(3.0, 4.0), (ctypes.c_float * 4)(), ctypes.c_float()
    sizes = map(ctypes.c_int64, (1, 2, 1, 2))
    library.group_norms(weight, *sizes, scratch, ctypes.byref(norm))
    return norm.value == 5.0


@needs_compiler
def test_a_file_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert work(load_library(SOURCE))
    built = libraries(cache)
    assert len(built) == 1
    load_first.cache_clear()
    monkeypatch.setattr(building, "_compile", None)
    assert work(load_library(SOURCE)) and libraries(cache) == built


@pytest.fixture
def prebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(building, "PREBUILT", str(tmp_path / "prebuilt"))
    return tmp_path / "prebuilt"


@needs_compiler
def test_what_the_wheel_has_brought_comes_before_the_cache(
    prebuilt: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert work(load_library(SOURCE))
    shutil.rmtree(cache)
    path = prebuild(SOURCE, into=prebuilt.parent)
    assert list(prebuilt.iterdir()) == [path]
    # No compiler is looked for, nor is a cache.
    monkeypatch.setenv("PATH", "")
    load_first.cache_clear()
    assert work(load_library(SOURCE)) and not cache.exists()
    monkeypatch.setenv(building.SWITCH, "0")
    load_first.cache_clear()
    assert load_library(SOURCE) is None


@needs_compiler
def test_what_was_compiled_of_other_sources_or_by_other_flags_is_not_loaded(
    prebuilt: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    (package / "native").mkdir(parents=True)
    shutil.copy(building._PACKAGE / SOURCE, package / "native")
    monkeypatch.setattr(building, "_PACKAGE", package)
    prebuild(SOURCE, into=tmp_path)
    assert work(load_library(SOURCE)) and not cache.exists()
    assert work(load_library(SOURCE, "-O1")) and len(libraries(cache)) == 1
    (package / "native" / "new.h").touch()
    load_first.cache_clear()
    assert work(load_library(SOURCE)) and len(libraries(cache)) == 2


@needs_compiler
def test_what_the_wheel_has_brought_for_another_system_is_compiled(prebuilt: Path, cache: Path) -> None:
    path = prebuild(SOURCE, into=prebuilt.parent)
    path.write_bytes(b"for another system")
    assert work(load_library(SOURCE)) and len(libraries(cache)) == 1


@needs_compiler
def test_where_a_library_cannot_stand_alone_it_is_compiled_all_the_same(
    prebuilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_ALONE", ("-no-such-flag",))
    prebuild(SOURCE, into=prebuilt.parent)
    monkeypatch.setenv("PATH", "")
    assert work(load_library(SOURCE))


@needs_compiler
def test_another_compiler_or_its_flags_make_another_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flags in ("", "-O1"):
        monkeypatch.setenv("CXX", f"c++ {flags}")
        load_first.cache_clear()
        assert work(load_library(SOURCE))
    assert len(libraries(cache)) == 2


@needs_compiler
def test_threads_compile_once_and_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    compile_ = building._compile
    monkeypatch.setattr(building, "_compile", lambda *call: (compiled.append(call), compile_(*call)))
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: load_library(SOURCE), range(4)))
    assert len(found) == len(compiled) == 1


@needs_compiler
def test_processes_that_compile_at_once_all_succeed(cache: Path) -> None:
    code = f"from hf_sparse.native.build import load_library; assert load_library({SOURCE!r}) is not None"
    running = [subprocess.Popen([sys.executable, "-c", code], env=os.environ) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(libraries(cache)) == 1


@needs_compiler
@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("PATH", "", "no C++ compiler found (c++, g++, clang++ or $CXX)"),
        ("CXX", "false", "false failed: exit code 1"),
        ("CXX", "no-such-compiler", "no-such-compiler"),
        ("XDG_CACHE_HOME", "/dev/null", "/dev/null"),
    ],
)
def test_where_it_cannot_be_compiled_one_warning_says_why(
    variable: str,
    value: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(variable, value)
    with caplog.at_level(logging.WARNING):
        assert load_library(SOURCE) is None
        assert load_library(SOURCE) is None
    (message,) = caplog.messages
    assert message.startswith("hf_sparse/native/groups.cpp is not used, PyTorch does the same several times")
    assert reason in message and message.endswith("set HF_SPARSE_NATIVE=0 to be silent about it.")


def test_a_failed_compilation_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    assert load_library(SOURCE) is None
    assert list(cache.iterdir()) == []


def test_it_can_be_switched_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(building.SWITCH, "0")
    assert load_library(SOURCE) is None
    assert not cache.exists()


@needs_compiler
def test_a_user_without_a_home_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    # What is no absolute path is not one to load programs from.
    monkeypatch.setenv("XDG_CACHE_HOME", ".")
    monkeypatch.setattr(Path, "home", homeless)
    assert load_library(SOURCE) is None and "neither a home directory nor $XDG_CACHE_HOME" in caplog.text


@needs_compiler
def test_of_several_sets_of_flags_the_first_that_compiles_is_taken(cache: Path, caplog) -> None:
    number, library = load_first(SOURCE, ("-mno-such-thing",), ("-O1",), ())
    assert number == 1 and work(library) and not caplog.text
    assert load_first(SOURCE, ("-mno-such-thing",), ("-mnor-this",)) is None
    assert caplog.text.count("is not used") == 1 and "-mno-such-thing" in caplog.text
