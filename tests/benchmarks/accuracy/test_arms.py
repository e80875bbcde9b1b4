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
        published(
            tmp_path, f"t{seed}", "transfer 90 %", "up", "sst2", seed=seed, **score | {"accuracy": accuracy}
        )
    published(tmp_path, "q", "transfer 90 %", "up", "squad", **answers | {"f1": 77.0}, cpu_seconds=600)
    quantized = score | {"accuracy": 0.885}
    published(tmp_path, "t8", "transfer 90 % int8", "t1", "sst2", bits=8, **quantized, cpu_seconds=30)
    published(tmp_path, "short", "short transfer 90 %", "up", "sst2", **score)
    return tmp_path


def test_scores_stand_beside_those_of_the_dense_model(folder: Path) -> None:
    rows = {row["arm"]: row for row in arms.table(read_finished(folder))}
    assert list(rows) == ["dense", "transfer 90 %", "transfer 90 % int8"]
    assert rows["dense"]["SST-2"] == "90.0 ± 1.0"
    assert rows["transfer 90 %"]["SST-2"] == "87.5 ± 1.0 (-2.5 ± 1.4), 2 seeds, 87.0 to 88.0"
    assert rows["transfer 90 %"]["SQuAD F1"] == "77.0 ± 0.5 (-3.0 ± 0.7)"
    assert rows["transfer 90 % int8"]["SST-2"] == "88.5 ± 1.0 (-1.5 ± 1.4)"
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


def test_what_differs_in_its_upstream_budget_has_a_row_of_its_own(folder: Path) -> None:
    score = {"accuracy": 0.8, "accuracy_error": 0.01}
    more = {"cpu_seconds": 4 * HOUR, "seed": 3}
    published(folder, "up_again", "upstream 90 %", "ENCODER", "text", tokens=1_002_000, **more)
    published(folder, "t3", "transfer 90 %", "up_again", "sst2", seed=3, **score)
    published(folder, "up_long", "upstream 90 %", "ENCODER", "text", tokens=3_000_000)
    published(folder, "t_long", "transfer 90 %", "up_long", "sst2", **score)
    rows = [row for row in arms.table(read_finished(folder)) if row["arm"] == "transfer 90 %"]
    one, long = sorted(rows, key=lambda row: row["upstream tokens"])
    # The mean of four models, one of which has another upstream stage, not the sum of both stages.
    assert one["upstream tokens"] == 1_000_500 and one["upstream cpu h"] == 2.5
    assert one["SST-2"].endswith("3 seeds, 80.0 to 88.0") and long["SST-2"].startswith("80.0 ± 1.0 (")


def test_two_stages_of_a_cell_differ_in_their_seeds(folder: Path) -> None:
    score = {"accuracy": 0.8, "accuracy_error": 0.01}
    published(folder, "other_rate", "transfer 90 %", "up", "sst2", seed=1, **score)
    with pytest.raises(ValueError, match="other_rate and t1 have the same group, upstream tokens and seed 1"):
        arms.table(read_finished(folder))


def test_bits_and_bytes_are_those_of_the_encoder(folder: Path) -> None:
    score = {"accuracy": 0.8, "accuracy_error": 0.01}
    sizes = {"encoder_bytes": 500_000, "encoder_dense_bytes": 10_000_000}
    published(folder, "t4", "transfer 90 % int4", "t1", "sst2", bits=4, **score, **sizes)
    rows = {row["arm"]: row for row in arms.table(read_finished(folder))}
    assert [row["bits"] for row in rows.values()] == [32, 32, 8, 4]
    four = rows["transfer 90 % int4"]
    assert (four["encoder MB"], four["encoder, times smaller"], four["task M tokens"]) == (
        0.5,
        20.0,
        "0.0 / - / - / -",
    )
    assert "encoder MB" not in rows["transfer 90 %"]


def test_what_is_not_measured_is_named(folder: Path) -> None:
    said = arms.study(read_finished(folder))["settings"]["not measured yet"]
    assert said == "GMP, GMP*, published, magnitude, group Lasso, paper's group Lasso, QNLI, MNLI"
    published(folder, "g", "GMP* 90 %", "ENCODER", "qnli", accuracy=0.8, accuracy_error=0.01)
    said = arms.study(read_finished(folder))["settings"]["not measured yet"]
    assert said == "GMP, published, magnitude, group Lasso, paper's group Lasso, MNLI"
