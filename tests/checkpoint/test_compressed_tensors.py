"""Directories that stock transformers loads with compressed-tensors, and without hf_sparse."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoTokenizer,
    BartConfig,
    BartForSequenceClassification,
    BertForSequenceClassification,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hf_sparse import find_targets
from hf_sparse.checkpoint.compressed_tensors import save_compressed
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.quantization.quantized_layers import quantized_layers
from tests.support.tiny import SIZES, bert, llama, sentences

# Loads each directory named on its command line as the class in its configuration, with stock packages alone.
READER = """
import sys
sys.modules["hf_sparse"] = None
import json, torch, transformers
from pathlib import Path
from safetensors.torch import load_file, save_file
for directory in map(Path, sys.argv[1:]):
    config = json.loads((directory / "config.json").read_text())
    kind = getattr(transformers, config["architectures"][0])
    auto = {"L": transformers.AutoModelForCausalLM, "S": transformers.AutoModelForSequenceClassification}
    loader = auto["L" if "CausalLM" in kind.__name__ else "S"]
    model, report = loader.from_pretrained(directory, output_loading_info=True)
    assert type(model) is kind and not any(report.values()), report
    inputs = load_file(directory / "inputs.safetensors")
    with torch.no_grad():
        logits = model.eval()(**inputs).logits.contiguous()
    weights = {name: value for name, value in model.state_dict().items() if name.endswith(".weight")}
    save_file({"logits": logits} | {f"weights/{k}": v.clone() for k, v in weights.items()},
              directory / "read.safetensors")
"""


def bart() -> BartForSequenceClassification:
    torch.manual_seed(0)
    config = BartConfig(
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        vocab_size=100,
    )
    return BartForSequenceClassification(config)


def telling() -> BertForSequenceClassification:
    """Weights large enough that rounding shows in the logits."""
    return bert(initializer_range=0.2)


def qwen3() -> Qwen3ForCausalLM:
    """A decoder whose head is tied to its embedding."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(**SIZES, head_dim=16, num_key_value_heads=1, tie_word_embeddings=True, pad_token_id=0)
    )


def batch(model: PreTrainedModel) -> dict[str, Tensor]:
    rows = sentences(8)
    inputs = {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "attention_mask")}
    if model.config.is_encoder_decoder:
        inputs["input_ids"][:, -1] = model.config.eos_token_id
    return inputs


def pruned_and_quantized(
    make: Callable[[], PreTrainedModel], weights: str, activations: str
) -> PreTrainedModel:
    model = make().eval()
    with torch.no_grad():
        for target in find_targets(model):
            target.weight[target.weight.abs() < 0.01] = 0.0
    calibrate(model, [batch(model)], weights, activations)
    return model


# The relative error of logits. The last level of a token is 127.5 to compressed-tensors, 127 to hf_sparse.
CASES = {
    "bert-w8a8": (telling, "int8_per_channel", "uint8_per_tensor", 1e-4),
    "bert-w8a8-tensor": (telling, "int8_per_tensor", "uint8_per_tensor", 1e-4),
    "bert-w8-token": (telling, "int8_per_channel", "int8_per_token", 5e-2),
    "bert-w8": (telling, "int8_per_channel", "none", 1e-4),
    "bert-w4-group": (telling, "int4_group_16", "none", 1e-4),
    "bert-w4-group-a8": (telling, "int4_group_16", "uint8_per_tensor", 1e-4),
    "bert-w3": (telling, "int3_per_channel", "none", 1e-4),
    "bart-w8a8": (bart, "int8_per_channel", "uint8_per_tensor", 1e-4),
    "llama-w8-token": (llama, "int8_per_channel", "int8_per_token", 5e-2),
    "llama-w4": (llama, "int4_per_channel", "none", 1e-4),
    "qwen3-w8a8": (qwen3, "int8_per_channel", "uint8_per_tensor", 1e-4),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[PreTrainedModel, Path]]:
    home = tmp_path_factory.mktemp("compressed")
    models = {}
    for case, (make, weights, activations, _) in CASES.items():
        model, directory = pruned_and_quantized(make, weights, activations), home / case
        save_compressed(model, directory)
        save_file(batch(model), directory / "inputs.safetensors")
        models[case] = (model, directory)
    return models


@pytest.fixture(scope="module")
def read(written: dict[str, tuple[PreTrainedModel, Path]]) -> dict[str, dict[str, Tensor]]:
    """What stock transformers makes of each directory, in one process where hf_sparse cannot be imported."""
    directories = [directory for _, directory in written.values()]
    program = [sys.executable, "-c", READER, *map(str, directories)]
    run = subprocess.run(program, capture_output=True, text=True, env=os.environ, cwd=directories[0])
    assert run.returncode == 0, run.stderr[-3000:]
    return {directory.name: load_file(directory / "read.safetensors") for directory in directories}


@pytest.mark.parametrize("case", CASES)
def test_stock_transformers_computes_the_same(case: str, written, read) -> None:
    model, _ = written[case]
    with torch.no_grad():
        expected = model(**batch(model)).logits
    error = (read[case]["logits"] - expected).abs().max() / expected.abs().max()
    assert error < CASES[case][-1]


