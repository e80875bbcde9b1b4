"""Compiling at first use: once for a user, whole or not at all, with the reason where it cannot be done."""

import ctypes
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_sparse.native import building
from hf_sparse.native.building import load_library


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_library.cache_clear()
    yield tmp_path / "hf_sparse"
    load_library.cache_clear()


needs_compiler = pytest.mark.skipif(
    not any(map(building.shutil.which, building._COMPILERS)), reason="there is no C++ compiler"
)


@needs_compiler
def test_a_file_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = load_library("groups")
    assert library.add_group_gradient and isinstance(library, ctypes.CDLL)
    (built,) = cache.iterdir()
    load_library.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert load_library("groups") is not None
    assert list(cache.iterdir()) == [built]


@needs_compiler
def test_processes_that_compile_at_once_all_succeed(cache: Path) -> None:
    code = "from hf_sparse.native.building import load_library; assert load_library('groups') is not None"
    running = [subprocess.Popen([sys.executable, "-c", code], env=os.environ) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("PATH", "", "there is no C++ compiler (c++, g++, clang++ or $CXX)"),
        ("CXX", "false", "false failed on groups.cpp"),
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
        assert load_library("groups") is None
        assert load_library("groups") is None
    (message,) = caplog.messages
    assert message.startswith("groups is done in PyTorch alone, several times slower: ") and reason in message


def test_a_failed_compilation_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    assert load_library("groups") is None
    assert list(cache.iterdir()) == []


def test_it_can_be_switched_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(building.SWITCH, "0")
    assert load_library("groups") is None
    assert not cache.exists()
