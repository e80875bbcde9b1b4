"""The sparsity record of a configuration, and weights that no longer have its zeros."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel, Trainer

from hf_sparse import Recipe, SparseTrainer, SparsityCallback, find_targets
from hf_sparse.checkpoint.sparsity_record import SparsityRecord, lost_zeros, read_sparsity_record
from tests.support.tiny import SIZES, arguments, bert, masked_lm, pruning, sentences, texts

INSIDE = "encoder.layer.0.attention.self.query.weight"
ROWS = SIZES["hidden_size"]


def prune(folder: Path, *assignments: str) -> SparseTrainer:
    trainer = SparseTrainer(
        model=masked_lm(),
        args=arguments(folder, save_strategy="steps", save_steps=4, max_steps=8),
        train_dataset=texts(),
        recipe=pruning(*assignments),
    )
    trainer.train()
    trainer.save_model()
    return trainer


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pruned")
    prune(folder)
    return folder


def fill_with_ones(model: torch.nn.Module, count: int) -> None:
    """Write over the weights of so many layers, as merging an adapter does."""
    with torch.no_grad():
        for target in find_targets(model).found[:count]:
            target.weight.fill_(1.0)


def test_the_saved_configuration_records_every_layer(pruned: Path) -> None:
    record = json.loads((pruned / "config.json").read_text())["hf_sparse"]
    assert {name: record[name] for name in ("format_version", "pattern", "target")} == {
        "format_version": 1,
        "pattern": "unstructured",
        "target": 0.9,
    }
    assert record["achieved"] == pytest.approx(0.9, abs=1e-3)
    assert len(record["layers"]) == 12
    removed = int(0.9 * ROWS * ROWS)
    assert record["layers"][INSIDE] == {
        "pattern": "unstructured",
        "target": 0.9,
        "achieved": round(removed / ROWS**2, 6),
        "removed": removed,
    }


def test_a_checkpoint_records_what_it_has_and_not_what_is_to_come(pruned: Path) -> None:
    early = read_sparsity_record(BertForMaskedLM.from_pretrained(pruned / "checkpoint-4"))
    model = BertForMaskedLM.from_pretrained(pruned / "checkpoint-4")
    zeros = sum(int((target.weight == 0).sum()) for target in find_targets(model))
    assert sum(layer.removed for layer in early.layers.values()) == zeros


def test_where_layers_are_free_they_have_no_target(tmp_path: Path) -> None:
    overrides = "sparsity.overrides={'layer.0.output': {sparsity: 0.5, pattern: 4x4}}"
    contract = read_sparsity_record(prune(tmp_path, "sparsity.allocation=global", overrides).model)
    targets = {name: layer.target for name, layer in contract.layers.items()}
    assert targets[INSIDE] is None
    assert targets["encoder.layer.0.output.dense.weight"] == 0.5
    assert contract.layers["encoder.layer.0.output.dense.weight"].achieved == 0.5
    patterns = {name: layer.pattern for name, layer in contract.layers.items()}
    assert (patterns[INSIDE], patterns["encoder.layer.0.output.dense.weight"]) == ("unstructured", "4x4")


def test_transfer_keeps_the_record_and_its_digest(pruned: Path, tmp_path: Path) -> None:
    before = read_sparsity_record(BertModel.from_pretrained(pruned))
    trainer = SparseTrainer(
        model=BertForSequenceClassification.from_pretrained(pruned),
        args=arguments(tmp_path, max_steps=3),
        train_dataset=sentences(),
    )
    trainer.train()
    trainer.save_model()
    after = read_sparsity_record(BertForSequenceClassification.from_pretrained(tmp_path))
    assert after == before
    assert isinstance(after, SparsityRecord) and len(after.digest) == 64


def test_other_zeros_have_another_digest(pruned: Path, tmp_path: Path) -> None:
    other = read_sparsity_record(prune(tmp_path, "sparsity.schedule.final=0.5").model)
    assert other.digest != read_sparsity_record(BertModel.from_pretrained(pruned)).digest


@pytest.mark.parametrize("model_class", [BertForMaskedLM, BertForSequenceClassification, BertModel])
def test_lost_zeros_are_noticed_under_any_head(pruned: Path, model_class: type) -> None:
    model = model_class.from_pretrained(pruned)
    assert lost_zeros(model) == {}
    fill_with_ones(model, 1)
    assert lost_zeros(model) == {INSIDE: (int(0.9 * ROWS * ROWS), 0)}


@pytest.mark.parametrize("layers", [1, 12])
@pytest.mark.parametrize("recipe", [None, Recipe.from_dict({"sparsity": {"method": "lock"}})])
def test_a_trainer_refuses_to_lock_zeros_that_are_lost(
    pruned: Path, tmp_path: Path, layers: int, recipe: Recipe | None
) -> None:
    model = BertForSequenceClassification.from_pretrained(pruned)
    fill_with_ones(model, layers)
    with pytest.raises(ValueError, match=rf"^{layers} weights? ha.* fewer zeros .* {INSIDE} \(0 of 921\)"):
        SparseTrainer(model=model, args=arguments(tmp_path), train_dataset=sentences(), recipe=recipe)
    del model.config.hf_sparse
    if layers == 1 or recipe is None:
        SparseTrainer(model=model, args=arguments(tmp_path), train_dataset=sentences(), recipe=recipe)


def test_pruning_anew_says_so_and_records_what_it_made(
    pruned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = BertForMaskedLM.from_pretrained(pruned)
    fill_with_ones(model, 12)
    trainer = SparseTrainer(
        model=model, args=arguments(tmp_path, max_steps=8), train_dataset=texts(), recipe=pruning()
    )
    assert "12 weights have fewer zeros" in caplog.text and "pruned again" in caplog.text
    trainer.train()
    trainer.save_model()
    assert lost_zeros(BertForMaskedLM.from_pretrained(tmp_path)) == {}


def test_saving_notices_what_was_lost_without_training(pruned: Path, tmp_path: Path) -> None:
    trainer = SparseTrainer(model=BertForMaskedLM.from_pretrained(pruned), args=arguments(tmp_path))
    fill_with_ones(trainer.model, 2)
    with pytest.raises(RuntimeError, match="2 weights have fewer zeros than the configuration records"):
        trainer.save_model()


def test_a_model_that_was_never_pruned_has_no_record(tmp_path: Path) -> None:
    trainer = SparseTrainer(model=bert(), args=arguments(tmp_path, max_steps=2), train_dataset=sentences())
    trainer.train()
    trainer.save_model()
    assert "hf_sparse" not in json.loads((tmp_path / "config.json").read_text())
    assert lost_zeros(trainer.model) == {} and read_sparsity_record(trainer.model) is None


def test_the_callback_records_too(tmp_path: Path) -> None:
    trainer = Trainer(
        model=bert(),
        args=arguments(tmp_path, save_strategy="steps", save_steps=8, max_steps=8),
        train_dataset=sentences(),
        callbacks=[SparsityCallback(pruning("sparsity.lr_rewind=false"))],
    )
    trainer.train()
    found = BertForSequenceClassification.from_pretrained(tmp_path / "checkpoint-8")
    assert read_sparsity_record(found).target == 0.9


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"format_version": 2}, "has format version 2, this release reads 1; upgrade hf_sparse"),
        ("yes", "has format version None"),
        ({"format_version": 1, "pattern": "1x4"}, "is damaged"),
        (
            {
                "format_version": 1,
                "pattern": "",
                "target": 0,
                "achieved": 0,
                "digest": "",
                "layers": {"a": {}},
            },
            "is damaged",
        ),
    ],
)
def test_a_record_that_cannot_be_understood_is_refused(record: object, message: str) -> None:
    model = bert()
    model.config.hf_sparse = record
    with pytest.raises(ValueError, match=message):
        read_sparsity_record(model)


def test_a_lock_covers_every_recorded_layer_and_not_the_default_ones_alone(tmp_path: Path) -> None:
    args = arguments(tmp_path / "pruned", max_steps=8)
    recipe = pruning("sparsity.include=[pooler, layer.0]")
    trainer = SparseTrainer(model=bert(), args=args, train_dataset=sentences(), recipe=recipe)
    trainer.train()
    trainer.save_model(str(tmp_path / "pruned"))
    model = BertForSequenceClassification.from_pretrained(tmp_path / "pruned")
    zeros = int((model.bert.pooler.dense.weight == 0).sum())
    further = SparseTrainer(
        model=model, args=arguments(tmp_path / "further", max_steps=3), train_dataset=sentences()
    )
    further.train()
    further.save_model()
    kept = BertForSequenceClassification.from_pretrained(tmp_path / "further")
    assert int((kept.bert.pooler.dense.weight == 0).sum()) == zeros > 0
    assert read_sparsity_record(kept).layers.keys() == read_sparsity_record(model).layers.keys()


def test_the_callback_refuses_to_lock_zeros_that_are_lost(pruned: Path, tmp_path: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(pruned)
    fill_with_ones(model, 1)
    callback = SparsityCallback(Recipe.from_dict({"sparsity": {"method": "lock"}}))
    trainer = Trainer(model=model, args=arguments(tmp_path), train_dataset=sentences(), callbacks=[callback])
    with pytest.raises(ValueError, match="1 weight has fewer zeros"):
        trainer.train()
