"""Transformers' own tests of Trainer, with SparseTrainer in its place and an empty recipe.

    python tests/integration/transformers_tests.py CHECKOUT [what pytest takes]

CHECKOUT is transformers' repository at the version that is installed, since a wheel has no tests. They are
run twice, as they are and with the classes swapped; what fails with ours alone is named, and the exit code is
1 then. As a plugin of pytest this module swaps the classes.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import transformers

_SWAP = "HF_SPARSE_SWAP"
_FILES = "tests/trainer/test_trainer*.py"
_VERSION = re.compile(r"^__version__ = [\"'](.+)[\"']", re.MULTILINE)


def pytest_configure() -> None:
    """Put our classes in place of transformers' before any test module imports them."""
    # Of both runs transformers is the one that is installed; the checkout's own would come first otherwise.
    import transformers.trainer
    import transformers.trainer_seq2seq

    if os.environ.get(_SWAP) != "1":
        return
    from hf_sparse import SparseSeq2SeqTrainer, SparseTrainer

    for name, ours in (("Trainer", SparseTrainer), ("Seq2SeqTrainer", SparseSeq2SeqTrainer)):
        setattr(transformers, name, ours)
    transformers.trainer.Trainer = SparseTrainer
    transformers.trainer_seq2seq.Seq2SeqTrainer = SparseSeq2SeqTrainer


def run(checkout: Path, swapped: bool, given: list[str]) -> dict[str, str]:
    """Run the tests of a checkout; return what became of each: passed, failed or skipped."""
    files = [] if any(".py" in word for word in given) else sorted(map(str, checkout.glob(_FILES)))
    with tempfile.TemporaryDirectory() as home:
        results = Path(home) / "results.xml"
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        variables = {_SWAP: str(int(swapped)), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        plugins = ["-p", "transformers_tests", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *plugins, "-q", f"--junitxml={results}", *files, *given]
        subprocess.run(command, cwd=checkout, env=os.environ | variables, check=False)
        if not results.is_file():
            raise SystemExit("pytest did not get as far as its results; what it said is above")
        return read_results(results)


def read_results(path: Path) -> dict[str, str]:
    """Read what pytest writes for --junitxml."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        kinds = {part.tag for part in case}
        became = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        name = f"{case.get('classname')}.{case.get('name')}"
        # A test that fails and then fails to clean up is there twice.
        found[name] = "failed" if "failed" in (found.get(name), became) else became
    return found


def only_ours(stock: dict[str, str], ours: dict[str, str]) -> list[str]:
    """Name the tests that fail with our classes and not with stock ones."""
    return sorted(name for name, became in ours.items() if became == "failed" != stock.get(name))


def version_of(checkout: Path) -> str:
    """Return the version of a checkout; raise `SystemExit` for what is none."""
    source = checkout / "src" / "transformers" / "__init__.py"
    if not (checkout / "tests" / "trainer").is_dir() or not source.is_file():
        raise SystemExit(f"{checkout} is no checkout of transformers; clone it, and give the directory")
    found = _VERSION.search(source.read_text(encoding="utf-8"))
    return found[1] if found else "of no known version"


def main(arguments: list[str]) -> int:
    """Run both, print what differs; return the exit code."""
    if not arguments:
        raise SystemExit(__doc__)
    checkout, given = Path(arguments[0]).resolve(), arguments[1:]
    if (version := version_of(checkout)) != transformers.__version__:
        print(f"The checkout is {version}, installed is {transformers.__version__}; not all may go together.")
    stock, ours = (run(checkout, swapped, given) for swapped in (False, True))
    for name, results in (("Trainer", stock), ("SparseTrainer", ours)):
        counts = {kind: list(results.values()).count(kind) for kind in ("passed", "failed", "skipped")}
        print(f"{name}: {', '.join(f'{count} {kind}' for kind, count in counts.items())}")
    differing = only_ours(stock, ours)
    print(*(f"Fails with SparseTrainer alone: {name}" for name in differing), sep="\n")
    return 1 if differing or not ours else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
