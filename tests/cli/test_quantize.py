"""`hf-sparse quantize`: a trained model and texts give a directory like that of quantized training."""

import json
from pathlib import Path

import pytest
from transformers import (
    BertForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from hf_sparse.checkpoint.load import load_model, load_tokenizer
from hf_sparse.checkpoint.sidecar import read_state
from hf_sparse.quantization.quantized_layers import quantized_layers
from tests.cli.commands import lines, quantized, refused
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.support.tiny import bert, same_weights


@pytest.fixture
def model(tmp_path: Path) -> Path:
    bert().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rows = ["the big cat sat on a mat,who ?,1", "a mat in paris,the cat sat,0"] * 10
    (tmp_path / "texts.csv").write_text("\n".join(["one,two,label", *rows]))
    return tmp_path / "texts.csv"


def test_it_writes_a_plain_directory_that_knows_its_ranges(
    tmp_path: Path, model: Path, texts: Path, narrow: None
) -> None:
    out = tmp_path / "out"
    text = lines("quantize", model, out, "--calibration", texts, "--samples", 7, "--batch-size", 3)
    assert text[:-1] == [
        "12 layers quantized: weights int8_per_channel, activations uint8_per_tensor, ",
        "from 7 texts.",
    ]
    assert text[-1] == f"Now write a small directory: hf-sparse pack {out} {out}-packed"
    assert same_weights(BertForSequenceClassification.from_pretrained(out), bert())
    assert len(quantized_layers(load_model(str(out)))) == 12
    assert read_state(out).recipe.quantization.observer == "min_max"
    assert load_tokenizer(str(out)).get_vocab() == tokenizer().get_vocab()


def test_its_options_are_those_of_a_recipe(tmp_path: Path, model: Path, texts: Path) -> None:
    columns = ["--text-column", "two", "--max-seq-length", 5]
    schemes = ["--weights", "int4_group_16", "--observer", "percentile", "--exclude", "intermediate"]
    (text,) = lines("quantize", model, tmp_path / "out", "--calibration", texts, *columns, *schemes, "--json")
    found = json.loads(text)
    assert (found["layers"], found["weights"], found["embeddings"]) == (10, "int4_group_16", None)
    assert (found["texts"], found["directory"]) == (20, str(tmp_path / "out"))
    recipe = read_state(tmp_path / "out").recipe.quantization
    assert (recipe.weights, recipe.observer, recipe.exclude) == (
        "int4_group_16",
        "percentile",
        ("intermediate",),
    )
    assert len(quantized_layers(load_model(str(tmp_path / "out")))) == 10


def test_embeddings_are_quantized_where_asked_for(tmp_path: Path, model: Path, texts: Path) -> None:
    out = tmp_path / "out"
    lines("quantize", model, out, "--calibration", texts, "--embeddings", "int8_per_channel")
    assert read_state(out).recipe.quantization.embeddings == "int8_per_channel"
    assert "bert.embeddings.word_embeddings" in quantized_layers(load_model(str(out)))
    lines("pack", out, tmp_path / "packed", "--format", "packed")
    before, after = (
        json.loads("".join(lines("inspect", tmp_path / name, "--json")))["sizes"]
        for name in ("out", "packed")
    )
    # Of a model that is mostly embeddings.
    assert after["ratio"] > 3 > 1 > before["ratio"]


def test_a_tokenizer_may_lie_elsewhere(tmp_path: Path, texts: Path) -> None:
    bert().save_pretrained(tmp_path / "bare")
    tokenizer().save_pretrained(tmp_path / "words")
    command = ["quantize", tmp_path / "bare", tmp_path / "out", "--calibration", texts]
    assert "bare lacks a tokenizer; save it there" in refused(*command)
    lines(*command, "--tokenizer-name", tmp_path / "words")
    assert load_tokenizer(str(tmp_path / "out")) is not None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--weights", "int9"], "'int9' is not a scheme of weights; write int8_per_channel"),
        (["--activations", "int8"], "quantization.activations"),
        (["--observer", "guess"], "quantization.observer"),
        (["--activations", "none", "--observer", "min_max"], "need no range, so"),
        (["--text-column", "three"], "text column ['three'] is missing"),
        (["--samples", "0"], "samples must be above 0, got 0"),
        (["--include", "nothing"], "include: 'nothing' matches no Linear"),
    ],
)
def test_options_that_cannot_work_are_refused(
    tmp_path: Path, model: Path, texts: Path, options: list[str], sentence: str
) -> None:
    message = refused("quantize", model, tmp_path / "out", "--calibration", texts, *options)
    assert sentence in message and not (tmp_path / "out").exists()


def test_data_without_texts_and_directories_of_others_are_refused(
    tmp_path: Path, model: Path, texts: Path
) -> None:
    (tmp_path / "empty.csv").write_text('text\n""\n" "\n')
    out = tmp_path / "out"
    assert "holds no text in text" in refused("quantize", model, out, "--calibration", tmp_path / "empty.csv")
    assert "holds something else" in refused("quantize", model, model, "--calibration", texts)
    assert not out.exists() and (model / "model.safetensors").is_file()


def test_models_that_are_packed_or_read_no_text_are_refused(tmp_path: Path, texts: Path) -> None:
    quantized(tmp_path / "int8")
    lines("pack", tmp_path / "int8", tmp_path / "packed", "--format", "packed")
    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    ViTModel(config).save_pretrained(tmp_path / "vit")
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    for name in ("vit", "t5"):
        tokenizer().save_pretrained(tmp_path / name)
    for name, sentence in (
        ("packed", "rounded already"),
        ("vit", "ViTModel reads pixel_values, not texts"),
        ("t5", "with batches that have decoder_input_ids"),
    ):
        assert sentence in refused("quantize", tmp_path / name, tmp_path / "out", "--calibration", texts)
