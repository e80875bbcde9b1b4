"""What SparseTrainer refuses, with the value, the rule and the way out."""

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback, get_scheduler

from hf_sparse import Recipe, SparseTrainer, find_targets
from hf_sparse.checkpoint.sidecar import SIDECAR
from tests.support.tiny import RememberingCallback, arguments, bert, pruning, sentences


def test_a_scheduler_of_the_users_own_is_refused_for_rewinding(tmp_path: Path) -> None:
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = get_scheduler("linear", optimizer, 0, 12)
    trainer = SparseTrainer(
        model,
        arguments(tmp_path),
        train_dataset=sentences(),
        recipe=pruning(),
        optimizers=(optimizer, scheduler),
    )
    with pytest.raises(ValueError, match="lr_rewind builds the learning-rate scheduler"):
        trainer.train()


def test_saving_fails_loudly_when_something_revives_weights(tmp_path: Path) -> None:
    class Vandal(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs) -> None:
            if state.global_step == 12:
                find_targets(model).found[0].weight.data.fill_(1.0)

    trainer = SparseTrainer(
        bert(), arguments(tmp_path), train_dataset=sentences(), recipe=pruning(), callbacks=[Vandal]
    )
    with pytest.raises(RuntimeError, match=r"removed weights of .*query.* are not zero"):
        trainer.train()
    with pytest.raises(RuntimeError, match="are not zero"):
        trainer.save_model()
    assert not (tmp_path / SIDECAR).exists()


@pytest.mark.parametrize(
    ("changes", "assignments", "message"),
    [
        ({"auto_find_batch_size": True}, [], "auto_find_batch_size restarts training"),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
            [],
            "reduce_lr_on_plateau follows a metric",
        ),
        ({}, ["sparsity.pattern=5x5"], "5x5 does not tile bert.encoder"),
        (
            {},
            ["sparsity.schedule.ramp_end=12", "sparsity.schedule.update_end=12"],
            "ramp_end is step 12 of 12",
        ),
        ({}, ["sparsity.schedule.begin=8"], "begins at step 8, after its end at step 6"),
        ({}, ["sparsity.include=[decoder]"], "matches no Linear"),
        ({"warmup_steps": 6}, [], "leaves 6 steps outside the pruning ramp"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    changes, assignments, message, tmp_path: Path
) -> None:
    steps = []
    with pytest.raises(ValueError, match=message):
        SparseTrainer(
            bert(),
            arguments(tmp_path, **({"metric_for_best_model": "loss"} | changes)),
            train_dataset=sentences(),
            eval_dataset=sentences(8),
            recipe=pruning(*assignments),
            callbacks=[RememberingCallback(lambda state, kwargs: steps.append(state.global_step))],
        ).train()
    assert not steps


def test_an_output_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        ValueError, match=r"output directory .*file/run cannot be written .*choose another output_dir"
    ):
        SparseTrainer(
            bert(), arguments(tmp_path / "file" / "run"), train_dataset=sentences(), recipe=pruning()
        )


def test_lock_without_zeros_is_refused(tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"sparsity": {"method": "lock"}})
    with pytest.raises(ValueError, match="have none; load the pruned model"):
        SparseTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), recipe=recipe).train()


def test_a_final_sparsity_below_what_is_there_is_refused(tmp_path: Path) -> None:
    pruned = SparseTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), recipe=pruning())
    pruned.train()
    recipe = pruning("sparsity.schedule.final=0.5")
    with pytest.raises(ValueError, match=r"are zero already, more than the .* final sparsity 0.5 removes"):
        SparseTrainer(pruned.model, arguments(tmp_path), train_dataset=sentences(), recipe=recipe).train()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"recipe": "gmp_finetune"}, "recipe is a Recipe, got 'gmp_finetune'; make one by Recipe.preset"),
        ({"recipe": {"sparsity": None}}, "recipe is a Recipe, got {'sparsity': None}"),
        ({"recipe": Recipe(), "teacher": "bert"}, "teacher is a model, got 'bert'; load it"),
    ],
)
def test_names_in_place_of_recipes_and_models_are_refused(wrong: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        SparseTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), **wrong)


def test_a_process_that_saves_nothing_needs_no_directory_to_write_to(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    args = arguments(tmp_path / "run", report_to=[])
    args.output_dir = str(tmp_path / "file" / "below")
    monkeypatch.setattr(type(args), "should_save", False)
    SparseTrainer(model=bert(), args=args, train_dataset=sentences(), recipe=Recipe())
