"""run_mlm reads a teacher's outputs from a cache, in every epoch if it masks the same words."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from hf_sparse.distillation.teacher_cache import TeacherOutputs
from tests.scripts.tiny_data import sentences, write_table

ROWS = 16


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[TeacherOutputs]:
    """The caches that were opened."""
    found: list[TeacherOutputs] = []
    describe = TeacherOutputs.describe

    def noted(self: TeacherOutputs) -> str:
        found.append(self)
        return describe(self)

    monkeypatch.setattr(TeacherOutputs, "describe", noted)
    return found


@pytest.mark.parametrize("fixed", [True, False])
def test_a_cache_serves_every_epoch_whose_masks_it_knows(
    fixed: bool,
    script: Callable[[str], ModuleType],
    model_dir: Path,
    tmp_path: Path,
    opened: list[TeacherOutputs],
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = tmp_path / "train.jsonl"
    write_table(text, {"text": sentences(ROWS)})
    given = f"--model_name_or_path {model_dir} --teacher_name_or_path {model_dir} --train_file {text}"
    how = "--do_train --num_train_epochs 2 --line_by_line --max_seq_length 16 --use_cpu True"
    kept = f"--teacher_cache {tmp_path / 'outputs'} --teacher_cache_top_k 2 --teacher_cache_half"
    masks = ["--fixed_masks"] if fixed else []
    recipe = ["--recipe", "prune_ofa_90", "--recipe_override", "sparsity=null"]
    caplog.set_level(logging.WARNING, "hf_sparse")
    for run in ("one", "two"):
        argv = f"{given} {how} {kept} --output_dir {tmp_path / run}".split()
        script("run_mlm").main([*argv, *masks, *recipe])
    first, second = opened
    # By chance, the masks of two epochs may be the same for a short text.
    assert first.computed == ROWS if fixed else first.computed > 1.5 * ROWS
    assert second.computed == 0
    assert second.storage.top_k == 2 and second.storage.half
    warned = [line for line in caplog.messages if "--fixed_masks masks the same ones" in line]
    assert len(warned) == (0 if fixed else 2)
