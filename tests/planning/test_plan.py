"""A planned run is the run: same learning rates, same sparsities, same refusals."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler
from transformers import BertModel

from hf_sparse import Recipe, SparseTrainer, prune
from hf_sparse.planning.plan import Plan, count_rows, count_steps, make_plan
from tests.support.tiny import arguments, bert, pruning, sentences

STEPS = 12
# Dropout of attention is refused where probabilities are compared.
EAGER = {"attn_implementation": "eager", "attention_probs_dropout_prob": 0.0}


def plan(*assignments: str, **settings: Any) -> Plan:
    return make_plan(pruning(*assignments), STEPS, **settings)


def distilled(*assignments: str) -> Recipe:
    return Recipe.preset("prune_ofa_90").override(assignments)


def logged(folder: Path, recipe: Recipe, **changes: Any) -> list[dict[str, float]]:
    trainer = SparseTrainer(
        model=bert(),
        args=arguments(folder, max_steps=STEPS, **changes),
        train_dataset=sentences(),
        recipe=recipe,
    )
    trainer.train()
    return [line for line in trainer.state.log_history if "learning_rate" in line]


@pytest.mark.parametrize("rewind", ["false", "true", "cyclic"])
@pytest.mark.parametrize("scheduler", ["linear", "cosine"])
def test_learning_rate_and_sparsity_are_those_that_a_real_run_logs(
    tmp_path: Path, scheduler: str, rewind: str
) -> None:
    recipe = pruning("sparsity.schedule.every=2", f"sparsity.lr_rewind={rewind}")
    lines = logged(tmp_path, recipe, lr_scheduler_type=scheduler, warmup_steps=2)
    planned = make_plan(recipe, STEPS, 1e-3, scheduler, 2, model=bert())
    assert planned.learning_rate[0] is None
    assert list(planned.learning_rate[1:]) == [line["learning_rate"] for line in lines]
    assert list(planned.sparsity[1:]) == [line["sparsity"] for line in lines]


@pytest.mark.parametrize(("pattern", "allocation"), [("row", "uniform"), ("4x4", "global"), ("4x4", "erk")])
def test_sparsity_is_exact_whatever_pattern_allocation_and_overrides(
    tmp_path: Path, pattern: str, allocation: str
) -> None:
    recipe = pruning(f"sparsity.pattern={pattern}", f"sparsity.allocation={allocation}").override(
        ["sparsity.overrides={layer.0.attention: {sparsity: 0.5}}"]
    )
    planned = make_plan(recipe, STEPS, model=bert())
    assert list(planned.sparsity[1:]) == [line["sparsity"] for line in logged(tmp_path, recipe)]
    assert max(planned.dry_run.removed.values()) == round(planned.sparsity[-1] * planned.dry_run.weights)


def test_settings_of_the_scheduler_are_handed_on() -> None:
    options = {"min_lr_rate": 0.5}
    planned = make_plan(Recipe(), 100, 1.0, "cosine_with_min_lr", lr_scheduler_kwargs=options)
    assert planned.learning_rate[-1] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("rows", "batch_size", "accumulation", "epochs"),
    [(10, 4, 1, 1), (10, 4, 2, 2), (9, 4, 4, 1.5), (3, 8, 2, 1)],
)
def test_steps_are_counted_as_trainer_counts_them(
    tmp_path: Path, rows: int, batch_size: int, accumulation: int, epochs: float
) -> None:
    args = arguments(
        tmp_path,
        max_steps=-1,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=epochs,
    )
    trainer = SparseTrainer(model=bert(), args=args, train_dataset=sentences(rows))
    trainer.train()
    assert count_steps(rows, batch_size, epochs, accumulation) == trainer.state.max_steps


@pytest.mark.parametrize(("rows", "processes"), [(10, 2), (16, 4), (17, 4), (3, 4)])
def test_processes_share_batches_as_accelerate_shares_them(rows: int, processes: int) -> None:
    batches = BatchSampler(range(rows), batch_size=2, drop_last=False)
    shard = BatchSamplerShard(batches, num_processes=processes)
    assert count_steps(rows, 2, 1, processes=processes) == len(shard)


@pytest.mark.parametrize("name", ["rows", "batch_size", "epochs", "accumulation", "processes"])
def test_a_run_of_nothing_has_no_steps(name: str) -> None:
    given = {"rows": 8, "batch_size": 2, "epochs": 1, "accumulation": 1, "processes": 1}
    with pytest.raises(ValueError, match=f"{name} must be above 0"):
        count_steps(**(given | {name: 0}))


def test_rows_are_those_of_the_split_called_train(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text\n" + "word\n" * 5)
    (tmp_path / "test.csv").write_text("text\n" + "word\n" * 3)
    assert count_rows(str(tmp_path)) == 5
    assert count_rows(str(tmp_path / "test.csv")) == 3
    (tmp_path / "train.csv").unlink()
    with pytest.raises(ValueError, match="lacks a split called train and has only test"):
        count_rows(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        (["sparsity.schedule.ramp_end=12"], {}, "ramp_end is step 12 of 12"),
        ([], {"warmup_steps": 6}, "lr_rewind leaves 6 steps outside the pruning ramp"),
        ([], {"lr_scheduler_type": "reduce_lr_on_plateau"}, "reduce_lr_on_plateau follows a metric"),
        (["sparsity.pattern=5x5"], {"model": bert()}, "pattern 5x5 does not tile bert.encoder.layer.0"),
        (
            ["sparsity.pattern=row", "sparsity.allocation=global"],
            {"model": bert()},
            "compares blocks of one size, and these have 32, 64 weights",
        ),
        (["sparsity.allocation=global", "sparsity.floor=0.2"], {"model": bert()}, "floor 0.2 leaves"),
        (["quantization.begin=12"], {}, "quantization begins at step 12 of 12"),
        (["sparsity.exclude=[nowhere]"], {"model": bert()}, "'nowhere' matches no Linear"),
    ],
)
def test_what_cannot_work_is_refused(changes: list[str], settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        plan(*changes, **settings)


def test_terms_that_the_models_cannot_be_compared_by_are_refused() -> None:
    recipe = distilled("distillation.attention=1")
    with pytest.raises(ValueError, match="student's attention is sdpa"):
        make_plan(recipe, STEPS, model=bert())
    model = bert(**EAGER)
    assert make_plan(recipe, STEPS, model=model).loss_weights == {
        "task": 0.5,
        "logits": 0.5,
        "attention": 1.0,
    }


def test_a_teacher_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary size is 100, the teacher's 50"):
        make_plan(distilled(), STEPS, model=bert(), teacher=bert(vocab_size=50))
    with pytest.raises(ValueError, match="the recipe lacks distillation"):
        make_plan(pruning(), STEPS, model=bert(), teacher=bert())
    with pytest.raises(ValueError, match="give the model too"):
        make_plan(distilled(), STEPS, teacher=bert())


def test_a_sparser_model_than_the_recipe_asks_for_is_refused() -> None:
    model = bert()
    prune(model, 0.95)
    with pytest.raises(ValueError, match="zero already, more than the"):
        plan(model=model)


@pytest.mark.parametrize("quantization", ["null", "{weights: int4_per_channel}"])
def test_the_model_is_left_as_it_was(quantization: str) -> None:
    model = bert()
    kinds = [type(module) for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    recipe = distilled("sparsity.schedule={shape: constant, final: 0.9}", "sparsity.lr_rewind=false")
    make_plan(recipe.override([f"quantization={quantization}"]), STEPS, model=model)
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("level", [logging.NOTSET, logging.ERROR])
def test_what_the_trainer_warns_of_becomes_a_remark(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("hf_sparse")
    monkeypatch.setattr(logger, "level", level)
    before = list(logger.handlers)
    planned = plan("sparsity.pattern=16x16", model=bert())
    assert any("Whole blocks leave" in remark for remark in planned.remarks)
    assert (logger.level, logger.handlers) == (level, before)


def test_zeros_that_nothing_is_said_about_are_locked_as_the_trainer_locks_them() -> None:
    model = bert()
    prune(model, 0.5)
    planned = make_plan(Recipe(), STEPS, model=model)
    assert planned.recipe.sparsity.method == "lock"
    assert planned.schedule is None and planned.updates == ()
    assert set(planned.sparsity) == {0.5}


def test_without_the_model_nobody_knows_what_is_locked() -> None:
    assert make_plan(Recipe.preset("transfer"), STEPS).sparsity is None


def test_without_a_model_the_sparsity_is_that_of_the_schedule_at_the_last_update() -> None:
    planned = plan("sparsity.schedule.every=4", "sparsity.schedule.begin=1")
    schedule = planned.schedule
    assert planned.updates == (1, 5, 6, 9)
    assert planned.sparsity[:7] == (0, 0, 0, 0, 0, schedule.sparsity(5), 0.9)
    assert [planned.updates_by(step) for step in (0, 1, 4, 6, 12)] == [0, 1, 1, 3, 4]
    assert planned.key_steps == (0, 1, 6, 10, 12)


def test_a_rate_that_follows_a_metric_is_unknown() -> None:
    planned = plan("sparsity.lr_rewind=false", lr_scheduler_type="greedy")
    assert planned.learning_rate is None
    assert any("follows a metric" in remark for remark in planned.remarks)


def test_a_rate_whose_settings_are_missing_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="num_decay_steps.*give them as lr_scheduler_kwargs"):
        make_plan(Recipe(), STEPS, lr_scheduler_type="warmup_stable_decay")


def test_linears_are_left_out_with_their_reasons() -> None:
    found = plan(model=bert()).dry_run
    assert found.targets == 12 and found.zeros_now == 0
    assert dict(found.left_out) == {
        "outside the layer stack (embedding projection or pooler)": 1,
        "head: outside the base model": 1,
    }


def test_remarks_say_what_is_taken_for_granted() -> None:
    def said(planned: Plan) -> str:
        return " ".join(planned.remarks)

    assert "to have it checked" in said(make_plan(distilled(), STEPS))
    assert "to have it checked" not in said(make_plan(distilled(), STEPS, model=bert(), teacher=bert(seed=1)))
    assert "to have it checked" not in said(
        make_plan(distilled("distillation.teacher=self"), STEPS, model=bert())
    )
    assert "after step 6 change nothing" in said(plan())
    assert "change nothing" not in said(plan("sparsity.revive=true"))
    assert "Rounding is simulated" in said(plan("quantization={}"))
    assert make_plan(Recipe(), STEPS).remarks == ()


def test_a_model_without_a_head_may_get_one() -> None:
    planned = make_plan(distilled(), STEPS, model=BertModel(bert().config))
    assert planned.loss_weights["task"] == 0.5 and planned.sparsity[-1] == pytest.approx(0.9, abs=1e-3)
    (said,) = (remark for remark in planned.remarks if "As it was saved" in remark)
    assert "BertModel lacks a head" in said and "or load the model with a head" in said


def test_a_run_of_no_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        make_plan(Recipe(), 0)


def test_the_recipe_can_be_written_down() -> None:
    assert Recipe.from_dict(json.loads(json.dumps(plan(model=bert()).recipe.to_dict()))) == pruning()
