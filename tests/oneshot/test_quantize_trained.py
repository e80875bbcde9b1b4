"""Quantization of models without training, and the directories it writes."""

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification, BertTokenizerFast

from hf_sparse import Recipe, SparseTrainer, measure_sparsity
from hf_sparse.checkpoint.compressed_tensors import save_compressed
from hf_sparse.checkpoint.load import load_model, load_tokenizer
from hf_sparse.checkpoint.packed.model import save_packed
from hf_sparse.checkpoint.sidecar import SIDECAR, read_state
from hf_sparse.oneshot.quantize_trained import (
    calibration_recipe,
    quantize_trained,
    require_own,
    save_quantized,
)
from hf_sparse.quantization.quantized_layers import quantized_layers
from tests.support.tiny import arguments, bert, pruning, same_weights, sentences

TOKENIZER = BertTokenizerFast(vocab={word: number for number, word in enumerate(["[PAD]", "[UNK]", "cat"])})
TO_QUANTIZE = partial(load_model, accept="floats", restore=False, strict=True)
BATCH = {
    name: torch.stack([row[name] for row in sentences(8, seed=5)]) for name in ("input_ids", "attention_mask")
}


def quantized(**settings: object) -> tuple[BertForSequenceClassification, Recipe]:
    model, recipe = bert().eval(), calibration_recipe(**settings)
    quantize_trained(model, [BATCH], recipe)
    return model, recipe


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weights": "int4_group_8", "activations": "none"},
        {"observer": "percentile", "exclude": ["query"]},
        {"begin": "50%", "freeze": "60%"},
    ],
)
def test_what_is_written_is_loaded_as_it_computed(tmp_path: Path, settings: dict[str, object]) -> None:
    model, recipe = quantized(**settings)
    save_quantized(model, tmp_path / "out", recipe, TOKENIZER)
    assert read_state(tmp_path / "out").recipe.quantization.resolve(100)[0] == 0
    loaded = load_model(str(tmp_path / "out"))
    assert quantized_layers(loaded).keys() == quantized_layers(model).keys() != set()
    with torch.no_grad():
        assert torch.equal(loaded(**BATCH).logits, model(**BATCH).logits)
    assert load_tokenizer(str(tmp_path / "out")).get_vocab() == TOKENIZER.get_vocab()


def test_the_directory_is_plain_and_its_weights_are_not_rounded(tmp_path: Path) -> None:
    model, recipe = quantized()
    save_quantized(model, tmp_path / "out", recipe)
    assert same_weights(BertForSequenceClassification.from_pretrained(tmp_path / "out"), bert())
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        SIDECAR,
    }
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_without_a_word_ranges_are_as_wide_as_what_is_seen() -> None:
    assert calibration_recipe().observer == "min_max"
    assert calibration_recipe(observer="percentile").observer == "percentile"
    with pytest.raises(ValueError, match="need no range, so"):
        calibration_recipe(activations="none", observer="min_max")
    with pytest.raises(ValueError, match="'int9' is not a scheme of weights"):
        calibration_recipe(weights="int9")


def test_masks_and_recipe_of_a_trained_model_are_handed_on(tmp_path: Path) -> None:
    trainer = SparseTrainer(
        model=bert(), args=arguments(tmp_path / "run"), train_dataset=sentences(), recipe=pruning()
    )
    trainer.train()
    trainer.save_model()
    source = str(tmp_path / "run")
    model, recipe = TO_QUANTIZE(source), calibration_recipe(weights="int4_per_channel")
    quantize_trained(model, [BATCH], recipe)
    save_quantized(model, tmp_path / "out", recipe, source=source)
    before, after = read_state(source), read_state(tmp_path / "out")
    assert after.recipe.sparsity == before.recipe.sparsity and before.recipe.quantization is None
    assert after.recipe.quantization.weights == "int4_per_channel"
    assert (after.step, after.total_steps) == (before.step, before.total_steps)
    assert all(torch.equal(mask, after.masks[name]) for name, mask in before.masks.items()) and before.masks
    loaded = load_model(str(tmp_path / "out"))
    assert measure_sparsity(loaded).overall == measure_sparsity(trainer.model).overall > 0.89
    with torch.no_grad():
        assert torch.equal(loaded(**BATCH).logits, model(**BATCH).logits)


def test_what_was_quantized_once_can_be_quantized_again(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    first, settings = quantized()
    save_quantized(first, out, settings)
    model, recipe = TO_QUANTIZE(out), calibration_recipe(weights="int4_per_channel", activations="none")
    quantize_trained(model, [], recipe)
    save_quantized(model, out, recipe, source=out)
    assert {layer.weights.bits for layer in quantized_layers(load_model(out)).values()} == {4}
    assert "ranges" not in read_state(out).extras


def test_weights_that_are_rounded_already_are_refused(tmp_path: Path) -> None:
    model, _ = quantized()
    save_packed(model, tmp_path / "packed")
    save_compressed(model, tmp_path / "compressed")
    for name, form in (("packed", "hf_sparse"), ("compressed", "compressed-tensors")):
        with pytest.raises(ValueError, match=f"{name} is a {form} directory.*rounded already"):
            TO_QUANTIZE(str(tmp_path / name))


@pytest.mark.parametrize("file", ["notes.txt", "training_args.bin"])
def test_a_directory_with_something_else_is_not_replaced(tmp_path: Path, file: str) -> None:
    model, recipe = quantized()
    (tmp_path / file).write_text("mine")
    if file == "training_args.bin":
        (tmp_path / SIDECAR).write_text("of a run")
    for attempt in (lambda: require_own(tmp_path), lambda: save_quantized(model, tmp_path, recipe)):
        with pytest.raises(ValueError, match="holds something else"):
            attempt()
    assert (tmp_path / file).read_text() == "mine"


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, recipe = quantized()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("hf_sparse.oneshot.quantize_trained.write_state", fail)
    with pytest.raises(OSError, match="disk full"):
        save_quantized(model, tmp_path / "out", recipe)
    assert not any(tmp_path.iterdir())
