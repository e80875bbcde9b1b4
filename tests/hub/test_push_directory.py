"""What a push makes of a directory before it sends anything."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_sparse import load_packed
from hf_sparse.checkpoint.formats import write_format
from hf_sparse.checkpoint.load import load_model
from hf_sparse.hub import write_card
from hf_sparse.hub.card.render import is_generated
from hf_sparse.hub.push_directory import Staged, staged
from hf_sparse.oneshot.quantize_trained import calibration_recipe, quantize_trained, save_quantized
from hf_sparse.quantization.convert import detach
from hf_sparse.quantization.quantized_layers import quantized_layers
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.runtime import load
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.hub.pushing import REPO, saved
from tests.support.tiny import bert

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def names(ready: Staged) -> list[str]:
    return [path for path, _ in ready.files]


def gpt2(directory: Path) -> PreTrainedModel:
    """Write a quantized model of Conv1D layers, which compressed-tensors does not know."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=100, n_positions=16)).eval()
    recipe = calibration_recipe()
    quantize_trained(model, [{"input_ids": IDS}], recipe)
    save_quantized(model, directory, recipe)
    return model


def test_a_quantized_model_is_compressed_and_packed(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model")
    expected = logits(load_model(str(directory)))
    with staged(directory, REPO, packed=True) as ready:
        assert names(ready) == [
            "README.md",
            "config.json",
            "model.safetensors",
            "packed/config.json",
            "packed/packed.safetensors",
            "recipe.yaml",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        assert ready.files == tuple((path, (ready.folder / path).stat().st_size) for path in names(ready))
        assert torch.equal(logits(load_model(ready.folder, restore=False, strict=False)), expected)
        assert torch.equal(logits(load_packed(ready.folder / "packed")), expected)
        assert torch.equal(logits(load_packed(ready.folder, subfolder="packed")), expected)
        assert Recipe.from_yaml(ready.folder / "recipe.yaml").quantization is not None
        assert ready.notes == ()
    assert not ready.folder.exists()


def test_a_folder_without_a_packed_file_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="packed.safetensors does not exist"):
        load_packed(directory, subfolder="packed")
    with pytest.raises(ValueError, match="model/packed holds no packed file, and of others"):
        load(directory, subfolder="packed")


def test_a_plain_model_is_plain(tmp_path: Path) -> None:
    model = bert()
    model.save_pretrained(tmp_path / "model")
    with staged(tmp_path / "model", REPO) as ready:
        assert names(ready) == ["README.md", "config.json", "model.safetensors"]
        assert torch.equal(logits(load_model(ready.folder, restore=False, strict=False)), logits(model))


def test_a_packed_model_is_unpacked_for_others(tmp_path: Path) -> None:
    source = saved(tmp_path / "model")
    model = load_model(str(source))
    write_format(model, tmp_path / "packed", "packed")
    with staged(tmp_path / "packed", REPO, packed=True) as ready:
        assert torch.equal(logits(load_model(ready.folder, restore=False, strict=False)), logits(model))
        again = (ready.folder / "packed" / "packed.safetensors").read_bytes()
        assert again == (tmp_path / "packed" / "packed.safetensors").read_bytes()


def test_a_compressed_model_is_taken_as_it_is(tmp_path: Path) -> None:
    model = load_model(str(saved(tmp_path / "model")))
    write_format(model, tmp_path / "compressed", tokenizer=tokenizer())
    (tmp_path / "compressed" / "training_args.bin").write_bytes(b"secret")
    with staged(tmp_path / "compressed", REPO) as ready:
        assert set(names(ready)) > {"config.json", "model.safetensors", "tokenizer.json"}
        assert "training_args.bin" not in names(ready)
        for path in ("config.json", "model.safetensors", "tokenizer.json"):
            assert (ready.folder / path).read_bytes() == (tmp_path / "compressed" / path).read_bytes()
    with pytest.raises(ValueError, match="cannot be packed; push the model it was made of"):
        staged(tmp_path / "compressed", REPO, packed=True).__enter__()


def test_what_compressed_tensors_cannot_hold_is_rounded_floats(tmp_path: Path) -> None:
    model = gpt2(tmp_path / "model")
    layers = quantized_layers(model)
    with staged(tmp_path / "model", REPO) as ready:
        read = load_model(ready.folder, restore=False, strict=False)
        (note,) = ready.notes
    assert note.startswith("The weights are pushed as rounded floats, since compressed-tensors")
    assert "is a Conv1D" in note
    assert any(isinstance(module, Conv1D) for module in read.modules())
    for name, layer in layers.items():
        weight = layer.weight().t() if layer.transposed else layer.weight()
        assert torch.equal(read.get_parameter(f"{name}.weight"), weight)
    detach(model)
    assert not torch.equal(logits(read), logits(model))


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{tmp_path} holds no model: config.json is missing; name"):
        staged(tmp_path, REPO).__enter__()


def test_where_a_model_was_loaded_from_is_forgotten(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model")
    for file, given in (("config.json", str(tmp_path / "before")), ("tokenizer_config.json", "../tokenizer")):
        content = json.loads((directory / file).read_text())
        nested = {"_name_or_path": given, "kept": "x"}
        (directory / file).write_text(json.dumps(content | {"name_or_path": given, "inner": [nested]}))
    with staged(directory, REPO) as ready:
        for file in ("config.json", "tokenizer_config.json"):
            content = json.loads((ready.folder / file).read_text())
            assert "name_or_path" not in content and content["inner"] == [{"kept": "x"}]


def test_a_name_on_the_hub_is_kept(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model")
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"name_or_path": "prajjwal1/bert-tiny"}))
    with staged(directory, REPO) as ready:
        assert json.loads((ready.folder / file.name).read_text())["name_or_path"] == "prajjwal1/bert-tiny"


