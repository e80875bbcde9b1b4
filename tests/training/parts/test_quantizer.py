"""Quantization-aware training inside a trainer: with masks and a teacher, delayed, frozen, saved, resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification, Trainer

from hf_sparse import Recipe, SparseTrainer, SparsityCallback, find_targets, measure_sparsity
from hf_sparse.checkpoint.sidecar import read_state
from hf_sparse.quantization.fake_layers import FakeQuantLinear
from hf_sparse.quantization.quantized_layers import quantized_layers
from tests.support.runs import differences
from tests.support.tiny import (
    RememberingCallback,
    arguments,
    bert,
    llama,
    pruning,
    same_weights,
    sentences,
    texts,
)

INT8 = Recipe.from_dict({"quantization": {}})
LAYER = "bert.encoder.layer.0.attention.self.query"


def trainer_of(folder: Path, recipe: Recipe = INT8, model: Any = None, **changes: Any) -> SparseTrainer:
    parts = {
        name: changes.pop(name)
        for name in ("teacher", "callbacks", "model_init", "eval_dataset", "compute_metrics")
        if name in changes
    }
    model = None if "model_init" in parts else model or bert()
    return SparseTrainer(
        model=model, args=arguments(folder, **changes), train_dataset=sentences(), recipe=recipe, **parts
    )


def test_checkpoints_are_plain_and_hold_no_range(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.train()
    trainer.save_model()
    plain = BertForSequenceClassification.from_pretrained(tmp_path)
    assert same_weights(plain, trainer.model)
    assert type(plain.get_submodule(LAYER)) is torch.nn.Linear
    ranges = read_state(tmp_path).extras["ranges"]
    assert ranges.keys() == {target.name.removesuffix(".weight") for target in find_targets(plain)}
    assert ranges[LAYER].shape == (2,) and ranges[LAYER][0] < 0 < ranges[LAYER][1]


def test_it_trains_otherwise_than_without_and_learns(tmp_path: Path) -> None:
    trainer, stock = trainer_of(tmp_path), Trainer(bert(), arguments(tmp_path), train_dataset=sentences())
    trainer.train(), stock.train()
    losses = [[line["loss"] for line in t.state.log_history if "loss" in line] for t in (trainer, stock)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_before_it_begins_training_is_bit_for_bit_that_of_a_plain_trainer(tmp_path: Path) -> None:
    losses = []
    for make in (
        lambda: trainer_of(tmp_path, INT8.override(["quantization.begin=6"])),
        lambda: Trainer(bert(), arguments(tmp_path), train_dataset=sentences()),
    ):
        trainer = make()
        trainer.train()
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert losses[0][:6] == losses[1][:6]
    assert losses[0][7:] != losses[1][7:]


def test_ranges_freeze_on_schedule(tmp_path: Path) -> None:
    look = RememberingCallback(lambda state, parts: parts["model"].get_submodule(LAYER).input_low.item())
    trainer_of(tmp_path, INT8.override(["quantization={begin: 2, freeze: 7}"]), callbacks=[look]).train()
    lows = look.seen
    assert lows[:2] == [float("inf")] * 2
    assert len(set(lows[2:7])) == 5 and set(lows[7:]) == {lows[6]}


@pytest.mark.parametrize("weights", ["int8_per_channel", "int8_per_tensor", "int4_group_8"])
def test_masks_teacher_and_rounding_work_together(tmp_path: Path, weights: str) -> None:
    recipe = Recipe.preset("prune_ofa_90").override(
        ["sparsity.schedule.every=1", f"quantization.weights={weights}"]
    )
    trainer = trainer_of(tmp_path, recipe, teacher=bert(seed=1))
    trainer.train()
    trainer.save_model()
    expected = sum(int(0.9 * target.weight.numel()) for target in find_targets(trainer.model))
    assert measure_sparsity(BertForSequenceClassification.from_pretrained(tmp_path)).zeros == expected
    for name, layer in quantized_layers(trainer.model).items():
        mask = trainer.sparsifier.masks[f"{name}.weight"]
        assert not layer.codes[~mask].any() and not layer.weight()[~mask].any()


def test_transfer_int8_locks_and_quantizes(tmp_path: Path) -> None:
    sparse = bert()
    with torch.no_grad():
        for target in find_targets(sparse):
            target.weight[target.weight.abs() < 0.02] = 0.0
    before = measure_sparsity(sparse).zeros
    trainer = trainer_of(tmp_path, Recipe.preset("transfer_int8"), sparse, teacher=bert(seed=1))
    trainer.train()
    assert measure_sparsity(trainer.model).zeros == before
    assert all(layer.weights.bits == 8 for layer in quantized_layers(trainer.model).values())


def test_evaluation_after_training_rounds_and_moves_nothing(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, eval_dataset=sentences(16))
    trainer.train()
    before = trainer.quantizer.state()
    rounded = trainer.evaluate()["eval_loss"]
    assert list(differences(before, trainer.quantizer.state())) == []
    trainer.quantizer.phase.active = False
    assert trainer.evaluate()["eval_loss"] != rounded


def test_the_best_model_comes_back_with_its_own_ranges(tmp_path: Path) -> None:
    best = iter([0.1, 0.9, 0.2, 0.3])
    trainer = trainer_of(
        tmp_path,
        eval_dataset=sentences(8),
        compute_metrics=lambda _: {"score": next(best)},
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=3,
        save_steps=3,
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-6")
    kept = read_state(trainer.state.best_model_checkpoint).extras["ranges"]
    last = read_state(tmp_path / "checkpoint-12").extras["ranges"]
    assert list(differences(trainer.quantizer.state(), kept)) == []
    assert not torch.equal(kept[LAYER], last[LAYER])


def test_a_model_made_anew_is_quantized_too(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, model_init=lambda: bert())
    trainer.train()
    assert type(trainer.model.get_submodule(LAYER)) is FakeQuantLinear
    assert quantized_layers(trainer.model).keys() == trainer.quantizer.layers.keys()


def test_a_second_trainer_starts_anew_on_the_same_model(tmp_path: Path) -> None:
    model = bert()
    trainer_of(tmp_path, model=model).train()
    again = trainer_of(tmp_path / "again", INT8.override(["quantization.weights=int4_per_channel"]), model)
    assert not any(layer.seen for layer in again.quantizer.layers.values())
    again.train()
    assert model.get_submodule(LAYER).quantization.weights.bits == 4


def test_a_model_replaced_after_the_fact_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.model = trainer.model_wrapped = bert()
    with pytest.raises(RuntimeError, match="the model was replaced after it was quantized"):
        trainer.train()


def test_layers_that_no_data_reaches_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = bert()
    model.bert.encoder.layer.append(type(model.bert.encoder.layer[0])(model.config, layer_idx=2))
    model.bert.encoder.layer[2].forward = lambda hidden, *parts, **named: hidden
    trainer = trainer_of(tmp_path, model=model)
    trainer.train()
    assert "No data has reached 6 of 18 quantized layers, such as bert.encoder.layer.2" in caplog.text
    with pytest.raises(ValueError, match="no data has reached 6 of 18 quantized layers"):
        quantized_layers(model)


def test_decoders_are_quantized_without_their_head(tmp_path: Path) -> None:
    trainer = SparseTrainer(model=llama(), args=arguments(tmp_path), train_dataset=texts(), recipe=INT8)
    trainer.train()
    assert not any("lm_head" in name for name in quantized_layers(trainer.model))
    assert len(quantized_layers(trainer.model)) == 14


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("quantization.weights=int9", "is not a scheme of weights; write int8_per_channel"),
        ("quantization.activations=int8", "choose one of int8_per_token, none, uint8_per_tensor"),
        (
            "quantization.observer=mean",
            "choose one of mean_squared_error, min_max, moving_average, percentile",
        ),
        ("quantization={activations: none, observer: min_max}", "observer would be ignored"),
        ("quantization={begin: 8, freeze: 8}", "leaves no step to observe them"),
        ("quantization={begin: 12}", "leaves no step to observe them"),
        ("quantization.weights=int4_group_5", "int4_group_5 does not cover"),
    ],
)
def test_what_cannot_work_is_refused_before_training(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, INT8.override([setting]))


def test_a_callback_cannot_quantize() -> None:
    recipe = pruning("sparsity.lr_rewind=false", "quantization={}")
    with pytest.raises(ValueError, match="too late to quantize; use SparseTrainer"):
        SparsityCallback(recipe)


def test_the_recipe_lies_in_the_sidecar(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.train()
    trainer.save_model()
    assert read_state(tmp_path).recipe == INT8
    assert "hf_sparse" not in json.loads((tmp_path / "config.json").read_text())
