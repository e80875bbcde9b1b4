"""The table of the accuracy study: what it compares, what that cost, and how sure it is."""

from pathlib import Path

import arms
import pytest
from stages import read_finished

from tests.benchmarks.accuracy.fakes import published

HOUR = 3600.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Publish an upstream stage, dense models of two tasks, transfers with two seeds, and one in 8 bits."""
    published(tmp_path, "up", "upstream 90 %", "ENCODER", "text", tokens=1_000_000, cpu_seconds=2 * HOUR)
    score = {"accuracy": 0.9, "accuracy_error": 0.01}
    published(tmp_path, "dense", "dense", "ENCODER", "sst2", **score, sparsity=0.0)
    answers = {"f1": 80.0, "f1_error": 0.5}
    published(tmp_path, "dense_squad", "dense", "ENCODER", "squad", **answers, sparsity=0.0)
    for seed, accuracy in ((1, 0.88), (2, 0.87)):
        published(tmp_path, f"t{seed}", "transfer 90 %", "up", "sst2", **score | {"accuracy": accuracy})
    published(tmp_path, "q", "transfer 90 %", "up", "squad", **answers | {"f1": 77.0}, cpu_seconds=600)
    quantized = score | {"accuracy": 0.885}
    published(tmp_path, "t8", "transfer 90 % int8", "t1", "sst2", bits=8, **quantized, cpu_seconds=30)
    published(tmp_path, "short", "short transfer 90 %", "up", "sst2", **score)
    return tmp_path


def test_scores_stand_beside_those_of_the_dense_model(folder: Path) -> None:
    rows = {row["arm"]: row for row in arms.table(read_finished(folder))}
    assert list(rows) == ["dense", "transfer 90 %", "transfer 90 % int8"]
    assert rows["dense"]["SST-2"] == "90.0 ± 1.0"
    assert rows["transfer 90 %"]["SST-2"] == "87.5 ± 1.0 (-2.5), 2 seeds, 87.0 to 88.0"
    assert rows["transfer 90 %"]["SQuAD F1"] == "77.0 ± 0.5 (-3.0)"
    assert rows["transfer 90 % int8"]["SST-2"] == "88.5 ± 1.0 (-1.5)"
    assert "SQuAD F1" not in rows["transfer 90 % int8"]
    assert [row["bits"] for row in rows.values()] == [32, 32, 8]


def test_the_cost_is_that_of_all_stages_that_led_to_a_model(folder: Path) -> None:
    rows = {row["arm"]: row for row in arms.table(read_finished(folder))}
    assert rows["dense"]["upstream tokens"] is None and rows["dense"]["upstream cpu h"] is None
    for arm in ("transfer 90 %", "transfer 90 % int8"):
        assert (rows[arm]["upstream tokens"], rows[arm]["upstream cpu h"]) == (1_000_000, 2.0)
    # By task, in the order of the columns: 90 s of the transfer, and 30 s of the last stage.
    assert rows["transfer 90 %"]["task cpu min"] == "2 / - / - / 10"
    assert rows["transfer 90 % int8"]["task cpu min"] == "2 / - / - / -"


def test_without_a_dense_model_there_is_no_difference(folder: Path) -> None:
    (folder / "dense.json").unlink()
    rows = {row["arm"]: row for row in arms.table(read_finished(folder))}
    assert rows["transfer 90 % int8"]["SST-2"] == "88.5 ± 1.0"
