"""Running transformers' own tests with the classes swapped, on a checkout of one file."""

from pathlib import Path

import pytest
import transformers

from tests.integration import transformers_tests

TESTS = """
import unittest
import transformers
from transformers import Seq2SeqTrainer, Trainer
from transformers.trainer import Trainer as same

assert same is Trainer

class Mine(Trainer):
    pass

class TrainerTest(unittest.TestCase):
    def test_sound(self):
        assert issubclass(Mine, Trainer)

    def test_broken(self):
        assert not issubclass(Mine, Trainer)

    def test_stock(self):
        kinds = [kind.__module__ for kind in (*Mine.__mro__, *Seq2SeqTrainer.__mro__)]
        assert not any(kind.startswith("hf_sparse") for kind in kinds)

    @unittest.skip("never")
    def test_skipped(self):
        pass
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    home = tmp_path / "transformers"
    for folder in ("tests/trainer", "src/transformers"):
        (home / folder).mkdir(parents=True)
    (home / "src" / "transformers" / "__init__.py").write_text(
        f'__version__ = "{transformers.__version__}"\n'
    )
    for name in ("tests/__init__.py", "tests/trainer/__init__.py"):
        (home / name).write_text("")
    (home / "tests" / "trainer" / "test_trainer.py").write_text(TESTS)
    return home


def test_what_fails_with_our_classes_alone_is_named(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, name = transformers_tests.run, "tests.trainer.test_trainer.TrainerTest.test_{}".format
    # That is one start of PyTorch less.
    stock = dict.fromkeys(map(name, ("sound", "stock")), "passed") | {name("broken"): "failed"}
    monkeypatch.setattr(
        transformers_tests, "run", lambda home, ours, given: run(home, ours, given) if ours else stock
    )
    assert transformers_tests.main([str(checkout)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "Trainer: 2 passed, 1 failed, 0 skipped",
        "SparseTrainer: 1 passed, 2 failed, 1 skipped",
        f"Fails with SparseTrainer alone: {name('stock')}",
    ]


def test_what_fails_with_stock_classes_too_is_not_ours() -> None:
    stock = {"a": "failed", "b": "passed", "c": "skipped", "d": "passed"}
    ours = {"a": "failed", "b": "failed", "c": "skipped", "d": "passed", "e": "failed"}
    assert transformers_tests.only_ours(stock, ours) == ["b", "e"]


def test_a_test_that_is_listed_twice_has_failed_if_it_did_once(tmp_path: Path) -> None:
    cases = '<testcase classname="t" name="a"><failure/></testcase><testcase classname="t" name="a"/>'
    (tmp_path / "results.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert transformers_tests.read_results(tmp_path / "results.xml") == {"t.a": "failed"}


def test_another_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is no checkout of transformers; clone it"):
        transformers_tests.main([str(tmp_path)])
