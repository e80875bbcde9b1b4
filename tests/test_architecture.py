"""The rules of docs/design.md that a machine can check."""

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from transformers import Trainer
from transformers.trainer_callback import CallbackHandler

from benchmarks.house import MEASURED, House, measure
from benchmarks.readme import DESIGN, fill_house

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hf_sparse"
FILLED_INITS = {
    PACKAGE / "__init__.py",
    PACKAGE / "data" / "__init__.py",
    PACKAGE / "distillation" / "features" / "__init__.py",
    PACKAGE / "hub" / "__init__.py",
    PACKAGE / "runtime" / "__init__.py",
    PACKAGE / "sparsity" / "methods" / "__init__.py",
    PACKAGE / "sparsity" / "patterns" / "__init__.py",
    PACKAGE / "training" / "__init__.py",
}
EXTRAS = {
    "compressed_tensors",
    "fastapi",
    "matplotlib",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "optimum",
    "optuna",
    "peft",
    "schedulefree",
    "scipy",
    "sentence_transformers",
    "sklearn",
    "trl",
    "uvicorn",
}
# Subclasses of what is in an extra; nothing imports these where it is not installed.
MADE_OF_EXTRAS = {PACKAGE / "adapters" / "lora.py", PACKAGE / "adapters" / "register.py"}
# Folders of tests/ that are not those of the package.
BESIDE_TESTS = {
    "architectures",
    "benchmarks",
    "fixtures",
    "fuzz",
    "guides",
    "integration",
    "scripts",
    "support",
}
PRIVATE_TRAINER_METHODS = {
    "_save_checkpoint": ["self", "model", "trial"],
    "_get_output_dir": ["self", "trial"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "_determine_best_metric": ["self", "metrics", "trial"],
    "_push_from_checkpoint": ["self", "checkpoint_folder"],
}


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of everything imported; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def imports_at_load(path: Path) -> set[str]:
    """Return the packages imported when a module is, without what only functions or type checkers import."""
    tree = parse(path)
    deferred = (ast.FunctionDef, ast.AsyncFunctionDef)
    skipped = [node for node in ast.walk(tree) if isinstance(node, deferred) or _is_for_type_checkers(node)]
    inside = {id(inner) for node in skipped for inner in ast.walk(node)}
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name.split(".")[0] for node in statements if id(node) not in inside for name in imports(node)}


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def levels() -> dict[str, int]:
    """Read the level of each room from the block under "Layers" in docs/design.md."""
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    block = page.split("## Layers", 1)[1].split("```", 2)[1]
    rows = re.findall(r"^(\d+) +(.+)$", block, re.MULTILINE)
    return {room: int(level) for level, rooms in rows for room in rooms.split()}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def upward_imports(path: Path, known: dict[str, int]) -> list[str]:
    """Return the imports of a module that reach its own level or a higher one, outside its own room."""
    own = room_of(path)
    reached = [name.split(".") for name in imports(parse(path)) if name.startswith("hf_sparse.")]
    foreign = [parts for parts in reached if parts[1] not in (own, "__version__")]
    return [".".join(parts) for parts in foreign if known.get(parts[1], 99) >= known[own]]


PACKAGE_MODULES = [path for path in modules("hf_sparse") if path != PACKAGE / "__init__.py"]
ALL_MODULES = modules("hf_sparse", "scripts", "benchmarks", "tests")


def offences(paths: list[Path], find: Callable[[Path], Iterable[object]]) -> dict[str, list[object]]:
    """Return what `find` objects to in each file, leaving out the files without fault."""
    found = {relative(path): sorted(find(path)) for path in paths}
    return {name: faults for name, faults in found.items() if faults}


def test_the_design_page_gives_every_room_a_level() -> None:
    assert {room_of(path) for path in PACKAGE_MODULES} - levels().keys() == set()


def test_imports_go_strictly_downward() -> None:
    known = levels()
    assert offences(PACKAGE_MODULES, lambda path: upward_imports(path, known)) == {}


def test_an_upward_import_is_noticed() -> None:
    known = {"recipe": 0, "readers": 0, "fields": -1}
    found = {name.split(".")[1] for name in upward_imports(PACKAGE / "recipe" / "recipe.py", known)}
    assert found == {"readers"}


def test_the_package_does_not_import_what_stands_beside_it() -> None:
    beside = {"scripts", "benchmarks", "tests"}
    assert (
        offences(PACKAGE_MODULES, lambda path: {name.split(".")[0] for name in imports(parse(path))} & beside)
        == {}
    )


def test_extras_are_imported_only_where_they_are_used() -> None:
    others = [path for path in PACKAGE_MODULES if path not in MADE_OF_EXTRAS]
    assert offences(others, lambda path: imports_at_load(path) & EXTRAS) == {}


def test_imports_are_absolute_and_by_name() -> None:
    def wrong(path: Path) -> list[str]:
        return [name for name in imports(parse(path)) if name.startswith(".") or name.endswith("*")]

    assert offences(ALL_MODULES, wrong) == {}


