"""The paths of the kernels are the same in PATHS, the macros of C++, docs/runtime.md and the tests."""

import re
from pathlib import Path

import hf_sparse
from hf_sparse.runtime.cpu import PATHS
from tests.runtime.emulations import EMULATIONS

PACKAGE = Path(hf_sparse.__file__).parent
KERNELS = PACKAGE / "runtime" / "kernels"
NAMES = [path.name for path in PATHS]
# Compiles a path for a processor without its instructions; tests alone set it.
EMULATED = "EMULATED"
# Not emulated, since every x86 machine that tests run on has it.
NATIVE = {"avx2"}
BRANCH = re.compile(r"^#(?:el)?if defined\(HF_SPARSE_(\w+)\)\n+(.+)", re.MULTILINE)


def written_for(start: str) -> dict[str, str]:
    """Return the first line of each branch of vectors.h that starts so, by the path that it is for."""
    text = (KERNELS / "vectors.h").read_text(encoding="utf-8")
    branches = [
        *BRANCH.findall(text),
        *(("PORTABLE", line) for line in re.findall(r"^#else\n+(.+)", text, re.M)),
    ]
    return {macro.lower(): line for macro, line in branches if line.startswith(start)}


def table() -> list[list[str]]:
    """Return the cells of the rows below "Paths" in docs/runtime.md."""
    page = (PACKAGE.parent / "docs" / "runtime.md").read_text(encoding="utf-8")
    rows = page.partition("\n## Paths\n")[2].partition("\n## ")[0].splitlines()
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows if row.startswith("| `")]


def test_every_macro_of_the_kernels_is_a_path() -> None:
    code = "".join(file.read_text(encoding="utf-8") for file in sorted(KERNELS.iterdir()))
    assert set(re.findall(r"HF_SPARSE_([A-Z]\w+)", code)) - {EMULATED} == {
        name.upper() for name in NAMES if name != "portable"
    }


def test_every_path_but_the_last_defines_its_macro_and_needs_something() -> None:
    for path in PATHS[:-1]:
        assert [flag for flag in path.flags if flag.startswith("-D")] == [f"-DHF_SPARSE_{path.name.upper()}"]
        assert path.features and path.machine
    assert PATHS[-1].name == "portable" and not PATHS[-1].flags + PATHS[-1].features


def test_the_page_says_what_the_kernels_compute_with() -> None:
    sizes = written_for("constexpr int LANES")
    assert sizes.keys() == set(NAMES)
    expected = []
    for name in NAMES:
        lanes, group = map(int, re.findall(r"= (\d+)", sizes[name]))
        expected.append((name, "4 bytes" if group == 4 else "2 halves", str(lanes * group)))
    assert [(row[0], row[2], row[3]) for row in table()] == expected


def test_every_path_is_run_by_the_tests() -> None:
    assert EMULATIONS.keys() | NATIVE == set(NAMES)


def test_the_head_of_the_header_lists_what_differs_by_path() -> None:
    head, _, code = (KERNELS / "vectors.h").read_text(encoding="utf-8").partition("#pragma once")
    listed = head.partition("has a branch of\n")[2].partition("\n//\n")[0]
    constants = re.findall(r"\b([A-Z]+) = \d+\b", code)
    functions = re.findall(r"^inline \w+ (\w+)\([^{;]*\) \{\n(.*?)^\}", code, re.MULTILINE | re.DOTALL)
    expected = {name for name in constants if constants.count(name) > 1}
    expected |= {f"{name}()" for name, body in functions if "#if defined(HF_SPARSE_" in body}
    expected |= {f"{name}()" for name in re.findall(r"^inline Int (\w+)\([^{]*?\);$", code, re.MULTILINE)}
    assert set(re.findall(r"[a-z_]+\(\)|LANES|GROUP(?=  )|SHIFT", listed)) == expected


def test_every_path_has_a_product_of_its_own() -> None:
    found = written_for("inline Int dot").keys() | written_for("#ifdef HF_SPARSE_EMULATED").keys()
    assert found == set(NAMES)
