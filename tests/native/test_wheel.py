"""Wheels hold libraries for all processors of an architecture; without a compiler, the sources."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from hf_sparse.native.build import COMPILERS, PREBUILT, SWITCH
from hf_sparse.runtime.cpu import machine_paths

ROOT = Path(__file__).resolve().parents[2]
# What is no module of Python and must be there all the same: C++, presets with their arguments.
SOURCES = {
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.cpp", "*.h", "*.yaml")
    for path in (ROOT / "hf_sparse").rglob(pattern)
}
# Compiling the kernels themselves would take most of a minute.
KERNELS = 'extern "C" int answer() { return 42; }'

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    copy = tmp_path / "tree"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hf_sparse", copy / "hf_sparse", ignore=ignored)
    for name in ("setup.py", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def build(tree: Path, **environment: str) -> tuple[Path, str]:
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run(
        [*command, "-w", str(tree / "dist"), "."],
        cwd=tree,
        env={**_plain(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (wheel,) = (tree / "dist").iterdir()
    return wheel, done.stdout


def _plain() -> dict[str, str]:
    """Return the environment without the switch, which these tests set themselves."""
    return {name: value for name, value in os.environ.items() if name != "HF_SPARSE_NATIVE"}


def names(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


def libraries(wheel: Path) -> set[str]:
    return {name for name in names(wheel) if name.startswith(f"hf_sparse/{PREBUILT}/")}


def backend(tree: Path, call: str) -> None:
    code = f"from setuptools.build_meta import __legacy__ as backend; backend.{call}"
    subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, check=True)


@pytest.mark.parametrize(
    ("environment", "lines"),
    [
        ({"PATH": "", "CXX": ""}, ["no C++ compiler found (c++, g++, clang++ or $CXX)"]),
        ({"CXX": "false"}, ["false failed: exit code 1"]),
        ({SWITCH: "0"}, []),
    ],
)
def test_without_a_compiler_a_wheel_of_any_platform_has_the_sources(
    environment: dict[str, str], lines: list[str], tree: Path
) -> None:
    # Of an earlier build, which had one.
    stale = tree / "build" / "lib" / "hf_sparse" / PREBUILT / "groups-0.so"
    stale.parent.mkdir(parents=True)
    stale.touch()
    wheel, said = build(tree, **environment)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert names(wheel) >= SOURCES and not libraries(wheel)
    said_of_it = [line for line in said.splitlines() if "C++" in line]
    assert len(said_of_it) == len(lines)
    assert all(map(str.endswith, said_of_it, lines))


@needs_compiler
def test_a_wheel_with_libraries_needs_no_compiler(tree: Path) -> None:
    (tree / "hf_sparse" / "runtime" / "kernels" / "kernels.cpp").write_text(KERNELS, encoding="utf-8")
    wheel, said = build(tree)
    assert wheel.name.split("-")[-3:-1] == ["py3", "none"] and not wheel.name.endswith("any.whl")
    assert len(libraries(wheel)) == 2 + len(machine_paths()) and "C++" not in said
    assert not (tree / "hf_sparse" / PREBUILT).exists()

    installed = tree.parent / "installed"
    with ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = f"""
import hf_sparse
from hf_sparse.native.build import load_library
from hf_sparse.runtime.cpu import machine_paths

assert hf_sparse.__file__.startswith({str(installed)!r})
assert load_library("native/groups.cpp").group_norms
assert load_library("native/bits.cpp").clear_removed
for path in machine_paths():
    assert load_library("runtime/kernels/kernels.cpp", *path.flags).answer() == 42
"""
    cache = tree.parent / "cache"
    where = {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(cache), "PATH": "", "CXX": ""}
    subprocess.run([sys.executable, "-c", code], cwd=tree.parent, env={**_plain(), **where}, check=True)
    assert not cache.exists()


def test_an_editable_install_compiles_nothing(tree: Path) -> None:
    backend(tree, "build_editable('dist')")
    (wheel,) = (tree / "dist").iterdir()
    assert not libraries(wheel) and not list(tree.rglob("*.so"))


def test_the_archive_of_sources_has_those_in_cpp(tree: Path) -> None:
    backend(tree, "build_sdist('dist')")
    (archive,) = (tree / "dist").iterdir()
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    assert held >= SOURCES | {"setup.py", "setup.cfg", "README.md", "LICENSE"}
