"""`hf-sparse export`: directories that other software and pipelines run from."""

import json
import sys
from pathlib import Path

import pytest
from transformers import BartConfig, BartForSequenceClassification, pipeline

from hf_sparse.export.session import load_onnx
from tests.cli.commands import lines, quantized, refused
from tests.data.tiny_tokenizers import bert as tokenizer

TEXTS = ["the big cat sat on a mat .", "who sat in paris ?"]


def test_a_pipeline_runs_from_what_is_written(tmp_path: Path, narrow: None) -> None:
    model, out = quantized(tmp_path / "int8"), tmp_path / "out"
    text = lines("export", tmp_path / "int8", out, "--format", "onnx")
    joined = "".join(text).replace("\n", "")
    assert "opset 21, 6 quantized layers" in " ".join(text) and "QuantizeLinear" in joined
    assert text[-1] == f"{(out / 'model.onnx').stat().st_size / 1e6:.2f} MB"
    expected, found = (
        pipeline("text-classification", model=one, tokenizer=tokenizer(), device="cpu")(TEXTS)
        for one in (model, load_onnx(out))
    )
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    assert [row["score"] for row in found] == pytest.approx([row["score"] for row in expected], abs=5e-3)
    assert (out / "tokenizer.json").is_file()


def test_openvino_and_json(tmp_path: Path) -> None:
    quantized(tmp_path / "int8")
    command = ["export", tmp_path / "int8", tmp_path / "out", "--format", "openvino", "--json"]
    found = json.loads("\n".join(lines(*command)))
    assert found["path"] == str(tmp_path / "out" / "openvino_model.xml")
    sizes = [(tmp_path / "out" / f"openvino_model.{end}").stat().st_size for end in ("xml", "bin")]
    assert found["bytes"] == sum(sizes) and found["quantized_layers"] == 6
    assert found["inputs"] == ["input_ids", "attention_mask", "token_type_ids"]
    assert found["outputs"] == ["logits"] and found["nodes"]["QuantizeLinear"] >= 4


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "vocab_size": 50, "max_position_embeddings": 16}
    # The batch needs a token that ends each of its texts.
    model = BartForSequenceClassification(BartConfig(d_model=32, **sizes))
    model.save_pretrained(tmp_path / "bart")
    out = tmp_path / "out"
    message = refused("export", tmp_path / "bart", out, "--format", "onnx")
    assert "reads more than a tokenizer makes" in message and not out.exists()
    assert "holds something else" in refused(
        "export", tmp_path / "bart", tmp_path / "bart", "--format", "onnx"
    )
    assert "choose one of onnx, openvino" in refused("export", tmp_path / "bart", out, "--format", "tflite")


@pytest.mark.parametrize(
    ("kind", "package", "extra"), [("onnx", "onnxscript", "export"), ("openvino", "openvino", "openvino")]
)
def test_what_is_missing_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = refused("export", tmp_path, tmp_path / "out", "--format", kind)
    assert f"needs {package}" in message and message.endswith(f'pip install "hf_sparse[{extra}]"')
