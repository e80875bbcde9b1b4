"""The demo from beginning to end, on texts of five words."""

import json
import shutil
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from rich.console import Console
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from hf_sparse.checkpoint.packed.model import load_packed
from hf_sparse.demo.run import Outcomes, facts_of, run_demo
from hf_sparse.demo.settings import DemoSettings
from hf_sparse.demo.stages import run_stage
from hf_sparse.hub import write_card
from hf_sparse.quantization.quantized_layers import quantized_layers
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.runs.run import origin_of, pipeline_of, read_run
from hf_sparse.sparsity.measure import measure_sparsity

SPARSITY = {"teacher": 0.0, "pruned": 0.9, "task-dense": 0.0, "task-transfer": 0.9, "task-gmp": 0.9}
SPARSITY["task-int8"] = 0.9


@dataclass(frozen=True)
class Finished:
    """A finished demo: its directory, its outcomes, its output."""

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

    monkeypatch.setattr("hf_sparse.demo.run.run_stage", spy)
    return names


def test_every_stage_leaves_a_plain_directory_with_the_zeros_it_reports(finished: Finished) -> None:
    for outcome in vars(finished.outcomes).values():
        folder = finished.home / outcome.name
        kind = AutoModelForSequenceClassification if "task" in outcome.name else AutoModelForMaskedLM
        model = kind.from_pretrained(folder)
        assert measure_sparsity(model).overall == outcome.sparsity
        assert outcome.sparsity == pytest.approx(SPARSITY[outcome.name], abs=1e-3)
        weights = "packed/packed.safetensors" if outcome.name == "task-int8" else "model.safetensors"
        assert outcome.bytes == (folder / weights).stat().st_size
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


def test_the_quantized_model_goes_on_from_the_transferred_one_in_8_bits(finished: Finished) -> None:
    home, quantized = finished.home, finished.outcomes.quantized
    transfer, rounded = (
        AutoModelForSequenceClassification.from_pretrained(home / name).bert.encoder.state_dict()
        for name in ("task-transfer", "task-int8")
    )
    assert all(((transfer[name] == 0) == (rounded[name] == 0)).all() for name in transfer)
    assert any((transfer[name] != rounded[name]).any() for name in transfer)
    packed = load_packed(home / "task-int8" / "packed")
    assert all(layer.weights.bits == 8 for layer in quantized_layers(packed).values())
    assert len(AutoTokenizer.from_pretrained(home / "task-int8" / "packed")) == packed.config.vocab_size
    assert quantized.bytes < finished.outcomes.transfer.bytes
    assert f"{quantized.sizes['encoder_ratio']:.1f}x smaller" in finished.printed
    assert f"{quantized.sizes['counted_ratio']:.1f}x" in finished.printed
    assert f"{quantized.accuracy:.1%}" in finished.printed


