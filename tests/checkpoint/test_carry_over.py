"""Which files a directory made from a model takes over, and which it leaves behind."""

import json
import os
from pathlib import Path

import pytest

from hf_sparse.atomic.directories import require_free
from hf_sparse.checkpoint.carry_over import carried, carry, module_files
from hf_sparse.checkpoint.companions import holds_only
from hf_sparse.checkpoint.load import load_model

GOES_ON = [
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "LICENSE",
    "additional_chat_templates/tool.jinja",
    "chat_template.jinja",
    "config_sentence_transformers.json",
    "generation_config.json",
    "modules.json",
    "preprocessor_config.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "words/list.txt",
]
STAYS = [
    ".git/config",
    ".gitattributes",
    "README.md",
    "_saving/checkpoint-4/config.json",
    "all_results.json",
    "checkpoint-8/trainer_state.json",
    "config.json",
    "eval/similarity_evaluation_results.csv",
    "flax_model.msgpack",
    "hf_sparse_run.json",
    "hf_sparse_state.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "onnx/config.json",
    "onnx/model.onnx",
    "openvino_model.xml",
    "optimizer.pt",
    "pictures/masks.png",
    "pytorch_model.bin",
    "rng_state.pth",
    "runs/events.out.tfevents.1",
    "trainer_state.json",
    "training_args.bin",
]
MODULES = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for name in GOES_ON + STAYS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "modules.json").write_text(json.dumps(MODULES))
    return folder


def test_all_goes_on_but_weights_and_what_is_of_that_one_model(model: Path) -> None:
    assert sorted(carried(str(model))) == GOES_ON


def test_another_tokenizer_is_not_mixed_with_the_one_that_was(model: Path) -> None:
    left = {"additional_chat_templates/tool.jinja", "chat_template.jinja", "tokenizer.json"}
    assert set(carried(str(model), tokenizer=False)) == set(GOES_ON) - left


def test_what_is_there_already_stays(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "generation_config.json").write_text("new")
    carry(carried(str(model)), tmp_path / "out")
    assert (tmp_path / "out" / "generation_config.json").read_text() == "new"
    assert (tmp_path / "out" / "2_Dense" / "model.safetensors").read_text() == "2_Dense/model.safetensors"


def test_to_publish_there_are_the_modules_alone(model: Path) -> None:
    assert sorted(module_files(model)) == GOES_ON[:3]
    (model / "modules.json").unlink()
    assert module_files(model) == {}


def test_a_directory_with_copies_of_it_may_be_replaced_and_one_with_more_not(
    model: Path, tmp_path: Path
) -> None:
    files, out = carried(str(model)), tmp_path / "out"
    out.mkdir()
    carry(files, out)
    assert holds_only(out, carried=files)
    assert not holds_only(out)
    (out / "LICENSE").write_text("mine")
    with pytest.raises(ValueError, match="holds something else, which would be lost"):
        require_free(out, lambda held: holds_only(held, carried=files))


@pytest.mark.parametrize("name", ["LICENSE", "1_Pooling/config.json"])
def test_a_link_out_of_the_directory_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (model / name).unlink()
    (model / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="is a link to .*secret, outside of"):
        carried(str(model))


def test_links_of_the_cache_and_within_the_directory_are_followed(model: Path, tmp_path: Path) -> None:
    (model / "NOTICE").symlink_to("LICENSE")
    assert carried(str(model))["NOTICE"].read_text() == "LICENSE"
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    (tmp_path / "models--a--b" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs" / "abc").write_text("terms")
    os.symlink("../../blobs/abc", snapshot / "LICENSE")
    assert carried(str(snapshot))["LICENSE"].read_text() == "terms"


@pytest.mark.parametrize(
    ("modules", "complaint"),
    [
        ([{"path": "../other"}], "names ../other, outside of the directory"),
        ([{"path": "/etc"}], "names /etc, outside of the directory"),
        ([{"name": "0"}], "is not a list of modules"),
        ("{", "is not a list of modules"),
    ],
)
def test_a_list_of_modules_that_cannot_be_is_refused(model: Path, modules: object, complaint: str) -> None:
    text = modules if isinstance(modules, str) else json.dumps(modules)
    (model / "modules.json").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        carried(str(model))


def test_a_transformer_in_a_folder_of_its_own_is_named(tmp_path: Path) -> None:
    for folder, config in (("0_Transformer", {"model_type": "bert"}), ("1_Pooling", {"pooling_mode": "cls"})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(config))
    modules = [{"path": "1_Pooling"}, {"path": "0_Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="transformer lies in 0_Transformer; name .*0_Transformer, and"):
        load_model(tmp_path, restore=False, strict=True)
