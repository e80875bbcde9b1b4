"""Exports as directories: whole, with their companion files, without loss of other files."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from transformers import AutoTokenizer

from hf_sparse.checkpoint.packed.model import load_packed, save_packed
from hf_sparse.export.directory import export_directory, exported_bytes, require_own
from hf_sparse.quantization.calibrate import calibrate
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.support.tiny import bert, sentences

FILES = {"onnx": {"model.onnx"}, "openvino": {"openvino_model.bin", "openvino_model.xml"}}


@pytest.fixture
def model(tmp_path: Path) -> torch.nn.Module:
    """Return a quantized model whose configuration says that it was packed."""
    made = bert(num_hidden_layers=1).eval()
    calibrate(made, [{"input_ids": torch.stack([row["input_ids"] for row in sentences(4)])}])
    save_packed(made, tmp_path / "packed")
    return load_packed(tmp_path / "packed")


@pytest.mark.parametrize("kind", FILES)
def test_configuration_and_tokenizer_lie_beside_the_model(
    tmp_path: Path, kind: str, model: torch.nn.Module
) -> None:
    exported = export_directory(model, tmp_path / "out", kind, tokenizer())
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names >= FILES[kind] | {"config.json", "tokenizer.json"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert "quantization_config" not in config
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == tokenizer().get_vocab()
    assert exported.path.is_file() and exported.path.parent == tmp_path / "out"
    sizes = [(tmp_path / "out" / name).stat().st_size for name in FILES[kind]]
    assert exported_bytes(exported) == sum(sizes) and exported.quantized_layers == 6


def test_an_earlier_export_of_its_kind_is_replaced_and_nothing_else(
    tmp_path: Path, model: torch.nn.Module
) -> None:
    export_directory(model, tmp_path / "out")
    export_directory(model, tmp_path / "out")
    with pytest.raises(ValueError, match="holds something else"):
        require_own(tmp_path / "out", "openvino")
    model.save_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="holds something else"):
        export_directory(model, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_the_file_holds_nothing_of_the_code_that_made_it(tmp_path: Path, model: torch.nn.Module) -> None:
    exported = export_directory(model, tmp_path / "out")
    graph = onnx.load(exported.path).graph
    assert b".py" not in exported.path.read_bytes()
    assert exported_bytes(exported) < 2 * sum(len(tensor.raw_data) for tensor in graph.initializer)


def test_kinds_that_are_not_known_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'tensorrt' is not a kind of export; choose one of onnx, openvino"):
        require_own(tmp_path, "tensorrt")
