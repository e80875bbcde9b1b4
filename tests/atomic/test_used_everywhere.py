"""Nothing is written but by the one writer."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The writer itself, and the cache of compiled libraries, which reaches files by their directory's descriptor.
WRITERS = [ROOT / "hf_sparse" / "atomic", ROOT / "hf_sparse" / "native" / "cache.py"]
METHODS = {"write_text", "write_bytes", "rename", "renames", "move", "mkstemp"}
MODES = {"w", "wb", "x", "xb", "a", "ab", "w+"}


def writes(tree: ast.AST) -> Iterator[str]:
    """Yield calls that write or move a file in place."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        own = name.rpartition(".")[2]
        constants = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
        if name == "os.replace" or own in METHODS or (own == "open" and MODES & constants):
            yield f"{name} in line {node.lineno}"


def test_files_are_written_by_the_one_writer_alone() -> None:
    modules = sorted(path for home in ("hf_sparse", "scripts") for path in (ROOT / home).rglob("*.py"))
    others = [path for path in modules if not any(path.is_relative_to(writer) for writer in WRITERS)]
    found = {str(path.relative_to(ROOT)): list(writes(ast.parse(path.read_text("utf-8")))) for path in others}
    assert {name: calls for name, calls in found.items() if calls} == {}


def test_a_file_that_is_written_otherwise_is_noticed() -> None:
    wrong = "Path(a).write_text(b)\nwith open(a, 'w') as file: pass\nos.replace(a, b)\n"
    assert len(list(writes(ast.parse(wrong + "text.replace(a, b)\nopen(a)")))) == 3
