"""Optimizers with an evaluation mode: removed weights are zero in it, and in checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

from hf_sparse import Recipe, SparseTrainer, SparsityCallback, measure_sparsity
from tests.support.tiny import arguments, bert, pruning, same_weights, sentences

pytest.importorskip("schedulefree")
METHODS = {
    "magnitude": [],
    "revive": ["sparsity.revive=true"],
    "movement": ["sparsity.method=movement"],
    "lock": None,
}
SETTINGS = {
    "max_steps": 12,
    "optim": "schedule_free_adamw",
    "lr_scheduler_type": "constant",
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_strategy": "steps",
    "save_steps": 3,
}


def trainer(folder: Path, name: str, seen: list[tuple[float, float]], **changes: Any) -> SparseTrainer:
    model = bert()
    if name == "lock":
        with torch.no_grad():
            for parameter in model.bert.encoder.parameters():
                if parameter.dim() == 2:
                    parameter[parameter.abs() < 0.01] = 0
    # Updates go on after the first evaluations, so that values are remembered at them.
    recipe = Recipe.from_dict({"sparsity": {"method": "lock"}})
    if name != "lock":
        recipe = pruning("sparsity.lr_rewind=false", "sparsity.schedule.final=0.75", *METHODS[name])

    def look(_: Any) -> dict[str, float]:
        seen.append((run.sparsifier.masks.sparsity, measure_sparsity(run.model).overall))
        return {}

    rows = sentences()
    run = SparseTrainer(
        model,
        arguments(folder, **(SETTINGS | changes)),
        train_dataset=rows,
        eval_dataset=rows[:4],
        compute_metrics=look,
        recipe=recipe,
    )
    return run


@pytest.mark.parametrize("name", METHODS)
def test_evaluation_and_checkpoints_have_the_zeros_of_the_masks(name: str, tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []
    run = trainer(tmp_path, name, seen)
    run.train()
    assert len(seen) == 4 and all(found == pytest.approx(masks) for masks, found in seen)
    assert seen[-1][0] > 0.3
    for step, (masks, _) in zip((3, 6, 9, 12), seen, strict=True):
        saved = bert()
        saved.load_state_dict(load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors"))
        assert measure_sparsity(saved).overall == pytest.approx(masks)
    before = {key: value.clone() for key, value in run.model.state_dict().items()}
    run.evaluate()
    assert all(torch.equal(value, before[key]) for key, value in run.model.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_resumed_after_an_evaluation_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    whole = trainer(tmp_path, name, [])
    whole.train()
    resumed = trainer(tmp_path / "again", name, [])
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert same_weights(whole.model, resumed.model)


def test_the_callback_which_hears_of_no_evaluation_refuses_what_is_remembered(tmp_path: Path) -> None:
    recipe = pruning("sparsity.lr_rewind=false", "sparsity.revive=true")
    run = Trainer(
        bert(), arguments(tmp_path, **SETTINGS), train_dataset=sentences(), eval_dataset=sentences(4)
    )
    run.add_callback(SparsityCallback(recipe))
    with pytest.raises(ValueError, match="shows other weights in evaluation.*use SparseTrainer"):
        run.train()
