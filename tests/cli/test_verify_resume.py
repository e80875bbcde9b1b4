"""`hf-sparse verify-resume`."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from hf_sparse.cli.errors import WANTING
from hf_sparse.crash_test import verify
from hf_sparse.crash_test.job import Job
from tests.cli.commands import lines, refused, run
from tests.crash_test.faults import without_remembered_values
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.support.doomed import cheap_processes
from tests.support.tiny import bert

QUICK = ["--max-steps", 8, "--kills", 2, "--seed", 0]
REVIVAL = ["--recipe-override", "distillation=null", "--recipe-override", "sparsity.schedule.every=1"]


@pytest.fixture(autouse=True)
def quick() -> None:
    cheap_processes()


def test_an_equal_run_is_said_to_be_equal() -> None:
    shown = lines("verify-resume", "gmp_finetune", *QUICK)
    assert shown[0] == "8 steps, seed 0: straight through, then with 2 kills."
    assert len(shown) == 4 and all(line.startswith("Killed in step ") for line in shown[1:3])
    assert "; newest checkpoint: step " in shown[1]
    assert shown[3].startswith("Equal, bit for bit, in ") and "remembered values, masks, ranges" in shown[3]


def test_a_fault_is_the_first_difference_and_exit_code_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "train", without_remembered_values)
    words = ["verify-resume", "prune_ofa_90", *QUICK, *REVIVAL]
    result = run(*words)
    assert result.exit_code == WANTING
    last = result.stdout.splitlines()[-1]
    assert last.startswith("Step ") and "the first difference: remembered values: " in last
    assert " in the straight run, " in last and " more values differ there." in last
    found = run(*words, "--json")
    assert found.exit_code == WANTING
    told = json.loads(found.stdout)
    difference = told["first_difference"]
    assert not told["passed"] and difference["kind"] == "remembered values"
    assert difference["step"] == difference["resumed_from"] + 1 > 1
    assert difference["straight"] != difference["resumed"] and last.startswith(
        f"Step {difference['step']}, resumed from"
    )


def test_a_model_and_texts_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bert(vocab_size=len(tokenizer())).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n".join(f"the word {number} of a text" for number in range(40)))
    options = ["--model-name-or-path", tmp_path / "model", "--dataset-name", tmp_path / "texts.txt"]
    shown = lines("verify-resume", "prune_ofa_90", *QUICK, *options, "--json")
    assert len(shown) == 1
    told = json.loads(shown[0])
    assert told["passed"] and told["first_difference"] is None and told["faults"] == []
    assert [kill["process"] for kill in told["kills"]] == [0, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no_such_recipe"], "neither a file nor a preset"),
        (["gmp_finetune", "--kills", 30], "killed between 1 and 24 times, got 30"),
        (["gmp_finetune", "--dataset-name", "texts.txt"], "give the model as well"),
    ],
)
def test_what_cannot_be_run_is_refused(words: list[object], message: str) -> None:
    result = run("verify-resume", *words)
    assert result.exit_code == 1 and message in result.stderr
    assert not result.stdout


def test_a_command_that_is_terminated_removes_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    homes = []

    def terminated(job: Job, home: Path, *others: object, **settings: object) -> None:
        homes.append(home)
        (home / "straight").mkdir()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(verify, "verify_resume", terminated)
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        assert run("verify-resume", "gmp_finetune", *QUICK).exit_code == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM).__name__ == "<lambda>"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not homes[0].exists()


def test_the_error_of_a_run_is_told_in_one_sentence(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "dense")
    words = ["verify-resume", "transfer", "--model-name-or-path", tmp_path / "dense", "--json"]
    assert "have none; load the pruned model" in refused(*words)
