"""A whole run of SparseTrainer: zeros, sidecars, equality with Trainer under an empty recipe."""

import logging
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    EvalPrediction,
    Trainer,
    TrainerCallback,
)

from hf_sparse import Recipe, SparseTrainer, SparseTrainerMixin, find_targets, measure_sparsity
from hf_sparse.checkpoint.sidecar import read_state
from tests.support.tiny import (
    RememberingCallback,
    arguments,
    bert,
    expected_zeros,
    llama,
    pruning,
    same_weights,
    sentences,
    texts,
)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


@pytest.mark.parametrize(("make", "data"), [(bert, sentences), (llama, texts)])
def test_an_empty_recipe_trains_bit_for_bit_like_trainer(make, data, tmp_path: Path) -> None:
    def run(kind: type[Trainer], **extra) -> tuple[Trainer, float]:
        args = arguments(tmp_path / kind.__name__, gradient_accumulation_steps=2, weight_decay=0.1)
        trainer = kind(make(), args, train_dataset=data(), **extra)
        return trainer, trainer.train().training_loss

    (ours, our_loss), (stock, their_loss) = run(SparseTrainer, recipe=Recipe()), run(Trainer)
    assert our_loss == their_loss
    assert same_weights(ours.model, stock.model)
    numbers = ("loss", "grad_norm", "learning_rate")
    assert [{key: line.get(key) for key in numbers} for line in ours.state.log_history] == [
        {key: line.get(key) for key in numbers} for line in stock.state.log_history
    ]


@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_run_ends_at_exactly_the_sparsity_asked_for(allocation: str, tmp_path: Path) -> None:
    recipe = pruning(f"sparsity.allocation={allocation}")
    trainer = SparseTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), recipe=recipe)
    trainer.train()
    trainer.save_model()
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    total = sum(rows * columns for rows, columns in find_targets(loaded).shapes.values())
    expected = int(0.9 * total) if allocation == "global" else expected_zeros(loaded, 0.9)
    assert measure_sparsity(loaded).zeros == expected
    assert read_state(tmp_path).step == 12


@pytest.mark.parametrize("pattern", ["1x4", "4x1", "4x4", "16x1"])
def test_blocks_are_removed_whole(pattern: str, tmp_path: Path) -> None:
    rows, columns = map(int, pattern.split("x"))
    trainer = SparseTrainer(
        bert(), arguments(tmp_path), train_dataset=sentences(), recipe=pruning(f"sparsity.pattern={pattern}")
    )
    trainer.train()
    for target in find_targets(trainer.model):
        out, inputs = target.weight.shape
        blocks = (
            (target.weight == 0)
            .view(out // rows, rows, inputs // columns, columns)
            .transpose(1, 2)
            .flatten(2)
        )
        assert int(blocks.all(-1).sum()) == int(0.9 * blocks.shape[0] * blocks.shape[1])
        assert not (blocks.any(-1) ^ blocks.all(-1)).any()


@pytest.mark.parametrize(
    "changes",
    [
        {"weight_decay": 0.1},
        {"optim": "sgd", "optim_args": "momentum=0.9", "weight_decay": 0.1},
        {"optim": "adafactor"},
        {"gradient_accumulation_steps": 3, "max_grad_norm": 0.1},
        {"bf16": True},
        {"torch_compile": True, "torch_compile_backend": "aot_eager"},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_removed_weights_are_zero_after_every_step(changes: dict, tmp_path: Path) -> None:
    def look(state, kwargs) -> tuple[int, int]:
        return measure_sparsity(trainer.model).zeros, sum(
            trainer.sparsifier.masks.removed(name) for name in find_targets(trainer.model).names
        )

    remember = RememberingCallback(look)
    trainer = SparseTrainer(
        bert(), arguments(tmp_path, **changes), train_dataset=sentences(), recipe=pruning(), callbacks=None
    )
    trainer.add_callback(remember)
    trainer.train()
    assert len(remember.seen) == 12
    assert all(zeros >= removed for zeros, removed in remember.seen)
    assert remember.seen[-1][1] == expected_zeros(trainer.model, 0.9)


def test_gradients_of_removed_weights_do_not_count_in_the_norm(tmp_path: Path) -> None:
    norms = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **kwargs) -> None:
            masks = trainer.sparsifier.masks
            for target in find_targets(model):
                assert not target.weight.grad[~masks[target.name]].any()
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())

    trainer = SparseTrainer(
        bert(),
        arguments(tmp_path, max_grad_norm=1e9),
        train_dataset=sentences(),
        recipe=pruning(),
        callbacks=[Watch],
    )
    trainer.train()
    logged = [line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line]
    assert logged == pytest.approx(norms, rel=1e-5)


def test_sparsity_and_learning_rate_are_logged_at_every_line(tmp_path: Path) -> None:
    trainer = SparseTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), recipe=pruning())
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    shares = [line["sparsity"] for line in lines]
    assert shares == sorted(shares)
    assert shares[0] < 0.5
    assert shares[-1] == pytest.approx(0.9, abs=1e-3)
    assert all("learning_rate" in line for line in lines)


