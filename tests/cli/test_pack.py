"""`hf-sparse pack`: small directories and their sizes."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from hf_sparse.checkpoint.load import load_tokenizer
from hf_sparse.checkpoint.packed.model import load_packed
from hf_sparse.checkpoint.packed.packed_file import PACKED
from hf_sparse.oneshot.quantize_trained import calibration_recipe, quantize_trained, save_quantized
from hf_sparse.quantization.quantized_layers import quantized_layers
from tests.cli.commands import lines, quantized, refused
from tests.support.tiny import bert

WORDS = {"input_ids": torch.tensor([[5, 11, 12, 13]])}


@pytest.mark.parametrize(
    ("options", "form"), [([], "compressed-tensors"), (["--format", "packed"], "packed")]
)
def test_what_is_written_computes_alike_and_is_measured(
    tmp_path: Path, options: list[str], form: str, narrow: None
) -> None:
    model, out = quantized(tmp_path / "int8"), tmp_path / "out"
    text = lines("pack", tmp_path / "int8", out, *options)
    assert f"{out}: {form}" in "".join(text)
    rows = {line.split("  ")[0]: line for line in text}
    file = out / (PACKED if form == "packed" else "model.safetensors")
    assert f"{file.stat().st_size / 1e3:.1f} kB" in rows["whole model"] and "encoder" in rows
    assert max(map(len, text[1:])) <= 80
    loaded = load_packed(out) if form == "packed" else AutoModelForSequenceClassification.from_pretrained(out)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**WORDS).logits, model(**WORDS).logits, rtol=0, atol=1e-4)
    assert load_tokenizer(str(out)) is not None


def test_a_model_to_be_trained_further_is_packed_to_be_loaded_in_floats(tmp_path: Path) -> None:
    quantized(tmp_path / "int8")
    lines("pack", tmp_path / "int8", tmp_path / "out", "--format", "packed", "--dequantize")
    assert quantized_layers(load_packed(tmp_path / "out")) == {}
    message = refused("pack", tmp_path / "int8", tmp_path / "other", "--dequantize")
    assert "--format packed" in message and not (tmp_path / "other").exists()


def test_as_json_sizes_are_all_that_is_printed(tmp_path: Path) -> None:
    quantized(tmp_path / "int8")
    command = ["pack", tmp_path / "int8", tmp_path / "out", "--format", "packed", "--json"]
    found = json.loads("\n".join(lines(*command)))
    assert found["format"] == "packed" and found["directory"] == str(tmp_path / "out")
    assert found["sizes"]["file_bytes"] == (tmp_path / "out" / PACKED).stat().st_size
    # Written again in the place of the first.
    assert json.loads("\n".join(lines(*command))) == found


def test_models_that_are_not_quantized_are_packed_but_not_compressed(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "floats")
    message = refused("pack", tmp_path / "floats", tmp_path / "out")
    assert "no layer of the model is quantized" in message and "hf-sparse quantize" in message
    assert not (tmp_path / "out").exists()
    lines("pack", tmp_path / "floats", tmp_path / "out", "--format", "packed")
    assert (tmp_path / "out" / PACKED).is_file()


def test_the_way_out_for_models_of_conv1d_is_the_other_format(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=16, vocab_size=50))
    recipe = calibration_recipe(activations="none")
    quantize_trained(model, [], recipe)
    save_quantized(model, tmp_path / "gpt", recipe)
    message = refused("pack", tmp_path / "gpt", tmp_path / "out")
    assert "is a Conv1D" in message and "hf-sparse pack --format packed" in message
    lines("pack", tmp_path / "gpt", tmp_path / "out", "--format", "packed")


def test_one_format_is_not_made_of_what_another_has_rounded(tmp_path: Path) -> None:
    quantized(tmp_path / "int8")
    lines("pack", tmp_path / "int8", tmp_path / "published")
    lines("pack", tmp_path / "int8", tmp_path / "packed", "--format", "packed")
    command = ["pack", tmp_path / "published", tmp_path / "out", "--format", "packed"]
    assert "published is a compressed-tensors directory" in refused(*command)
    # The packed file says how it is quantized.
    lines("pack", tmp_path / "packed", tmp_path / "out")


@pytest.mark.parametrize("form", ["packed", "compressed-tensors"])
def test_no_directory_of_something_else_is_replaced(tmp_path: Path, form: str) -> None:
    quantized(tmp_path / "int8")
    before = sorted(file.name for file in (tmp_path / "int8").iterdir())
    message = refused("pack", tmp_path / "int8", tmp_path / "int8", "--format", form)
    assert "holds something else" in message
    assert sorted(file.name for file in (tmp_path / "int8").iterdir()) == before


def test_a_format_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    message = refused("pack", tmp_path, tmp_path / "out", "--format", "gguf")
    assert message == "'gguf' is not a format to pack in; choose one of compressed-tensors, packed"
