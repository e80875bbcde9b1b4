"""A tiny study with real stages: killed in the middle, taken up again, made again on a new machine."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import run
import torch
from safetensors.torch import load_file
from stages import Places, read_plan
from transformers import BertConfig, BertModel, BertTokenizerFast

from tests.benchmarks.accuracy.fakes import PRIORITY, options
from tests.scripts.tiny_data import SPECIAL, WORDS, sentences, write_table

# The last of its steps does not end an epoch.
STEPS = 40
PLAN = f"""
stages:
  up:
    script: run_mlm
    start: ENCODER
    data: text
    recipe: prune_encoder_90
    override: [sparsity.schedule.final=0.5]
    group: upstream 50 %
    distance: {{data: task/validation.csv, columns: [sentence], samples: 8, max_seq_length: 16}}
    arguments: {{no_head: true, max_seq_length: 24, per_device_train_batch_size: 4, max_steps: {STEPS},
      save_steps: 4, logging_steps: 8, freeze: embeddings, dropout: 0}}
  short:
    script: run_glue
    start: up
    data: task
    recipe: transfer
    override: [distillation=null]
    group: short transfer 50 %
    arguments: {{max_seq_length: 16, per_device_train_batch_size: 4, max_steps: 3}}
"""


@pytest.fixture
def places(tmp_path: Path) -> Places:
    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        # Else the residual stream hides what pruning does.
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(tmp_path / "e")
    BertTokenizerFast(vocab=vocabulary, model_max_length=32).save_pretrained(tmp_path / "e")
    for split, rows in (("train", 400), ("validation", 12)):
        write_table(tmp_path / "data" / "text" / f"{split}.parquet", {"text": sentences(rows, length=20)})
        columns = {"sentence": sentences(16), "label": [0, 1] * 8}
        write_table(tmp_path / "data" / "task" / f"{split}.csv", columns)
    (tmp_path / "plan.yaml").write_text(PLAN)
    return Places(str(tmp_path / "e"), tmp_path / "data", tmp_path / "work")


def kill_in_the_middle(places: Places, folder: Path) -> None:
    """Start a runner in a process of its own; kill it, and its stage with it, after a few steps."""
    given = ["--encoder", places.encoder, "--data", places.data_directory, "--work", places.work]
    given += ["--plan", folder / "plan.yaml", "--results", folder / "results", "--nice", PRIORITY]
    runner = subprocess.Popen([sys.executable, run.__file__, *map(str, given)])
    deadline = time.monotonic() + 300
    while not any(places.output("up").glob("checkpoint-*")):
        assert runner.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    (attempt,) = json.loads(places.attempts("up").read_text())
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    while psutil.pid_exists(attempt["pid"]) and psutil.Process(attempt["pid"]).status() != "zombie":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_study_that_is_killed_and_taken_up_ends_like_one_that_was_not(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_LOOK_EVERY", 0.2)
    kill_in_the_middle(places, tmp_path)
    assert not (places.output("up") / "all_results.json").exists()
    assert not (tmp_path / "results").exists()

    stages = read_plan(tmp_path / "plan.yaml")
    assert run.run(stages, places, options(tmp_path, only=["up"])) == 0
    assert "Going on from" in (places.work / "up.log").read_text()
    published = (tmp_path / "results" / "up.json").read_bytes()
    result = json.loads(published)
    (row,) = result["rows"]
    check_row(row)
    assert (row["steps"], row["attempts"]) == (STEPS, 2)
    assert row["distances"].keys() == {"1", "2"} and all(0 < x < 1 for x in row["distances"].values())
    assert result["settings"]["recipe"]["sparsity"]["method"] == "magnitude"
    assert [point["step"] for point in result["curve"]] == [8, 16, 24, 32, 40]
    assert result["curve"][-1].keys() >= {"tokens", "loss", "loss_hidden_1", "loss_hidden_2"}

    # A new machine, where the next stage needs that model.
    new = Places(places.encoder, places.data_directory, tmp_path / "new")
    new.work.mkdir()
    assert run.run(stages, new, options(tmp_path)) == 0
    one, other = (load_file(each.output("up") / "model.safetensors") for each in (places, new))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "results" / "up.json").read_bytes() == published
    (again,) = json.loads(new.ending("up").read_text())["rows"]
    assert again | {"attempts": 2} == row | {name: again[name] for name in ("seconds", "cpu_seconds")}

    result = json.loads((tmp_path / "results" / "short.json").read_text())
    (row,) = result["rows"]
    check_row(row)
    assert (row["steps"], row["attempts"]) == (3, 1)
    assert 0 <= row["accuracy"] <= 1 and 0 <= row["accuracy_error"] <= 0.125
    assert result["settings"]["recipe"]["sparsity"]["method"] == "lock"
    assert str(tmp_path) not in f"{published} {result}"


def check_row(row: dict[str, float]) -> None:
    assert row["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert row["tokens"] > 0 and row["cpu_seconds"] > 0 and row["seconds"] > 0
