"""Saved models are loaded as what they were, and their files measured."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils import prune
from transformers import BertConfig, BertModel

from hf_sparse.checkpoint import saved_files
from hf_sparse.checkpoint.load import load_model, rounded_as
from hf_sparse.checkpoint.packed.model import load_packed, save_packed
from hf_sparse.checkpoint.packed.packed_file import PACKED
from hf_sparse.checkpoint.saved_files import saved_file, weight_bytes
from hf_sparse.checkpoint.sidecar import SIDECAR
from tests.support.tiny import SIZES, bert

AS_IT_IS = partial(load_model, restore=False, strict=False)
TO_PUBLISH = partial(load_model, accept="own", require_class=True)
TO_QUANTIZE = partial(load_model, accept="floats", restore=False, strict=True)


def test_a_model_comes_back_as_the_class_it_was_saved_as(tmp_path: Path) -> None:
    bert(num_labels=5).save_pretrained(tmp_path)
    loaded = AS_IT_IS(tmp_path, hidden_dropout_prob=0.5)
    assert type(loaded).__name__ == "BertForSequenceClassification" and loaded.classifier.out_features == 5
    assert loaded.config.hidden_dropout_prob == 0.5


@pytest.mark.parametrize("named", [None, ["NoSuchModel"]])
def test_without_a_known_class_it_comes_without_a_head(tmp_path: Path, named: list[str] | None) -> None:
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": named}))
    assert type(AS_IT_IS(tmp_path)) is BertModel


def test_only_files_with_weights_are_measured(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    (tmp_path / SIDECAR).write_bytes(b"0" * 1000)
    assert weight_bytes(str(tmp_path)) == (tmp_path / "model.safetensors").stat().st_size


def test_shards_are_measured_together(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path, max_shard_size="50KB")
    shards = list(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert weight_bytes(str(tmp_path)) == sum(shard.stat().st_size for shard in shards)


def test_the_older_format_is_measured_too(tmp_path: Path) -> None:
    torch.save(bert().state_dict(), tmp_path / "pytorch_model.bin")
    assert weight_bytes(str(tmp_path)) == (tmp_path / "pytorch_model.bin").stat().st_size


def test_a_packed_model_is_measured_by_its_file(tmp_path: Path) -> None:
    save_packed(bert().eval(), tmp_path)
    assert weight_bytes(str(tmp_path)) == (tmp_path / PACKED).stat().st_size


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    bert().config.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        weight_bytes(str(tmp_path))


def test_weights_saved_beside_a_packed_file_are_newer(tmp_path: Path) -> None:
    model = bert().eval()
    save_packed(model, tmp_path)
    assert load_model(str(tmp_path)).state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        model.classifier.weight.add_(1)
    model.save_pretrained(tmp_path)
    assert (tmp_path / PACKED).is_file()
    assert torch.equal(load_model(str(tmp_path)).classifier.weight, model.classifier.weight)
    assert weight_bytes(str(tmp_path)) == (tmp_path / "model.safetensors").stat().st_size
    with pytest.raises(ValueError, match="says nothing of it; .* were saved there since"):
        load_packed(tmp_path)


@pytest.mark.parametrize(
    ("cause", "warned"),
    [
        (EntryNotFoundError("no such file"), False),
        (LocalEntryNotFoundError("offline"), True),
        (ConnectionError("no route"), True),
    ],
)
def test_a_file_that_could_not_be_looked_for_is_not_passed_over_silently(
    cause: Exception, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("not there") from cause

    monkeypatch.setattr(saved_files, "cached_file", fail)
    assert saved_file("user/model", SIDECAR) is None
    assert ("could not be looked for in user/model" in caplog.text) is warned


def configure(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rewrite(directory: Path, left_out: str = "", **added: Tensor) -> None:
    """Save a classifier, then change which tensors its file holds."""
    bert().save_pretrained(directory)
    file = directory / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if not left_out or left_out not in name}
    save_file(
        kept | {name.replace("__", "."): value for name, value in added.items()}, file, {"format": "pt"}
    )


PUBLISHED_OR_QUANTIZED = pytest.mark.parametrize(
    "load", [TO_PUBLISH, TO_QUANTIZE], ids=["publish", "quantize"]
)


@PUBLISHED_OR_QUANTIZED
def test_a_class_that_is_not_known_is_not_published_without_its_head(load: Callable, tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    configure(tmp_path, architectures=["MyBert"])
    with pytest.raises(ValueError, match="is a MyBert, which is not a class of transformers"):
        load(str(tmp_path))


@PUBLISHED_OR_QUANTIZED
def test_weights_that_would_be_drawn_at_random_are_missed(load: Callable, tmp_path: Path) -> None:
    rewrite(tmp_path, left_out="classifier")
    with pytest.raises(
        ValueError, match="lacks classifier.bias and 1 more of a BertFor.*, which would be random; if an"
    ):
        load(str(tmp_path))


@PUBLISHED_OR_QUANTIZED
def test_pruning_of_torch_is_not_taken_for_dense_weights(load: Callable, tmp_path: Path) -> None:
    model = bert()
    prune.random_unstructured(model.bert.encoder.layer[0].output.dense, "weight", 0.5)
    model.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="lacks bert.encoder.layer.0.output.dense.weight of a .* hf-sparse rescue"
    ):
        load(str(tmp_path))


@PUBLISHED_OR_QUANTIZED
def test_masks_beside_whole_weights_are_not_passed_over(load: Callable, tmp_path: Path) -> None:
    rewrite(tmp_path, classifier__mask_scores=torch.zeros(2, 32))
    with pytest.raises(ValueError, match="holds classifier.mask_scores, which a BertFor"):
        load(str(tmp_path))


@PUBLISHED_OR_QUANTIZED
def test_a_head_of_another_shape_is_refused(load: Callable, tmp_path: Path) -> None:
    bert(num_labels=5).save_pretrained(tmp_path)
    bert(num_labels=2).config.save_pretrained(tmp_path)
    configure(tmp_path, architectures=["BertForSequenceClassification"])
    with pytest.raises(
        ValueError, match="holds classifier.bias and 1 more in another shape than in a BertFor"
    ):
        load(str(tmp_path))


def test_without_a_class_nothing_is_published_and_no_head_lost(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    configure(tmp_path, architectures=None)
    with pytest.raises(
        ValueError, match="^config.json of .* names no class .architectures., so a head could"
    ):
        TO_PUBLISH(str(tmp_path))
    with pytest.raises(ValueError, match="holds classifier.bias and 1 more, which a BertModel cannot"):
        TO_QUANTIZE(str(tmp_path))


def test_what_pretraining_leaves_may_be_left_over(tmp_path: Path) -> None:
    rewrite(tmp_path, cls__seq_relationship__bias=torch.zeros(2))
    assert type(load_model(tmp_path, restore=False, strict=True)).__name__ == "BertForSequenceClassification"


@pytest.mark.parametrize("load", [AS_IT_IS, rounded_as, load_model, TO_PUBLISH])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", r"is not a valid JSON \(Expecting"),
        (b"\xff", "is not a valid JSON"),
        (b"[]", "not hold a table"),
    ],
)
def test_a_damaged_configuration_is_named(
    content: bytes, reason: str, load: Callable, tmp_path: Path
) -> None:
    bert().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"^{tmp_path}/config.json .*{reason}"):
        load(str(tmp_path))


def test_a_directory_without_a_configuration_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no model: config.json is missing; name the directory"):
        load_model(str(tmp_path))


def test_a_directory_of_an_adapter_is_told_from_one_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter and no model; .*merge_adapter"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda _: b"", lambda _: b"version https"])
def test_a_damaged_file_of_weights_is_named(damage: Callable, shards: bool, tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path, max_shard_size="50KB" if shards else "5GB")
    file = sorted(tmp_path.glob("model*.safetensors"))[-1]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        ValueError, match=f"^{file} is not a whole file of tensors .*; fetch it again, or save"
    ):
        load_model(str(tmp_path))


def test_an_encoder_saved_without_a_pooler_is_whole(tmp_path: Path) -> None:
    model = BertModel(BertConfig(**SIZES), add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    loaded = TO_PUBLISH(str(tmp_path))
    assert loaded.pooler is None and loaded.state_dict().keys() == model.state_dict().keys()
