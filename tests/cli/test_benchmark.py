"""`hf-sparse benchmark`: a saved model timed in every runtime that is there."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from transformers import ViTConfig, ViTModel

from hf_sparse.runtime.bindings import load_kernels
from tests.cli.commands import lines, quantized, refused, run
from tests.support.tiny import SIZES, bert, llama

OTHERS = ["ONNX Runtime float32", "ONNX Runtime int8", "OpenVINO float32", "OpenVINO int8"]
TORCH = ["PyTorch float32", "PyTorch int8 dynamic"]
OURS = ["hf_sparse fuse", "hf_sparse optimize"]
QUICK = ["--max-seq-length", 8, "--repeats", 2, "--warm-up", 0]
compiled = pytest.mark.skipif(load_kernels() is None, reason="there is no compiler")


@pytest.fixture
def no_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting takes most of the time."""
    monkeypatch.setitem(sys.modules, "onnxscript", None)


@compiled
def test_everything_that_is_there_is_measured_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized(tmp_path / "int8")
    picture, before = tmp_path / "latency.png", torch.get_num_threads()
    limits, limit = [], torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda count: limits.append(count) or limit(count))
    command = ["benchmark", tmp_path / "int8", "--batch-size", 3, "--threads", 2, "--png", picture, "--json"]
    result = run(*command, *QUICK)
    assert result.exit_code == 0 and result.stderr == "", result.output
    found = json.loads(result.stdout)
    assert {row["name"] for row in found["rows"]} == {*OURS, *TORCH, *OTHERS} and found["missing"] == {}
    assert {len(row["ms"]) for row in found["rows"]} == {2}
    assert all(row["largest_difference"] < found["largest_output"] for row in found["rows"])
    assert (found["batch"], found["length"], found["threads"]) == (3, 8, 2)
    assert found["model"] == str(tmp_path / "int8")
    assert found["architecture"] == "BertForSequenceClassification"
    assert found["machine"]["kernels"] == load_kernels().path
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert limits == [2, before]


@compiled
def test_the_table_fits_into_80_columns(tmp_path: Path, narrow: None, no_exports: None) -> None:
    quantized(tmp_path / "int8")
    text = lines("benchmark", tmp_path / "int8", *QUICK)
    start = next(index for index, line in enumerate(text) if "median" in line)
    assert max(map(len, text[start:])) <= 80
    rows = [" ".join(line.split()[:-6]) for line in text[start + 3 : start + 7]]
    assert sorted(rows) == sorted([*OURS, *TORCH])
    joined = " ".join(text)
    assert all(f"Not measured: {name}: onnxscript is not installed" in joined for name in OTHERS)
    assert "No gain here" in joined or "times as fast as the fastest of the others" in joined


@compiled
def test_packed_and_plain_models_are_measured(tmp_path: Path, no_exports: None) -> None:
    quantized(tmp_path / "int8")
    lines("pack", tmp_path / "int8", tmp_path / "packed", "--format", "packed")
    llama().to(torch.bfloat16).save_pretrained(tmp_path / "llama")
    names = {}
    for model in ("packed", "llama"):
        found = json.loads("\n".join(lines("benchmark", tmp_path / model, *QUICK, "--json")))
        names[model] = {row["name"] for row in found["rows"]}
        assert found["speedup"] is None or model == "packed"
    assert names == {"packed": {*OURS, *TORCH}, "llama": set(TORCH)}


def test_without_a_compiler_it_goes_on_without_this_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_exports: None
) -> None:
    for module in ("bindings", "fusion", "optimization"):
        monkeypatch.setattr(f"hf_sparse.runtime.{module}.load_kernels", lambda: None)
    monkeypatch.setattr("hf_sparse.benchmark.eager.load_kernels", lambda: None)
    quantized(tmp_path / "int8")
    text = " ".join(lines("benchmark", tmp_path / "int8", *QUICK))
    assert all(f"Not measured: {name}: its C++ is not compiled here" in text for name in OURS)
    assert "no kernels of this runtime" in text and "This runtime was not measured; the fastest is" in text


def test_what_cannot_be_measured_is_refused_in_one_sentence(tmp_path: Path) -> None:
    sizes = {name: value for name, value in SIZES.items() if name != "vocab_size"}
    ViTModel(ViTConfig(**sizes, image_size=8, patch_size=4)).save_pretrained(tmp_path / "vit")
    assert "ViTModel does not read texts alone" in refused("benchmark", tmp_path / "vit")
    bert().save_pretrained(tmp_path / "model")
    long = refused("benchmark", tmp_path / "model", "--max-seq-length", 513)
    assert (
        "513 tokens are more than the 512 that the model has positions for" in long
        and "--max-seq-length" in long
    )
    assert "is not a directory" in refused("benchmark", tmp_path / "none")
    # Before the model is loaded.
    drawn = refused("benchmark", tmp_path / "none", "--png", tmp_path / "drawing.jpg")
    assert "name a file that ends in .png" in drawn


def test_models_of_other_software_are_refused(tmp_path: Path) -> None:
    quantized(tmp_path / "int8")
    lines("pack", tmp_path / "int8", tmp_path / "published")
    assert "is a compressed-tensors directory, whose layers" in refused("benchmark", tmp_path / "published")


def test_more_than_4_threads_a_core_are_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    most = 4 * os.cpu_count()
    said = refused("benchmark", tmp_path / "none", "--threads", most + 1)
    assert f"--threads {most + 1} is more than 4 for each" in said and f"take {most} or fewer" in said
    assert "is not a directory" in refused("benchmark", tmp_path / "none", "--threads", most)


@pytest.mark.parametrize(("positions", "tokens"), [(64, 64), (512, 128)])
def test_by_default_sequences_are_of_128_tokens_or_as_many_as_the_model_takes(
    tmp_path: Path, no_exports: None, positions: int, tokens: int
) -> None:
    bert(num_hidden_layers=1, max_position_embeddings=positions).save_pretrained(tmp_path / "model")
    text = lines("benchmark", tmp_path / "model", *QUICK[2:], "--json")
    assert json.loads("\n".join(text))["length"] == tokens


@pytest.mark.parametrize("option", ["--batch-size", "--max-seq-length", "--threads", "--repeats"])
def test_numbers_below_1_are_refused(tmp_path: Path, option: str) -> None:
    assert run("benchmark", tmp_path, option, 0).exit_code == 2