def test_the_learning_rate_is_rewound_at_every_update_of_the_ramp(tmp_path: Path) -> None:
    trainer = SparseTrainer(
        bert(), arguments(tmp_path), train_dataset=sentences(), recipe=pruning("sparsity.schedule.every=2")
    )
    trainer.train()
    rates = [line["learning_rate"] / 1e-3 for line in trainer.state.log_history if "loss" in line]
    saw_tooth = [1, 5 / 6] * 3
    assert rates == pytest.approx([*saw_tooth, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_a_sparse_model_is_locked_by_default_with_a_line_that_says_so(tmp_path: Path, caplog) -> None:
    pruned = SparseTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), recipe=pruning())
    pruned.train()
    zeros = {target.name: target.weight == 0 for target in find_targets(pruned.model)}
    with caplog.at_level(logging.WARNING):
        trainer = SparseTrainer(pruned.model, arguments(tmp_path), train_dataset=sentences())
    assert "its zeros are locked" in caplog.text
    trainer.train()
    for target in find_targets(trainer.model):
        assert torch.equal(target.weight == 0, zeros[target.name])


def test_model_init_is_pruned_anew_in_every_run(tmp_path: Path) -> None:
    trainer = SparseTrainer(
        model_init=lambda: bert(), args=arguments(tmp_path), train_dataset=sentences(), recipe=pruning()
    )
    for _ in range(2):
        trainer.train()
        assert measure_sparsity(trainer.model).zeros == expected_zeros(trainer.model, 0.9)


def test_hyper_parameter_search_prunes_every_trial(tmp_path: Path) -> None:
    found = []

    def objective(metrics: dict[str, float]) -> float:
        found.append(measure_sparsity(trainer.model).zeros)
        return metrics["eval_loss"]

    trainer = SparseTrainer(
        model_init=lambda: bert(),
        args=arguments(tmp_path, eval_strategy="epoch"),
        train_dataset=sentences(),
        eval_dataset=sentences(8),
        recipe=pruning(),
    )
    trainer.hyperparameter_search(
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3)},
        n_trials=2,
        compute_objective=objective,
        backend="optuna",
    )
    assert found[-1] == expected_zeros(bert(), 0.9)
    assert found.count(found[-1]) >= 2


def test_evaluation_sees_what_would_be_saved(tmp_path: Path) -> None:
    trainer = SparseTrainer(
        bert(),
        arguments(tmp_path, save_strategy="steps", save_steps=4, eval_strategy="steps", eval_steps=4),
        train_dataset=sentences(),
        eval_dataset=sentences(16),
        compute_metrics=accuracy,
        recipe=pruning(),
    )
    trainer.train()
    logged = {line["step"]: line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line}
    for step in (4, 8, 12):
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"checkpoint-{step}")
        again = Trainer(loaded, arguments(tmp_path / "again"), eval_dataset=sentences(16)).evaluate()
        assert again["eval_loss"] == pytest.approx(logged[step], rel=1e-6)


def test_the_mixin_goes_on_any_trainer(tmp_path: Path) -> None:
    class TheirTrainer(Trainer):
        def compute_loss(self, *args, **kwargs):
            self.called = True
            return super().compute_loss(*args, **kwargs)

    class MyTrainer(SparseTrainerMixin, TheirTrainer):
        pass

    trainer = MyTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), recipe=pruning())
    trainer.train()
    assert trainer.called
    assert measure_sparsity(trainer.model).zeros == expected_zeros(trainer.model, 0.9)
