"""Group-Lasso pruning in a run: three phases, the exact target, the task's loss alone in evaluation."""

import pytest
import torch
from transformers import TrainerCallback

from hf_sparse import Recipe, SparseTrainer, SparsityCallback, find_targets, measure_sparsity, prune
from hf_sparse.sparsity.groups import measure_groups
from hf_sparse.sparsity.patterns.block import Block
from tests.support.tiny import arguments, bert, sentences

STEPS, HARD = 200, 100


def recipe(*assignments: str, preset: str = "group_lasso_block") -> Recipe:
    return Recipe.preset(preset).override(assignments)


def trainer(folder, *assignments: str, preset: str = "group_lasso_block", **changes) -> SparseTrainer:
    args = arguments(folder, **({"max_steps": STEPS, "lr_scheduler_type": "constant"} | changes))
    rows = sentences()
    return SparseTrainer(
        bert(), args, train_dataset=rows, eval_dataset=rows, recipe=recipe(*assignments, preset=preset)
    )


@pytest.mark.parametrize("final", [0.5, 0.8])
@pytest.mark.parametrize("step", ["proximal", "gradient"])
def test_groups_are_gone_when_the_penalty_ends_as_many_as_asked(tmp_path, final: float, step: str) -> None:
    run = trainer(tmp_path, f"sparsity.schedule.final={final}", f"sparsity.group_lasso.step={step}")
    run.train()
    history = run.sparsifier.method_run.penalty.history
    assert history[-1].step == HARD
    assert history[-1].gone == pytest.approx(final, abs=0.02)
    assert len({row.strength for row in history}) > 5
    assert measure_sparsity(run.model).overall == pytest.approx(final, abs=1e-3)
    norms = [measure_groups(target.weight, Block(4, 4)).flatten() for target in find_targets(run.model)]
    groups = torch.cat(norms)
    assert int((groups == 0).sum()) == int(final * len(groups))


@pytest.mark.parametrize("pattern", ["4x4", "1x4", "row/4", "column/4", "row", "column", "unstructured"])
def test_every_shape_of_group_reaches_its_target(tmp_path, pattern: str) -> None:
    run = trainer(tmp_path, f"sparsity.pattern={pattern}", "sparsity.allocation=uniform", max_steps=20)
    run.train()
    for target in find_targets(run.model):
        block = run.sparsifier.layout.blocks[target.name]
        norms = measure_groups(target.weight, block)
        assert int((norms == 0).sum()) == norms.numel() // 2


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_penalty_is_in_the_training_loss_once_and_in_no_other(tmp_path, micro_batches: int) -> None:
    settings = {"max_steps": 10, "gradient_accumulation_steps": micro_batches}
    strong = trainer(
        tmp_path, "sparsity.group_lasso={step: gradient, strength: 1.0, adapt: false}", **settings
    )
    weak = trainer(
        tmp_path, "sparsity.group_lasso={step: gradient, strength: 1e-30, adapt: false}", **settings
    )
    assert strong.evaluate()["eval_loss"] == weak.evaluate()["eval_loss"]
    logs = []
    for run in (strong, weak):
        run.train()
        logs.append([row for row in run.state.log_history if "penalty" in row])
    first, bare = logs[0][0], logs[1][0]
    assert first["penalty"] > 100 and first["penalty_strength"] == 1.0
    assert first["loss"] - bare["loss"] == pytest.approx(first["penalty"], rel=1e-4)
    # After the hard step there is none.
    assert logs[0][-1]["penalty"] == 0.0


def test_what_is_removed_stays_removed_while_the_rest_is_retrained(tmp_path) -> None:
    run = trainer(tmp_path, max_steps=20)
    run.train()
    assert not run.sparsifier.masks.nonzero_removed()
    run.save_model()
    record = run.model.config.hf_sparse
    assert record["pattern"] == "4x4"


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["sparsity.pattern=2:4", "sparsity.allocation=uniform"], "removes a part of every group"),
        (
            ["sparsity.revive=true"],
            "method group_lasso decides itself whether",
        ),
        (["sparsity.method=magnitude", "sparsity.group_lasso={}"], "does not apply to method magnitude"),
        (["sparsity.group_lasso.strength=0"], "greater than 0"),
        (["sparsity.group_lasso.strength=nan"], "should be a valid number"),
        (["sparsity.group_lasso.refresh=1.0"], "a point in time"),
    ],
)
def test_what_makes_no_sense_is_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(*assignments)


def test_a_callback_refuses_the_penalty() -> None:
    with pytest.raises(ValueError, match="as method group_lasso does; use SparseTrainer"):
        SparsityCallback(recipe())


def test_the_penalty_does_not_reach_weights_that_are_no_targets(tmp_path) -> None:
    run = trainer(tmp_path, "sparsity.exclude=[output]", "sparsity.group_lasso.strength=100.0", max_steps=5)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.args.learning_rate = 1e-3
    run.train()
    excluded = "bert.encoder.layer.0.output.dense.weight"
    assert torch.linalg.vector_norm(run.model.state_dict()[excluded]) > 0.9 * before[excluded].norm()