@pytest.mark.parametrize("case", CASES)
def test_weights_are_read_as_they_were_rounded_and_zeros_as_zeros(case: str, written, read) -> None:
    model, _ = written[case]
    for target in find_targets(model):
        found = read[case][f"weights/{target.name}"]
        assert torch.equal(found, target.module.quantization.weights.simulate(target.weight))
        assert not found[target.weight == 0].any()


def test_a_weight_takes_as_many_bits_as_its_scheme_has(written) -> None:
    name = "bert.encoder.layer.0.attention.self.query"
    bits = {}
    for case in ("bert-w8a8", "bert-w4-group", "bert-w3"):
        tensors = load_file(written[case][1] / "model.safetensors")
        weight = tensors.get(f"{name}.weight_packed", tensors.get(f"{name}.weight"))
        bits[case] = 8 * weight.nbytes / (32 * 32)
    assert bits == {"bert-w8a8": 8, "bert-w4-group": 4, "bert-w3": 3}


def test_zero_points_are_those_of_signed_integers(written) -> None:
    model, directory = written["bert-w8a8"]
    tensors = load_file(directory / "model.safetensors")
    for name, layer in quantized_layers(model).items():
        point = tensors[f"{name}.input_zero_point"]
        assert point.dtype == torch.int8
        assert point.item() == layer.input_zero_point.item() - 128
        assert tensors[f"{name}.input_scale"].item() == layer.input_scale.item()


def test_writing_changes_nothing_about_the_model(tmp_path: Path) -> None:
    model = pruned_and_quantized(bert, "int8_per_channel", "uint8_per_tensor")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_compressed(model, tmp_path / "model")
    assert not hasattr(model.config, "quantization_config")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_base_model_can_be_read_without_the_head(written) -> None:
    model, directory = written["bert-w8a8"]
    base, report = AutoModel.from_pretrained(directory, output_loading_info=True)
    assert not report["missing_keys"]
    inputs = batch(model)
    with torch.no_grad():
        expected, found = model.bert(**inputs), base.eval()(**inputs)
    assert torch.allclose(found.pooler_output, expected.pooler_output, atol=1e-5)


def test_linears_that_are_not_quantized_are_named(written) -> None:
    config = json.loads((written["bert-w8a8"][1] / "config.json").read_text())["quantization_config"]
    assert config["ignore"] == [r"re:(?:bert\.)?pooler\.dense$", "classifier"]
    assert config["format"] == "int-quantized" and "sparsity_config" not in config


def test_what_the_format_has_no_place_for_is_refused(tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 100, "bos_token_id": 0, "eos_token_id": 0}
    gpt2 = GPT2LMHeadModel(GPT2Config(**sizes))
    calibrate(gpt2, [], activations="none")
    mixture = MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2, num_key_value_heads=2))
    attention = find_targets(mixture, include=["self_attn"])
    calibrate(mixture, [], activations="none", targets=attention)
    mixed = bert()
    calibrate(mixed, [], activations="none", targets=find_targets(mixed, include=["query"]))
    calibrate(mixed, [], "int4_per_channel", "none", targets=find_targets(mixed, include=["key"]))
    for model, message in (
        (gpt2, "transformer.h.0.attn.c_attn is a Conv1D.*export to ONNX instead"),
        (mixture, r"experts.* holds weights of experts"),
        (mixed, "quantized in 2 ways, int4_per_channel with none and int8_per_channel with none"),
        (bert(), "no layer of the model is quantized"),
    ):
        with pytest.raises(ValueError, match=message):
            save_compressed(model, tmp_path / "refused")
    assert not any(tmp_path.iterdir())


def test_only_an_earlier_directory_of_the_same_kind_is_replaced(tmp_path: Path) -> None:
    model, directory = pruned_and_quantized(bert, "int8_per_channel", "none"), tmp_path / "model"
    model.save_pretrained(directory)
    held = sorted(file.name for file in directory.iterdir())
    with pytest.raises(ValueError, match="holds something else, which would be lost"):
        save_compressed(model, directory)
    assert sorted(file.name for file in directory.iterdir()) == held
    save_compressed(model, tmp_path / "other")
    stale = tmp_path / "other" / "model-00002-of-00002.safetensors"
    stale.touch()
    save_compressed(model, tmp_path / "other")
    assert not stale.exists()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ValueError, match="holds something else, which would be lost"):
        save_compressed(model, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]


def test_a_tokenizer_lies_beside_the_model(tmp_path: Path) -> None:
    tokenizer = BertTokenizerFast(
        vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "cat": 5}
    )
    model = pruned_and_quantized(bert, "int8_per_channel", "none")
    save_compressed(model, tmp_path / "model", tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("cat").input_ids == [2, 5, 3]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, directory = pruned_and_quantized(bert, "int8_per_channel", "none"), tmp_path / "model"
    save_compressed(model, directory)
    before = {file.name: file.read_bytes() for file in directory.iterdir()}

    def fail(*_, **__) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(type(model), "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_compressed(model, directory)
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
