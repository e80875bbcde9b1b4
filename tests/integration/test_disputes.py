"""A fault on one process of two is a clear error on both."""

from typing import Any

import pytest

from tests.support.disputes import dispute


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    return dispute(tmp_path_factory.mktemp("disputes"))


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("other_recipe", "recipe.sparsity.schedule.final is 0.9 on rank 0 and 0.8 on rank 1"),
        (
            "other_recipe_of_callback",
            "recipe.sparsity.schedule.final is 0.9 on rank 0 and 0.8 on rank 1",
        ),
        ("other_seed", "data_seed is '0' on rank 0 and '1' on rank 1"),
        ("other_order", "content of rows is "),
        ("other_length", "rows of training data is 16 on rank 0 and 14 on rank 1"),
        ("other_version", "version of hf_sparse is '0.0' on rank 0 and '0.1' on rank 1"),
    ],
)
def test_processes_that_disagree_are_refused_on_both(scenario: str, said: str, ranks: list) -> None:
    errors = [rank[scenario]["error"] for rank in ranks]
    assert errors[0] == errors[1]
    assert errors[0].startswith("ValueError: the processes of this run disagree (") and said in errors[0]
    assert "start all of them with the same recipe" in errors[0]
    assert ranks[0][scenario]["left"] == []


# The process whose disk is full. Beside the best model, Trainer lets all wait for the first one.
FULL = [("full_beside", 1), ("full_first", 0), ("full_weights", 0), ("full_at_best", 0)]


@pytest.mark.parametrize(("scenario", "full"), FULL)
def test_a_full_disk_of_one_process_ends_both(scenario: str, full: int, ranks: list) -> None:
    own, other = ranks[full][scenario]["error"], ranks[1 - full][scenario]["error"]
    assert own == "OSError: [Errno 28] No space left on device"
    assert other.startswith(f"RuntimeError: saving checkpoint-2 failed on rank {full} (OSError: [Errno 28]")
    # Never a part of a checkpoint under its final name.
    assert ranks[0][scenario]["left"] == []


def test_a_directory_that_another_run_uses_ends_both(ranks: list) -> None:
    own, other = (rank["claimed"]["error"] for rank in ranks)
    assert own.startswith("ValueError: ") and "is in use by another run" in own
    assert other.startswith("RuntimeError: claiming ") and "failed on rank 0 (ValueError: " in other


def test_nan_on_one_process_ends_both(ranks: list) -> None:
    errors = [rank["nan"]["error"] for rank in ranks]
    assert errors[0] == errors[1] and "training has diverged" in errors[0]
    assert ranks[0]["nan"]["left"] == []


def test_a_step_that_fails_on_one_process_ends_the_other_without_a_launcher(ranks: list) -> None:
    assert ranks[1]["failed"]["error"] == "OSError: [Errno 28] No space left on device"
    # The connection closes with the process, so nobody waits for the timeout.
    assert "by peer" in ranks[0]["failed"]["error"] and "gloo" in ranks[0]["failed"]["error"]
    assert ranks[0]["failed"]["left"] == []


def test_processes_that_agree_train(ranks: list) -> None:
    for rank in ranks:
        assert rank["agreed"]["error"] is None and rank["agreed"]["left"] == ["checkpoint-2", "checkpoint-3"]