def test_where_the_optimizer_cannot_keep_up_people_are_told_and_the_task_is_not_drowned(
    tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trainer(tmp_path, "sparsity.group_lasso.step=gradient", learning_rate=1e-6)
    run.train()
    history = run.sparsifier.method_run.penalty.history
    assert max(row.strength for row in history) <= 100 * history[0].strength
    assert "times as large as what counts as gone" in caplog.text
    assert measure_sparsity(run.model).overall == pytest.approx(0.5, abs=1e-3)


def test_proximal_steps_do_not_depend_on_the_learning_rate(tmp_path) -> None:
    run = trainer(tmp_path, learning_rate=1e-6)
    run.train()
    assert run.sparsifier.method_run.penalty.history[-1].gone == pytest.approx(0.5, abs=0.02)
    assert {row["penalty"] for row in run.state.log_history if "penalty" in row} == {0.0}


@pytest.mark.parametrize(
    "assignments", [[], ["sparsity.allocation=uniform"], ["sparsity.overrides={query: {sparsity: 0.25}}"]]
)
def test_only_what_would_be_removed_is_pushed(tmp_path, assignments: list[str]) -> None:
    run = trainer(tmp_path, *assignments, learning_rate=1e-9, max_steps=20)
    before = {target.name: target.weight.detach().clone() for target in find_targets(run.model)}
    pushed = {}

    class Watch(TrainerCallback):
        def on_step_end(self, *args, **kwargs) -> None:
            if run.state.global_step == 5:
                pushed.update(
                    {target.name: target.weight.detach().clone() for target in find_targets(run.model)}
                )

    run.add_callback(Watch())
    run.train()
    shares = []
    for name, weight in before.items():
        kept = run.sparsifier.masks[name]
        torch.testing.assert_close(pushed[name][kept], weight[kept], rtol=0, atol=1e-7)
        assert (pushed[name][~kept].abs() < 0.99 * weight[~kept].abs()).all()
        shares.append((~kept).float().mean().item())
    assert min(shares) > 0 and (len(set(shares)) > 1) == (assignments != ["sparsity.allocation=uniform"])


def test_all_groups_are_pushed_as_published(tmp_path) -> None:
    run = trainer(tmp_path, "sparsity.group_lasso.spare=false", learning_rate=1e-9, max_steps=20)
    before = {target.name: target.weight.detach().clone() for target in find_targets(run.model)}
    run.train()
    for target in find_targets(run.model):
        kept = run.sparsifier.masks[target.name]
        assert (target.weight[kept].abs() < 0.99 * before[target.name][kept].abs()).all()


def test_what_cannot_be_made_small_is_refused_before_the_first_step(tmp_path) -> None:
    run = trainer(tmp_path)
    run.model.bert.encoder.layer[1].output.dense.weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"1 targets are frozen, such as bert.encoder.layer.1.output.dense"):
        run.train()
    half = trainer(tmp_path)
    half.model.bfloat16()
    with pytest.raises(ValueError, match="load the model in float32"):
        half.train()


def test_a_step_that_the_scaler_passes_over_is_none_of_the_penalty(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path, max_steps=20)
    monkeypatch.setattr(type(run.accelerator), "optimizer_step_was_skipped", property(lambda self: True))
    run.train()
    assert run.sparsifier.method_run.penalty.history[-1].gone < 0.1


@pytest.mark.parametrize("assignment", ["begin=0", "shape=constant"])
def test_a_penalty_without_a_step_to_act_is_refused(tmp_path, assignment: str) -> None:
    values = recipe().to_dict()
    values["sparsity"]["schedule"] = {"shape": "one_shot", "final": 0.5, "begin": 0}
    if assignment == "shape=constant":
        values["sparsity"]["schedule"] = {"shape": "constant", "final": 0.5}
    run = SparseTrainer(
        bert(), arguments(tmp_path), train_dataset=sentences(), recipe=Recipe.from_dict(values)
    )
    with pytest.raises(ValueError, match="removes 50.0% before the first step; let it begin later"):
        run.train()
    with pytest.raises(ValueError, match="method group_lasso prepares in training what it removes"):
        prune(bert(), 0.5, pattern="4x4", method="group_lasso")


@pytest.mark.parametrize("moved", [30, 10])
def test_the_end_of_the_penalty_may_be_moved_on_resuming(tmp_path, moved: int) -> None:
    settings = {"max_steps": 40, "save_strategy": "steps", "save_steps": 1}
    first = trainer(tmp_path, "sparsity.schedule.begin=20", **settings)
    first.train()
    for step in (15, 25):
        args = arguments(tmp_path / str(step), max_steps=40, lr_scheduler_type="constant")
        changed = recipe(f"sparsity.schedule.begin={moved}")
        again = SparseTrainer(
            bert(), args, train_dataset=sentences(), recipe=changed, allow_schedule_change=True
        )
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert measure_sparsity(again.model).overall == pytest.approx(0.5, abs=1e-3)
        assert again.sparsifier.method_run.penalty.history
