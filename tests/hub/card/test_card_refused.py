"""No card is written of results of other models, of other examples, or without files."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_sparse.checkpoint.sidecar import read_state, write_state
from hf_sparse.hub import CardOptions, write_card
from tests.hub.card.card_runs import REPO, Runs, change, copy, make_runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return make_runs(tmp_path_factory.mktemp("home"))


@pytest.fixture
def runs(finished: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr("hf_sparse.hub.card.write.draw_pictures", lambda *_: ())
    return copy(finished, tmp_path / "home")


def refuse(runs: Runs, sentence: str, **options: Any) -> None:
    before = sorted(runs.staged.rglob("*"))
    with pytest.raises(ValueError, match=sentence):
        write_card(runs.run, runs.staged, REPO, card=CardOptions(**options))
    assert sorted(runs.staged.rglob("*")) == before


def make_older(file: Path) -> None:
    """Set the time of a file back by an hour."""
    before = file.stat().st_mtime - 3600
    os.utime(file, (before, before))


def assert_not_compared(runs: Runs) -> None:
    text = write_card(runs.run, runs.staged, REPO).read_text()
    assert "accuracy" in text and "dense teacher" not in text


def test_results_of_a_model_with_other_zeros(runs: Runs) -> None:
    change(runs.run / "eval_results.json", sparsity=0.5)
    refuse(runs, r"is of a model with 50.00% zeros and this one has 89.97%.*evaluate again")


def test_results_of_a_model_that_was_trained_again(runs: Runs) -> None:
    make_older(runs.run / "eval_results.json")
    refuse(runs, "int8/eval_results.json is older than the end of the training.*evaluate again, or delete it")


def test_latencies_of_a_model_that_was_trained_again(runs: Runs) -> None:
    make_older(runs.run / "latency.json")
    refuse(runs, "int8/latency.json is older than the end of the training.*measure again, or delete it")


def test_outdated_numbers_are_left_out_where_that_is_asked_for(
    runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copyfile(runs.run / "latency.json", runs.run / "latency_new.json")
    make_older(runs.run / "eval_results.json")
    change(runs.run / "latency.json", architecture="BertForMaskedLM")
    text = write_card(runs.run, runs.staged, REPO, card=CardOptions(outdated="leave out")).read_text()
    assert "Its quality was not measured" in text and "dense teacher" not in text
    assert "`latency_new.json`:" in text and "`latency.json`:" not in text
    assert [record.message.split(": ")[0] for record in caplog.records] == ["Left out of the card"] * 2
    assert "eval_results.json is older" in caplog.text and "is of a BertForMaskedLM" in caplog.text


def test_a_dense_model_whose_results_are_of_another(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    change(runs.dense / "eval_results.json", sparsity=0.4)
    refuse(runs, "is of a model with 40.00% zeros and this one has 0.00%", dense=runs.dense)
    # Nobody asked for this comparison, so there is none.
    assert_not_compared(runs)
    assert "does not compare the model with its teacher" in caplog.text and "40.00% zeros" in caplog.text


def test_a_dense_model_that_was_trained_again(runs: Runs) -> None:
    make_older(runs.dense / "eval_results.json")
    refuse(runs, "dense/eval_results.json is older than the end of the training", dense=runs.dense)
    file = runs.dense / "eval_results.json"
    refuse(runs, "dense/eval_results.json is older than the end of the training", dense=file)
    assert_not_compared(runs)


def test_a_difference_of_rounding_is_none(runs: Runs) -> None:
    said = json.loads((runs.run / "eval_results.json").read_text())["sparsity"]
    change(runs.run / "eval_results.json", sparsity=round(said, 4))
    assert write_card(runs.run, runs.staged, REPO).is_file()


def test_scores_on_other_numbers_of_examples(runs: Runs) -> None:
    change(runs.dense / "eval_results.json", eval_samples=8)
    sentence = "dense was scored on 8 examples and this model on 40, so their scores do not compare"
    assert_not_compared(runs)
    refuse(runs, sentence, dense=runs.dense)
    refuse(runs, sentence, dense=runs.dense / "eval_results.json")


def test_scores_on_examples_that_nobody_counted(runs: Runs) -> None:
    change(runs.dense / "eval_results.json", eval_samples=None)
    refuse(runs, "was scored on an unknown number of examples", dense=runs.dense)
    # Nobody asked for this comparison, so there is none.
    assert "dense teacher" not in write_card(runs.run, runs.staged, REPO).read_text()


def test_scores_on_other_data(runs: Runs) -> None:
    facts = {"task": "text-classification", "dataset": "somebody/else"}
    change(runs.dense / "hf_sparse_run.json", facts=facts)
    refuse(
        runs, "was scored with dataset 'somebody/else' and this model with 'nyu-mll/glue'", dense=runs.dense
    )
    assert "dense teacher" not in write_card(runs.run, runs.staged, REPO).read_text()


def test_scores_by_other_metrics(runs: Runs) -> None:
    change(runs.dense / "eval_results.json", eval_accuracy=None, eval_f1=0.5)
    refuse(runs, "was not scored by any of accuracy, as this model was", dense=runs.dense)


def test_numbers_and_places_that_are_no_files(runs: Runs) -> None:
    refuse(runs, "0.93 is neither a directory nor a file, and numbers are only read from files", dense=0.93)
    refuse(runs, "nowhere is neither a directory nor a file", dense=runs.home / "nowhere")


def test_a_dense_model_that_is_sparse(runs: Runs) -> None:
    refuse(runs, "int8 is not dense, 90.0% of its weights are zeros", dense=runs.run)


def test_files_without_results(runs: Runs) -> None:
    refuse(runs, "latency.json holds no scores", dense=runs.run / "latency.json")
    damaged = runs.home / "results.json"
    damaged.write_text("{")
    refuse(runs, "results.json holds no results", dense=damaged)


def test_a_comparison_for_a_model_without_scores(runs: Runs) -> None:
    (runs.run / "eval_results.json").unlink()
    (runs.run / "trainer_state.json").unlink()
    refuse(runs, "lacks scores to compare with those of .*trainer.save_metrics", dense=runs.dense)


def test_a_comparison_with_a_model_without_scores(runs: Runs) -> None:
    (runs.dense / "eval_results.json").unlink()
    (runs.dense / "trainer_state.json").unlink()
    refuse(runs, "lacks scores to compare with; evaluate that model", dense=runs.dense)


def test_latencies_of_another_model(runs: Runs) -> None:
    change(runs.run / "latency.json", architecture="BertForMaskedLM")
    refuse(runs, "latency.json is of a BertForMaskedLM and the model is a BertForSequenceClassification")


def test_latencies_that_are_none(runs: Runs) -> None:
    change(runs.run / "latency.json", rows=None)
    refuse(runs, "is not what hf-sparse benchmark --json writes .*'rows'")


def test_a_model_that_lost_zeros(runs: Runs) -> None:
    model = BertForSequenceClassification.from_pretrained(runs.run)
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight += 1
    model.save_pretrained(runs.run)
    # With the hashes of these weights.
    write_state(runs.run, read_state(runs.run))
    change(runs.run / "eval_results.json", sparsity=None)
    refuse(runs, "has fewer zeros than the configuration records.*train it again")


def test_directories_without_a_model(runs: Runs) -> None:
    with pytest.raises(ValueError, match="lacks a model"):
        write_card(runs.home, runs.staged, REPO)
    shutil.rmtree(runs.staged)
    runs.staged.mkdir()
    (runs.staged / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        write_card(runs.run, runs.staged, REPO)
