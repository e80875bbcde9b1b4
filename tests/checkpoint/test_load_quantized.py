"""A loaded model computes as it did when it was saved."""

import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import BertForMaskedLM, PreTrainedModel

from hf_sparse import Recipe, SparseTrainer
from hf_sparse.checkpoint.load import load_model, requantize
from hf_sparse.checkpoint.packed.model import save_packed
from hf_sparse.checkpoint.sidecar import SIDECAR, read_state, write_state
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.quantization.quantized_layers import quantized_layers
from tests.support.tiny import arguments, bert, pruning, sentences

BATCH = {
    name: torch.stack([row[name] for row in sentences(8, seed=5)]) for name in ("input_ids", "attention_mask")
}


def trained(folder: Path, recipe: Recipe, **changes: object) -> PreTrainedModel:
    trainer = SparseTrainer(
        model=bert(), args=arguments(folder, **changes), train_dataset=sentences(), recipe=recipe
    )
    trainer.train()
    trainer.save_model()
    return trainer.model.eval()


def same_logits(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    with torch.no_grad():
        return torch.equal(one(**BATCH).logits, other(**BATCH).logits)


def is_plain(model: PreTrainedModel) -> bool:
    return quantized_layers(model) == {}


@pytest.mark.parametrize(
    "change",
    [
        "quantization={}",
        "quantization={weights: int4_per_channel, exclude: [intermediate]}",
        "quantization={activations: none}",
    ],
)
def test_a_trained_model_rounds_as_before(tmp_path: Path, change: str) -> None:
    model = trained(tmp_path, pruning(change))
    loaded = load_model(str(tmp_path))
    assert quantized_layers(loaded).keys() == quantized_layers(model).keys() and not is_plain(loaded)
    assert same_logits(loaded, model) and not loaded.training


def test_the_encoder_of_a_quantized_model_is_quantized_under_another_head(tmp_path: Path) -> None:
    model = trained(tmp_path, Recipe.from_dict({"quantization": {}}))
    other = BertForMaskedLM.from_pretrained(tmp_path).eval()
    requantize(other, str(tmp_path))
    with torch.no_grad():
        ours, theirs = (part.bert(**BATCH).last_hidden_state for part in (model, other))
    assert torch.equal(ours, theirs)


def test_nothing_moves_its_ranges(tmp_path: Path) -> None:
    trained(tmp_path, Recipe.from_dict({"quantization": {}}), save_strategy="steps", save_steps=6)
    loaded = load_model(str(tmp_path / "checkpoint-6")).train()
    scales = [layer.input_scale.clone() for layer in quantized_layers(loaded).values()]
    loaded(input_ids=torch.full((1, 4), 7))
    assert [layer.input_scale for layer in quantized_layers(loaded).values()] == scales


def test_models_that_were_not_quantized_are_plain(tmp_path: Path) -> None:
    model = bert().eval()
    model.save_pretrained(tmp_path / "alone")
    pruned = trained(tmp_path / "pruned", pruning())
    for folder, expected in (("alone", model), ("pruned", pruned)):
        loaded = load_model(str(tmp_path / folder))
        assert is_plain(loaded) and same_logits(loaded, expected)


def test_a_checkpoint_from_before_rounding_began_is_plain(tmp_path: Path) -> None:
    recipe = Recipe.from_dict({"quantization": {"begin": 8, "freeze": 10}})
    trained(tmp_path, recipe, save_strategy="steps", save_steps=6)
    early, late = (load_model(str(tmp_path / f"checkpoint-{step}")) for step in (6, 12))
    assert is_plain(early) and not is_plain(late)


def test_a_packed_directory_is_loaded_from_its_file(tmp_path: Path) -> None:
    model = bert().eval()
    calibrate(model, [BATCH])
    save_packed(model, tmp_path)
    loaded = load_model(str(tmp_path))
    assert len(quantized_layers(loaded)) == 12 and same_logits(loaded, model)


def test_ranges_of_other_layers_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, Recipe.from_dict({"quantization": {}}))
    bert(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"saved with other weights: model.safetensors beside it is another"):
        load_model(str(tmp_path))
    write_state(tmp_path, read_state(tmp_path))
    with pytest.raises(ValueError, match=r"ranges for 6 layers.*such as bert.encoder.layer.1"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["{here}/none", "{here}/file", "file", "no/such/model", "model/", "~", "../x"]
)
def test_a_directory_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    name = name.format(here=tmp_path)
    with pytest.raises(ValueError, match=f"^{re.escape(name)} is not a directory; name the one"):
        load_model(name)


@pytest.mark.parametrize("name", ["model", "user/model"])
def test_without_the_hub_a_name_is_said_to_be_neither(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=f"^{name} is not a directory, and the Hub cannot be reached"):
        load_model(name)


def test_a_damaged_sidecar_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, Recipe.from_dict({"quantization": {}}))
    content = bytearray((tmp_path / SIDECAR).read_bytes())
    content[-1] ^= 1
    (tmp_path / SIDECAR).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_model(str(tmp_path))


def test_the_old_name_goes_on_working_and_names_the_new_one(tmp_path: Path) -> None:
    model = trained(tmp_path, Recipe.from_dict({"quantization": {}}))
    with pytest.warns(FutureWarning, match="load_trained is an old name; write hf_sparse.load_model"):
        from hf_sparse.training.loading import load_trained

        loaded = load_trained(str(tmp_path))
    assert same_logits(loaded, model) and not is_plain(loaded)


def test_what_from_pretrained_gives_is_there_without_rounding(tmp_path: Path) -> None:
    trained(tmp_path, Recipe.from_dict({"quantization": {}}))
    assert is_plain(load_model(tmp_path, restore=False))
    half = load_model(tmp_path, dtype=torch.float16)
    assert half.dtype == torch.float16 and not is_plain(half)
