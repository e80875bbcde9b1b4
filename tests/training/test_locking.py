"""Which zeros of a model are locked: recorded ones, else those in a pruning pattern; never chance zeros."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification, Trainer

from hf_sparse import Recipe, SparseTrainer, find_targets, measure_sparsity, prune
from hf_sparse.recipe.sparsity import SparsityRecipe
from hf_sparse.training.parts.resolve import settle
from tests.support.tiny import arguments, bert, pruning, sentences

LOCK = SparsityRecipe(method="lock")


def zeros_anywhere(model: nn.Module, share: float) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for target in find_targets(model):
            target.weight.mul_(torch.rand_like(target.weight) >= share)
    return model


def gated(model: BertForSequenceClassification) -> BertForSequenceClassification:
    """Add layers initialized to zero."""
    for layer in model.bert.encoder.layer:
        layer.attention.output.dense = nn.Sequential(layer.attention.output.dense, gate := nn.Linear(32, 32))
        nn.init.zeros_(gate.weight)
    return model


def settled(model: nn.Module, caplog: pytest.LogCaptureFixture) -> tuple[SparsityRecipe | None, str]:
    caplog.clear()
    with caplog.at_level(logging.INFO):
        return settle(None, model), caplog.text


def test_zeros_by_chance_leave_a_model_dense_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, said = settled(zeros_anywhere(bert(), 0.2), caplog)
    assert recipe is None and "counts as chance" in said and "sparsity.method=lock" in said
    trained = []
    for kind in (Trainer, SparseTrainer):
        model = zeros_anywhere(bert(), 0.2)
        kind(model=model, args=arguments(tmp_path, max_steps=3), train_dataset=sentences()).train()
        trained.append(model.state_dict())
    stock, ours = trained
    assert all(torch.equal(stock[name], ours[name]) for name in stock)


@pytest.mark.parametrize("share", [0.4, 0.85])
def test_a_sparse_model_from_elsewhere_is_locked_and_it_is_said(
    share: float, caplog: pytest.LogCaptureFixture
) -> None:
    model = zeros_anywhere(bert(), share)
    recipe, said = settled(model, caplog)
    assert (
        recipe == LOCK and "Their number and places show" in said and "model.config.hf_sparse = False" in said
    )
    model.config.hf_sparse = False
    assert settled(model, caplog) == (None, caplog.text)
    assert "locked" not in caplog.text


def test_that_zeros_are_to_train_is_saved_with_the_model(tmp_path: Path) -> None:
    model = zeros_anywhere(bert(), 0.5)
    model.config.hf_sparse = False
    model.save_pretrained(tmp_path)
    assert settle(None, BertForSequenceClassification.from_pretrained(tmp_path)) is None


def test_a_record_is_trusted_however_few_the_zeros(caplog: pytest.LogCaptureFixture) -> None:
    model = bert()
    prune(model, 0.03)
    recipe, said = settled(model, caplog)
    assert recipe == LOCK and "Its configuration records them" in said
    del model.config.hf_sparse
    assert settled(model, caplog) == (None, "")


@pytest.mark.parametrize("record", [True, False])
def test_a_new_layer_of_a_sparse_model_learns(tmp_path: Path, record: bool) -> None:
    model = bert()
    prune(model, 0.8)
    if not record:
        del model.config.hf_sparse
    zeros = measure_sparsity(model).zeros_per_target
    gated(model)
    trainer = SparseTrainer(
        model=model, args=arguments(tmp_path, max_steps=3), train_dataset=sentences(), recipe=None
    )
    trainer.train()
    after = measure_sparsity(model).zeros_per_target
    gates = [name for name in after if name.endswith("dense.1.weight")]
    assert len(gates) == 2 and not any(after[name] for name in gates)
    kept = {name: count for name, count in zeros.items() if "attention.output" not in name}
    assert {name: after[name] for name in kept} == kept


def test_pruning_further_removes_nothing_of_a_new_layer_at_first(tmp_path: Path) -> None:
    model = bert()
    prune(model, 0.3)
    gated(model)
    recipe = pruning("sparsity.schedule.begin=50%")
    trainer = SparseTrainer(
        model=model, args=arguments(tmp_path, max_steps=8), train_dataset=sentences(), recipe=recipe
    )
    removed = []

    def watch(*_: object) -> None:
        removed.append(
            trainer.sparsifier.masks.removed("bert.encoder.layer.0.attention.output.dense.1.weight")
        )

    model.register_forward_pre_hook(watch)
    trainer.train()
    assert removed[0] == 0


def test_a_lock_that_is_asked_for_keeps_every_zero(tmp_path: Path) -> None:
    model = zeros_anywhere(bert(), 0.05)
    before = measure_sparsity(model).zeros
    recipe = Recipe.from_dict({"sparsity": {"method": "lock"}})
    trainer = SparseTrainer(
        model=model, args=arguments(tmp_path, max_steps=3), train_dataset=sentences(), recipe=recipe
    )
    trainer.train()
    assert measure_sparsity(model).zeros == before > 0


def test_a_new_model_with_the_configuration_of_a_pruned_one_is_told_so(tmp_path: Path) -> None:
    pruned = bert()
    prune(pruned, 0.5)
    new = BertForSequenceClassification(pruned.config)
    with pytest.raises(ValueError, match="made with the config object of a pruned one; .* of its own"):
        SparseTrainer(model=new, args=arguments(tmp_path), train_dataset=sentences())
