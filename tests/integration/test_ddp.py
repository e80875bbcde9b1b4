"""Two processes that train one model, as one process would."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_sparse import find_targets
from tests.support.ranks import lesson, train_together
from tests.support.runs import CHECKPOINT_FILES, checkpoint, differences
from tests.support.tiny import bert

OF_ONE = {"rng_state.pth", "hf_sparse_pass.pth"}
OF_TWO = {f"{name}_{rank}.pth" for name in ("rng_state", "hf_sparse_pass") for rank in (0, 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return train_together(folder)


@pytest.mark.parametrize("name", ["masked", "causal", "classification"])
def test_loss_with_gradient_are_those_of_one_process(
    name: str, ranks: list[dict[str, Any]], tmp_path: Path
) -> None:
    alone = lesson(name, tmp_path, batch=8)
    for rank in ranks:
        for ours, theirs in zip(rank[name]["gradients"], alone["gradients"], strict=True):
            scale = max(value.abs().max().item() for value in theirs.values())
            for weight, value in theirs.items():
                torch.testing.assert_close(ours[weight], value, rtol=0, atol=2e-5 * scale)
    line = ranks[0][name]["line"]
    for key in ("loss", "loss_task", "loss_logits"):
        assert line[key] == pytest.approx(alone["line"][key], rel=1e-4)


def test_projections_are_learned_as_in_one_process(ranks: list[dict[str, Any]], tmp_path: Path) -> None:
    alone = lesson("classification", tmp_path, batch=8, features=True)
    for rank in ranks:
        ours = rank["features"]
        assert list(differences(ours["learned"], ranks[0]["features"]["learned"])) == []
        for key in ("loss", "loss_hidden", "loss_relations"):
            assert ours["line"][key] == pytest.approx(alone["line"][key], rel=1e-4)
        assert len(ours["projections"]) == 2
        for mine, expected in zip(ours["projections"], alone["projections"], strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)


def test_hidden_errors_are_divided_by_the_mean_squares_of_all_processes(
    ranks: list[dict[str, Any]], tmp_path: Path
) -> None:
    alone = lesson("classification", tmp_path, batch=8, features=True)["learned"]["hidden.mean_squares"]
    ours, theirs = (rank["features"]["learned"]["hidden.mean_squares"] for rank in ranks)
    assert torch.equal(ours, theirs) and (ours > 0).all() and len(ours) == 2
    torch.testing.assert_close(ours, alone, rtol=1e-5, atol=0)


def test_both_processes_hold_the_same_model_with_exact_zeros(ranks: list[dict[str, Any]]) -> None:
    ours, theirs = (rank["straight"] for rank in ranks)
    for part in ("weights", "masks", "optimizer"):
        assert list(differences(ours[part], theirs[part])) == []
    for name, (rows, columns) in find_targets(bert()).shapes.items():
        assert int((~ours["masks"][name]).sum()) == int(0.9 * rows * columns)
        assert not ours["weights"][name][~ours["masks"][name]].any()


def test_a_checkpoint_of_two_processes_is_whole(ranks: list[dict[str, Any]], folder: Path) -> None:
    files = CHECKPOINT_FILES - OF_ONE | OF_TWO
    assert sorted(path.name for path in (folder / "run").glob("checkpoint-*")) == [
        "checkpoint-6",
        "checkpoint-8",
    ]
    for step in (6, 8):
        assert {path.name for path in checkpoint(folder / "run", step).iterdir()} == files
    assert not (folder / "run" / "_saving").exists()


def test_two_processes_resume_bit_for_bit(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert list(differences(rank["straight"], rank["resumed"])) == []


def test_only_the_first_process_pushes(ranks: list[dict[str, Any]]) -> None:
    assert [result["pushed"] for result in ranks] == [4, 0]
