"""Training an adapter: the base keeps its zeros, the adapter learns as it does in Trainer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, Trainer

from hf_sparse import Recipe, SparseTrainer, SparsityCallback, prune
from hf_sparse.checkpoint.sparsity_record import lost_zeros, read_sparsity_record, recorded_modules
from hf_sparse.oneshot.prune_with_data import prune_with_data
from hf_sparse.oneshot.quantize_trained import quantize_trained
from tests.support.tiny import SIZES, arguments, bert, pruning, sentences

LORA = LoraConfig(r=4, target_modules=["query", "value"], task_type="SEQ_CLS")
WIDE = LoraConfig(r=128, target_modules="all-linear")
QUERY = "encoder.layer.0.attention.self.query.weight"


def sparse(share: float = 0.8) -> BertForSequenceClassification:
    model = bert()
    prune(model, share)
    return model


def added(model: nn.Module, config: LoraConfig) -> nn.Module:
    model.add_adapter(config)
    return model


def train(kind: type[Trainer], model: nn.Module, folder: Path, **changes: object) -> Trainer:
    trainer = kind(model=model, args=arguments(folder, **changes), train_dataset=sentences())
    trainer.train()
    return trainer


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: values.detach().clone() for name, values in model.state_dict().items()}


@pytest.mark.parametrize("put", [get_peft_model, added])
@pytest.mark.parametrize(("make", "config"), [(sparse, LORA), (bert, WIDE), (sparse, WIDE)])
def test_an_adapter_learns_as_in_trainer_bit_for_bit(
    tmp_path: Path, put: Callable, make: Callable, config: LoraConfig
) -> None:
    found = []
    for kind in (Trainer, SparseTrainer):
        torch.manual_seed(0)
        model = put(make(), config)
        found.append(weights(train(kind, model, tmp_path / kind.__name__, max_steps=4).model))
    stock, ours = found
    assert stock.keys() == ours.keys()
    assert all(torch.equal(stock[name], ours[name]) for name in stock)
    assert all(values.any() for name, values in ours.items() if "lora_B" in name)


def test_the_base_keeps_its_zeros_by_its_record_and_its_own_names(tmp_path: Path) -> None:
    before = sparse()
    model = get_peft_model(sparse(), LORA)
    model.base_model.model.bert.requires_grad_(True)
    assert "bert." + QUERY.removesuffix(".weight") in recorded_modules(model)
    trainer = train(SparseTrainer, model, tmp_path, max_steps=4)
    trainer.save_model()
    zeros = before.bert.get_parameter(QUERY) == 0
    base = model.get_base_model()
    query = base.bert.encoder.layer[0].attention.self.query.base_layer.weight
    assert torch.equal(query == 0, zeros)
    assert read_sparsity_record(model) == read_sparsity_record(before) and not lost_zeros(model)


@pytest.mark.parametrize("steps", [2, 4])
def test_a_run_with_an_adapter_resumes_exactly(tmp_path: Path, steps: int) -> None:
    def run(folder: str, **resumed: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        trainer = SparseTrainer(
            model=get_peft_model(sparse(), LORA),
            args=arguments(tmp_path / folder, max_steps=6, save_strategy="steps", save_steps=2),
            train_dataset=sentences(),
        )
        trainer.train(**resumed)
        return weights(trainer.model)

    whole = run("whole")
    again = run("again", resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{steps}"))
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    saved = PeftModel.from_pretrained(sparse(), tmp_path / "whole" / "checkpoint-6").state_dict()
    assert all(torch.equal(whole[name], saved[name]) for name in whole if "lora" in name)


def test_zeros_that_merging_fills_are_missed(tmp_path: Path) -> None:
    model = get_peft_model(sparse(), LORA)
    train(SparseTrainer, model, tmp_path, max_steps=2, learning_rate=0.01)
    assert not lost_zeros(model)
    merged = model.merge_and_unload()
    assert len(lost_zeros(merged)) == 4 and QUERY in lost_zeros(merged)
    with pytest.raises(ValueError, match="4 weights have fewer zeros .* merging an adapter"):
        SparseTrainer(model=merged, args=arguments(tmp_path), train_dataset=sentences())


def test_zeros_that_merging_fills_are_missed_while_the_adapter_is_on(tmp_path: Path) -> None:
    model = get_peft_model(sparse(), LORA)
    train(SparseTrainer, model, tmp_path, max_steps=2, learning_rate=0.01)
    model.merge_adapter()
    assert len(lost_zeros(model)) == 4
    model.unmerge_adapter()


REFUSED = r"PeftModelForSequenceClassification carries an adapter, .* \(hf_sparse.merge_adapter\)"


@pytest.mark.parametrize(
    "recipe",
    [
        pruning(),
        Recipe.from_dict({"quantization": {}}),
        Recipe.preset("gmp_finetune"),
        Recipe.preset("group_lasso_block"),
        pruning("sparsity.method=movement"),
    ],
)
def test_a_recipe_that_changes_the_base_is_refused_before_the_first_step(
    tmp_path: Path, recipe: Recipe
) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        SparseTrainer(
            model=get_peft_model(bert(), LORA),
            args=arguments(tmp_path),
            train_dataset=sentences(),
            recipe=recipe,
        )
    with pytest.raises(ValueError, match="BertForSequenceClassification carries an adapter"):
        SparseTrainer(model=added(bert(), LORA), args=arguments(tmp_path), recipe=recipe)


def test_the_callback_and_pruning_in_one_shot_refuse_it_too(tmp_path: Path) -> None:
    model = get_peft_model(bert(), LORA)
    callback = SparsityCallback(pruning("sparsity.lr_rewind=false"))
    trainer = Trainer(model=model, args=arguments(tmp_path), train_dataset=sentences(), callbacks=[callback])
    with pytest.raises(ValueError, match=REFUSED):
        trainer.train()
    assert trainer.state.global_step == 0
    with pytest.raises(ValueError, match=REFUSED):
        prune(model, 0.5)
    with pytest.raises(ValueError, match=REFUSED):
        prune_with_data(model, 0.5, [])
    with pytest.raises(ValueError, match=REFUSED):
        quantize_trained(model, [])


def test_a_lock_is_no_change_of_the_base(tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"sparsity": {"method": "lock"}})
    model = get_peft_model(sparse(), LORA)
    trainer = SparseTrainer(
        model=model, args=arguments(tmp_path, max_steps=2), train_dataset=sentences(), recipe=recipe
    )
    trainer.train()
    assert not lost_zeros(model)


def test_adapters_wide_enough_for_a_tenth_of_zeros_leave_a_dense_model_dense() -> None:
    model = get_peft_model(BertForSequenceClassification(BertConfig(**SIZES)), WIDE)
    trainer = SparseTrainer(model=model)
    assert trainer.recipe == Recipe()
