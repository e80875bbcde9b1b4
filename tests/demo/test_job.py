"""The demo from beginning to end, on texts of five words."""

import json
import shutil
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from hf_sparse.demo import pipeline
from hf_sparse.demo.job import run_demo
from hf_sparse.demo.pipeline import Outcomes
from hf_sparse.demo.settings import DemoSettings
from hf_sparse.demo.stages import run_stage
from hf_sparse.sparsity.measure import measure_sparsity

SPARSITY = {"teacher": 0.0, "pruned": 0.9, "task-dense": 0.0, "task-transfer": 0.9, "task-gmp": 0.9}


@dataclass(frozen=True)
class Finished:
    """A demo that has been run: where, what came of it, what was printed."""

    home: Path
    outcomes: Outcomes
    printed: str


def run(home: Path, dataset: Path, **asked: object) -> Finished:
    console = Console(file=StringIO(), width=80)
    outcomes = run_demo(DemoSettings(output_dir=home, dataset=str(dataset), quick=True, **asked), console)
    return Finished(home, outcomes, console.file.getvalue())


@pytest.fixture(scope="module")
def finished(task_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run(tmp_path_factory.mktemp("demo") / "out", task_dir)


@pytest.fixture
def home(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished demo's directory, to be changed."""
    return shutil.copytree(finished.home, tmp_path / "out")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that are really run."""
    names = []

    def spy(stage: object, *args: object) -> object:
        names.append(stage.name)
        return run_stage(stage, *args)

    monkeypatch.setattr(pipeline, "run_stage", spy)
    return names


def test_every_stage_leaves_a_plain_directory_with_the_zeros_it_reports(finished: Finished) -> None:
    for outcome in vars(finished.outcomes).values():
        folder = finished.home / outcome.name
        kind = AutoModelForSequenceClassification if "task" in outcome.name else AutoModelForMaskedLM
        model = kind.from_pretrained(folder)
        assert measure_sparsity(model).overall == outcome.sparsity
        assert outcome.sparsity == pytest.approx(SPARSITY[outcome.name], abs=1e-3)
        assert outcome.bytes == (folder / "model.safetensors").stat().st_size
        assert len(AutoTokenizer.from_pretrained(folder)) == model.config.vocab_size
    assert model.config.id2label == {0: "city", 1: "river"}
    files = {path.name for path in finished.home.iterdir()}
    assert files == {*SPARSITY, "results.json", "demo.png"}


def test_the_transfer_keeps_the_pattern_of_the_student(finished: Finished) -> None:
    student = AutoModelForMaskedLM.from_pretrained(finished.home / "pruned").state_dict()
    transfer = AutoModelForSequenceClassification.from_pretrained(
        finished.home / "task-transfer"
    ).state_dict()
    pruned = [name for name in student if ".layer." in name and name.endswith("dense.weight")]
    assert pruned and all(((student[name] == 0) == (transfer[name] == 0)).all() for name in pruned)
    assert any((student[name] != transfer[name]).any() for name in pruned)


def test_results_say_what_was_measured_and_how(finished: Finished) -> None:
    results = json.loads((finished.home / "results.json").read_text())
    assert results["settings"]["seed"] == 0 and results["settings"]["sparsity"] == 0.9
    assert results["data"]["classes"].keys() == {"city", "river"}
    assert [stage["name"] for stage in results["stages"]] == list(SPARSITY)
    assert results["stages"][3]["accuracy"] == finished.outcomes.transfer.accuracy
    assert results["stages"][3]["recipe"]["sparsity"] == {"method": "lock"}
    assert {"hardware", "versions", "date", "seconds"} <= results.keys()


def test_the_table_fits_a_terminal_of_80_columns(finished: Finished) -> None:
    assert f"{finished.outcomes.transfer.accuracy:.1%}" in finished.printed
    assert max(map(len, finished.printed.replace(str(finished.home), "").splitlines())) <= 80


def test_finished_stages_are_not_run_again(
    finished: Finished, home: Path, task_dir: Path, trained: list[str]
) -> None:
    again = run(home, task_dir)
    assert trained == [] and again.printed.count("done before") == 5
    assert again.outcomes == finished.outcomes


def test_a_changed_setting_runs_again_only_what_depends_on_it(
    home: Path, task_dir: Path, trained: list[str]
) -> None:
    run(home, task_dir, sparsity=0.5)
    assert trained == ["pruned", "task-transfer", "task-gmp"]


def test_what_an_interruption_left_behind_is_cleared_and_made_again_the_same(
    finished: Finished, home: Path, task_dir: Path, trained: list[str]
) -> None:
    (home / ".unfinished").mkdir()
    shutil.move(home / "task-gmp", home / ".unfinished" / "task-gmp")
    (home / "teacher" / "stage.json").write_text('{"name": "tea')
    again = run(home, task_dir)
    assert trained == ["teacher", "task-gmp"]
    assert again.outcomes.teacher.loss == finished.outcomes.teacher.loss
    assert again.outcomes.finetune.loss == finished.outcomes.finetune.loss
    assert not (home / ".unfinished").exists()


def test_a_model_of_the_user_is_trained_further(finished: Finished, task_dir: Path, tmp_path: Path) -> None:
    further = run(tmp_path / "further", task_dir, model=str(finished.home / "teacher"))
    assert further.outcomes.teacher.bytes == finished.outcomes.teacher.bytes
    assert further.outcomes.teacher.fingerprint != finished.outcomes.teacher.fingerprint
    assert further.outcomes.transfer.sparsity == pytest.approx(0.9, abs=1e-3)


def test_directories_of_others_are_not_replaced(task_dir: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "teacher" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(ValueError, match="teacher was not written by this demo and would be replaced"):
        run(tmp_path, task_dir)
    assert thesis.read_text() == "years of work"
