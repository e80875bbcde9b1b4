"""Every architecture in 8 bits: published for stock transformers, exported, packed; the same logits back."""

import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_sparse import load_packed, save_compressed, save_packed
from hf_sparse.checkpoint.sizes import measure_sizes
from hf_sparse.export.onnx import export_onnx
from tests.support.zoo import ARCHITECTURES, MIXTURES, calibrated

NAMES = [entry.name for entry in ARCHITECTURES]
REFUSED_BY_COMPRESSED_TENSORS = {
    "GPT-2": "c_attn is a Conv1D, and compressed-tensors has Linears only",
    **dict.fromkeys([*MIXTURES, "Llama 4"], r"experts.*_proj holds weights of experts"),
}
REFUSED_BY_TORCH = {"Llama 4": "torch cannot export Llama4ForCausalLM to ONNX: .*complex"}
# ALBERT's two layers share their weights; what DeBERTa makes of positions depends on no input.
PRODUCTS = {"ALBERT": 12, "DeBERTa-v2": 12}
CONSTANT_PRODUCTS = {"DeBERTa-v2": 4}
# A deep BERT takes ten times as long as the others to export, and shows nothing more.
EXPORTED = [name for name in NAMES if name != "BERT-Large, 24 layers"]
Quantized = Callable[[str], tuple[PreTrainedModel, dict[str, Tensor]]]


@pytest.fixture(scope="module")
def quantized() -> Quantized:
    """Return a function from a name to a calibrated model and what it has been calibrated with."""

    return cache(calibrated)


def answer(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**batch).logits


@pytest.mark.parametrize("name", NAMES)
def test_stock_transformers_computes_the_same(name: str, quantized: Quantized, tmp_path: Path) -> None:
    model, batch = quantized(name)
    if reason := REFUSED_BY_COMPRESSED_TENSORS.get(name):
        with pytest.raises(ValueError, match=reason):
            save_compressed(model, tmp_path / "published")
        assert not (tmp_path / "published").exists()
        return
    save_compressed(model, tmp_path / "published")
    sizes = measure_sizes(model, tmp_path / "published")
    assert 2.5 < sizes.encoder_ratio < 4 and sizes.file_bytes < sizes.dense_bytes
    stock = type(model).from_pretrained(tmp_path / "published").eval()
    assert (answer(stock, batch) - answer(model, batch)).abs().max() < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_file_gives_the_same_bits(name: str, quantized: Quantized, tmp_path: Path) -> None:
    model, batch = quantized(name)
    save_packed(model, tmp_path)
    assert torch.equal(answer(load_packed(tmp_path), batch), answer(model, batch))


@pytest.mark.parametrize("name", EXPORTED)
def test_onnx_runtime_computes_the_same_in_integers(name: str, quantized: Quantized, tmp_path: Path) -> None:
    model, batch = quantized(name)
    file = tmp_path / "model.onnx"
    if reason := REFUSED_BY_TORCH.get(name):
        with pytest.raises(ValueError, match=re.compile(reason, re.DOTALL)):
            export_onnx(model, file, batch)
        assert not file.exists()
        return
    exported = export_onnx(model, file, batch)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    # What load_onnx sets: exact also on processors without VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    # Another number of rows than it was exported with.
    fewer = {key: value[:3] for key, value in batch.items()}
    (logits,) = session.run(["logits"], {key: fewer[key].numpy() for key in exported.inputs})
    expected = answer(model, fewer).numpy()
    assert np.abs(logits - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())
    nodes = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert nodes["MatMulIntegerToFloat"] == PRODUCTS.get(name, exported.quantized_layers)
    # Products of constants alone are left as floats, of weights of few bits.
    assert nodes["DequantizeLinear"] == nodes["MatMulNBits"] == CONSTANT_PRODUCTS.get(name, 0)