def test_inner_init_files_are_empty() -> None:
    inits = sorted(set(PACKAGE.rglob("__init__.py")) - FILLED_INITS)
    assert [relative(path) for path in inits if path.read_text(encoding="utf-8")] == []


def test_a_file_has_at_most_300_lines() -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in ALL_MODULES}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_a_module_says_in_its_first_line_what_it_is() -> None:
    docstrings = {path: ast.get_docstring(parse(path)) or "" for path in ALL_MODULES if path.stat().st_size}
    silent = [
        relative(path) for path, text in docstrings.items() if not text.split("\n\n")[0].endswith((".", ":"))
    ]
    assert silent == []


def test_errors_are_raised_not_asserted() -> None:
    def asserts(path: Path) -> list[int]:
        return [node.lineno for node in ast.walk(parse(path)) if isinstance(node, ast.Assert)]

    assert offences(modules("hf_sparse", "scripts", "benchmarks"), asserts) == {}


def test_importing_hf_sparse_imports_no_heavy_package() -> None:
    program = (
        "import hf_sparse, json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    heavy = {
        "torch",
        "transformers",
        "numpy",
        "datasets",
        "evaluate",
        "pydantic",
        "typer",
        "rich",
        "yaml",
    } | EXTRAS
    assert set(json.loads(run.stdout)) & heavy == set()


def private_overrides(path: Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield the methods of a module's classes that would override a private method of Trainer."""
    for owner in ast.walk(parse(path)):
        for node in owner.body if isinstance(owner, ast.ClassDef) else ():
            private = isinstance(node, ast.FunctionDef) and re.match(r"_(?!_)", node.name)
            if private and hasattr(Trainer, node.name):
                yield node.name, node


def test_only_five_private_trainer_methods_are_overridden() -> None:
    def others(path: Path) -> set[str]:
        return {name for name, _ in private_overrides(path)} - PRIVATE_TRAINER_METHODS.keys()

    assert offences(PACKAGE_MODULES, others) == {}


def test_private_overrides_go_through_super() -> None:
    def copies(path: Path) -> list[str]:
        return [name for name, node in private_overrides(path) if f"super().{name}(" not in ast.unparse(node)]

    assert offences(PACKAGE_MODULES, copies) == {}


def test_callbacks_are_called_through_the_method_that_we_listen_at() -> None:
    parameters = list(inspect.signature(CallbackHandler.call_event).parameters)
    assert parameters == ["self", "event", "args", "state", "control", "kwargs"]


@pytest.mark.parametrize(("name", "parameters"), PRIVATE_TRAINER_METHODS.items())
def test_the_private_trainer_methods_have_the_signature_we_rely_on(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(Trainer, name)).parameters) == parameters


def test_trainer_keeps_the_columns_that_we_widen_where_we_look_for_them() -> None:
    assert list(inspect.signature(Trainer._set_signature_columns_if_needed).parameters) == ["self"]
    assert "_signature_columns" in inspect.getsource(Trainer._get_collator_with_removed_columns)
    assert "_signature_columns" in inspect.getsource(Trainer._remove_unused_columns)


def texts() -> Iterator[Path]:
    """Yield the project's own text files."""
    kinds = {".py", ".md", ".cfg", ".toml", ".txt", ".yaml", ".json"}
    folders = ("hf_sparse", "scripts", "tests", "benchmarks", "docs", "requirements", "model_cards")
    yield from (path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in kinds)
    yield from (path for path in ROOT.iterdir() if path.suffix in kinds)
    yield from (ROOT / "Makefile", ROOT / ".ci" / "run")


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    # Spelled apart, or this file would be found itself.
    needles = ["/" + "work" + "/", "/" + "root" + "/", "shared" + "/docs", "shared" + "/data"]
    found = [
        relative(path) for path in texts() if any(needle in path.read_text("utf-8") for needle in needles)
    ]
    assert found == []


@pytest.fixture(scope="module")
def house() -> House:
    return House(ROOT)


@pytest.mark.parametrize("goal", ["ing", "twins", "single_use", "fullest_folder", "cycles", "readme"])
def test_the_house_meets_a_goal(goal: str, house: House) -> None:
    label, wanted = MEASURED[goal]
    assert measure(house)[goal].met, f"{label}: not {wanted}; python benchmarks/house.py --list shows why"


def test_no_module_has_the_name_of_a_function_that_its_package_exports() -> None:
    for init in FILLED_INITS:
        names = re.findall(r'^    "(\w+)": "hf_sparse', init.read_text(encoding="utf-8"), re.MULTILINE)
        assert [name for name in names if (init.parent / f"{name}.py").exists()] == [], relative(init)


def test_the_design_page_shows_the_house_as_it_is(house: House) -> None:
    page = DESIGN.read_text(encoding="utf-8")
    assert fill_house(page, house) == page, "the table is out of date; run make readme"


def test_tests_lie_in_the_folders_of_what_they_test() -> None:
    found = {path.parent.relative_to(ROOT / "tests").parts for path in (ROOT / "tests").rglob("test_*.py")}
    unknown = {parts for parts in found if parts and parts[0] not in BESIDE_TESTS}
    assert {parts for parts in unknown if not PACKAGE.joinpath(*parts).is_dir()} == set()
