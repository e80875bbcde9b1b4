"""What processes compare before they train, and how one that fails ends the others."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.training.checkpoints import agreement
from hf_sparse.training.checkpoints.agreement import failing_together, require_agreement
from tests.support.tiny import arguments, bert, pruning, sentences


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Changes that the other processes have against this one; each entry stands for a process."""
    found: list[Any] = []

    def gather(own: list[Any]) -> list[Any]:
        return own + [own[0] | each if isinstance(own[0], dict) else each for each in found]

    monkeypatch.setattr(agreement, "gather_object", gather)
    monkeypatch.setattr(agreement, "_together", lambda trainer: True)
    return found


def trainer(folder: Path, recipe: Recipe, data: Any = None) -> SparseTrainer:
    return SparseTrainer(bert(), arguments(folder), train_dataset=data or sentences(8), recipe=recipe)


def test_equal_processes_agree(others: list, tmp_path: Path) -> None:
    others += [{}, {}]
    made = trainer(tmp_path, pruning())
    require_agreement(made, made.recipe)


def test_every_disputed_value_stands_with_its_ranks(others: list, tmp_path: Path) -> None:
    others += [{"recipe.sparsity.pattern": "4x4"}, {}, {"recipe.sparsity.pattern": "4x4", "seed": "7"}]
    made = trainer(tmp_path, pruning())
    said = (
        r"pattern is 'unstructured' on ranks 0, 2 and '4x4' on ranks 1, 3; seed is '42' on ranks 0, 1, 2 and"
    )
    with pytest.raises(ValueError, match=said):
        require_agreement(made, made.recipe)


def test_with_an_empty_recipe_trainer_goes_on_with_a_warning(
    others: list, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    others.append({"rows of training data": 3})
    made = trainer(tmp_path, Recipe())
    with caplog.at_level(logging.WARNING, "hf_sparse"):
        require_agreement(made, made.recipe)
    assert "rows of training data is 8 on rank 0 and 3 on rank 1" in caplog.text


def test_one_process_asks_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(agreement, "gather_object", None)
    made = trainer(tmp_path, pruning("sparsity.schedule.ramp_end=2"))
    made.train()


def columns(rows: list[dict[str, torch.Tensor]]) -> Dataset:
    return Dataset.from_list([{name: value.tolist() for name, value in row.items()} for row in rows])


def test_content_tells_rows_and_their_order_apart() -> None:
    rows = sentences(20)
    digests = {agreement._digest(each) for each in (rows, rows[::-1], rows[:19], columns(rows))}
    assert None not in digests and agreement._digest(sentences(20)) == agreement._digest(rows)
    assert len(digests) == 4 - (agreement._digest(rows) == agreement._digest(columns(rows)))
    assert agreement._digest(columns(rows)) != agreement._digest(columns(rows[::-1]))


def test_rows_that_change_when_they_are_read_are_left_alone() -> None:
    read = []
    changing = columns(sentences(4)).with_transform(lambda batch: read.append(1) or batch)

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            read.append(index)
            return index

    assert [agreement._digest(each) for each in (changing, Rows(), [], None)] == [None] * 4
    assert read == []


def test_the_failed_process_raises_its_own_error(others: list, tmp_path: Path) -> None:
    others.append(None)
    made = trainer(tmp_path, pruning())
    with pytest.raises(OSError, match="full"), failing_together(made, "saving"):
        raise OSError("full")


def test_the_others_name_the_process_that_failed(others: list, tmp_path: Path) -> None:
    others += [None, "OSError: full"]
    made = trainer(tmp_path, pruning())
    with (
        pytest.raises(RuntimeError, match=r"^saving failed on rank 2 \(OSError: full\)"),
        failing_together(made, "saving"),
    ):
        pass