def test_the_quantized_model_is_scored_as_it_lies_in_the_packed_file(
    home: Path, task_dir: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 2 bits, so that rounding shows in the loss of a model that has learned next to nothing."""
    coarse = Recipe.preset("transfer_int8").override(["quantization.weights=int2_per_tensor"])
    monkeypatch.setattr(DemoSettings, "quantize_recipe", coarse)
    outcome = run(home, task_dir).outcomes.quantized
    assert trained == ["task-int8"]
    rows = Dataset.from_parquet(str(task_dir / "validation.parquet"))[:]
    given = AutoTokenizer.from_pretrained(home / "task-int8")(rows["text"], return_tensors="pt", padding=True)
    labels = torch.tensor([("city", "river").index(label) for label in rows["label"]])
    packed = load_packed(home / "task-int8" / "packed")
    plain = AutoModelForSequenceClassification.from_pretrained(home / "task-int8").eval()
    rounded, unrounded = (model(**given, labels=labels).loss.item() for model in (packed, plain))
    assert outcome.loss == pytest.approx(rounded, rel=1e-6) != unrounded


def test_results_say_what_was_measured_and_how(finished: Finished) -> None:
    results = json.loads((finished.home / "results.json").read_text())
    assert results["settings"]["seed"] == 0 and results["settings"]["sparsity"] == 0.9
    assert results["data"]["classes"].keys() == {"city", "river"}
    assert [stage["name"] for stage in results["stages"]] == list(SPARSITY)
    assert results["stages"][3]["accuracy"] == finished.outcomes.transfer.accuracy
    assert results["stages"][3]["recipe"]["sparsity"] == {"method": "lock"}
    assert results["stages"][5]["sizes"]["file_bytes"] == results["stages"][5]["bytes"]
    assert {"hardware", "versions", "date", "seconds"} <= results.keys()


def test_the_model_in_8_bits_is_measured_in_the_runtime_and_answers_as_in_pytorch(finished: Finished) -> None:
    speed = json.loads((finished.home / "results.json").read_text())["speed"]
    assert speed["milliseconds"] > 0 and speed["pytorch_milliseconds"] > 0 and speed["tokens"] > 2
    # Of 40 texts or so, one near the edge may fall to the other side.
    assert abs(speed["accuracy"] - finished.outcomes.quantized.accuracy) < 0.06
    assert f"{speed['milliseconds']:.2f} ms" in finished.printed


def test_an_adapter_is_merged_without_a_zero_less(finished: Finished) -> None:
    results = json.loads((finished.home / "results.json").read_text())
    adapter, transfer = results["adapter"], finished.outcomes.transfer
    assert adapter["steps"] == 10 and adapter["lost"] == 0
    assert adapter["sparsity"] == pytest.approx(transfer.sparsity)
    assert 0 <= adapter["difference"] < 1e-5 < adapter["moved"]
    assert "all zeros of its base (90.0%)" in " ".join(finished.printed.split())


def test_every_stage_leaves_the_files_that_any_run_leaves(finished: Finished, task_dir: Path) -> None:
    for outcome in vars(finished.outcomes).values():
        run = read_run(finished.home / outcome.name)
        assert run.scores == {"accuracy": outcome.accuracy, "loss": outcome.loss}
        assert run.scores_file == "eval_results.json" and run.samples and run.log
        held = json.loads((run.directory / "eval_results.json").read_text())
        assert held["sparsity"] == outcome.sparsity
        assert run.record["facts"]["dataset"] == "task"
        task = "text-classification" if "task" in outcome.name else "fill-mask"
        assert run.record["facts"]["task"] == task


def test_the_stages_know_each_other_wherever_the_directory_lies(finished: Finished, home: Path) -> None:
    for place in (finished.home, home):
        last = read_run(place / "task-int8")
        assert [run.name for run in pipeline_of(last)] == ["teacher", "pruned", "task-transfer", "task-int8"]
        assert origin_of(last, "teacher").name == "task-dense"


def test_the_latencies_lie_beside_the_model_in_8_bits(finished: Finished) -> None:
    (latency,) = read_run(finished.home / "task-int8").latencies
    speed = json.loads((finished.home / "results.json").read_text())["speed"]
    ours, others = (next(row for row in latency["rows"] if row["ours"] is mine) for mine in (True, False))
    assert (ours["median_ms"], others["median_ms"]) == (speed["milliseconds"], speed["pytorch_milliseconds"])
    assert (latency["batch"], latency["length"], latency["threads"]) == (1, speed["tokens"], 1)
    assert latency["machine"]["kernels"] == speed["path"] and latency["model"] == "task-int8"
    assert ours["largest_difference"] < 0.1 and str(finished.home) not in json.dumps(latency)


def test_a_card_can_be_written_of_the_last_model(home: Path, tmp_path: Path) -> None:
    text = write_card(home / "task-int8", home / "task-int8", "somebody/tiny").read_text()
    assert "dense teacher" in text and "in 5 runs of hf_sparse" in text and "custom" in text
    assert "docstrings" not in text and str(tmp_path) not in text


@pytest.mark.parametrize(
    ("asked", "facts"),
    [
        ({}, {"dataset": "docstrings of Python's standard library"}),
        (
            {"dataset": "nyu-mll/glue", "dataset_config": "sst2"},
            {"dataset": "nyu-mll/glue", "config": "sst2"},
        ),
        ({"dataset": "/nowhere/mine.csv"}, {"dataset": "mine.csv"}),
    ],
)
def test_a_record_names_the_data_of_the_task(asked: dict[str, str], facts: dict[str, str]) -> None:
    settings = DemoSettings(**asked)
    assert facts_of(settings, "task") == {"task": "text-classification", **facts}
    assert facts_of(DemoSettings(text="/nowhere/texts.txt"), "language")["dataset"] == "texts.txt"


def test_the_table_fits_a_terminal_of_80_columns(finished: Finished) -> None:
    assert f"{finished.outcomes.transfer.accuracy:.1%}" in finished.printed
    assert max(map(len, finished.printed.replace(str(finished.home), "").splitlines())) <= 80


def test_finished_stages_are_not_run_again(
    finished: Finished, home: Path, task_dir: Path, trained: list[str]
) -> None:
    again = run(home, task_dir)
    assert trained == [] and again.printed.count("done before") == 6
    assert again.outcomes == finished.outcomes


def test_a_changed_setting_runs_again_only_what_depends_on_it(
    home: Path, task_dir: Path, trained: list[str]
) -> None:
    run(home, task_dir, sparsity=0.5)
    assert trained == ["pruned", "task-transfer", "task-gmp", "task-int8"]


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