def test_only_what_belongs_to_a_model_is_taken(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model")
    others = (
        "training_args.bin",
        "optimizer.pt",
        "notes.txt",
        ".env",
        "checkpoint-4/x",
        "tokenizer_notes.txt",
        "my.model",
        "vocab.psd",
    )
    belonging = {"preprocessor_config.json", "normalizer.json", "source.spm", "bpe.codes", "LICENSE"}
    for name in others:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("secret")
    for name in belonging:
        (directory / name).write_text("{}")
    with staged(directory, REPO) as ready:
        assert not set(names(ready)) & {*others, "hf_sparse_state.safetensors"}
        assert belonging < set(names(ready))


def test_a_damaged_file_of_a_tokenizer_is_named(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model")
    (directory / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match="^tokenizer_config.json is not valid JSON "):
        staged(directory, REPO).__enter__()


def test_a_secret_among_what_is_taken_stops_it(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model")
    (directory / "chat_template.jinja").write_text(f"see {tmp_path / 'model'}")
    with pytest.raises(ValueError, match="^chat_template.jinja would be pushed and holds '/.*/model', a"):
        staged(directory, REPO).__enter__()


def test_the_same_directory_gives_the_same_files(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model")
    seen = []
    for copy in ("one", "other"):
        shutil.copytree(directory, tmp_path / copy / "model")
        with staged(tmp_path / copy / "model", REPO, packed=True) as ready:
            seen.append({path: (ready.folder / path).read_bytes() for path in names(ready)})
    assert seen[0] == seen[1]


class Mine(BertForSequenceClassification):
    """A class that transformers does not have."""


def test_a_model_at_hand_may_be_of_any_class(tmp_path: Path) -> None:
    model = Mine(bert().config)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="is a Mine, which is not a class of transformers"):
        staged(tmp_path / "model", REPO).__enter__()
    with staged(tmp_path / "model", REPO, model=model) as ready:
        assert names(ready) == ["README.md", "config.json", "model.safetensors"]
        assert torch.equal(logits(Mine.from_pretrained(ready.folder)), logits(model))
    with pytest.raises(
        ValueError, match="Mine is not a class of transformers, and no other can be loaded; pack"
    ):
        staged(tmp_path / "model", REPO, model=model, packed=True).__enter__()


def test_a_quantized_one_of_any_class_is_compressed(tmp_path: Path) -> None:
    model, recipe = Mine(bert().config).eval(), calibration_recipe()
    quantize_trained(model, [{"input_ids": IDS}], recipe)
    save_quantized(model, tmp_path / "model", recipe)
    with staged(tmp_path / "model", REPO, model=model) as ready:
        config = json.loads((ready.folder / "config.json").read_text())
        assert config["quantization_config"]["format"] == "int-quantized"
        assert torch.equal(logits(Mine.from_pretrained(ready.folder)), logits(model))


def test_a_card_that_was_made_is_made_again(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model")
    text = write_card(directory, directory, "somebody/else").read_text()
    with staged(directory, REPO) as ready:
        card = (ready.folder / "README.md").read_text()
        assert card != text and REPO in card and is_generated(card)
        assert ready.generated and ready.notes == ()


@pytest.mark.parametrize("made", [False, True], ids=["written", "changed"])
def test_a_card_that_somebody_wrote_or_changed_is_kept(made: bool, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    bert(num_labels=3).save_pretrained(directory)
    card = write_card(directory, directory, REPO) if made else directory / "README.md"
    text = f"{card.read_text()}\nMine." if made else "# Mine\n![ours](pictures/ours.png)"
    card.write_text(text)
    (directory / "pictures").mkdir(exist_ok=True)
    for name in ("ours.png", "other.png"):
        (directory / "pictures" / name).write_bytes(b"\0")
    with staged(directory, REPO) as ready:
        assert (ready.folder / "README.md").read_text() == text
        assert names(ready)[3:] == ([] if made else ["pictures/ours.png"])
        assert ready.notes == (
            f"{card} was written or changed by somebody, so it is kept; delete it for a card of what was "
            "measured",
        )
        assert not ready.generated


@pytest.mark.parametrize(("revision", "said"), [("next", True), ("main", False), (None, False)])
def test_the_card_loads_the_branch_it_is_for(revision: str | None, said: bool, tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "model")
    with staged(tmp_path / "model", REPO, revision=revision) as ready:
        assert ("revision=" in (ready.folder / "README.md").read_text()) is said
