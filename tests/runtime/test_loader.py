"""Saved models are loaded ready to run."""

import copy

import pytest
import torch

from hf_sparse.checkpoint.compressed_tensors import save_compressed
from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.packed.model import save_packed
from hf_sparse.runtime import fuse, load, optimize
from hf_sparse.runtime.bindings import load_kernels
from hf_sparse.runtime.fused_encoder import FusedEncoder
from tests.support.runtime_models import batch, build, prune, quantized

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="there is no C++ compiler")


def logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert"])
@pytest.mark.parametrize("activations", ["uint8_per_tensor", "int8_per_token"])
def test_a_packed_file_gives_what_the_model_gave(name: str, activations: str, tmp_path) -> None:
    model, inputs = quantized(name, activations=activations), batch()
    save_packed(model, tmp_path)
    found = load(tmp_path)
    assert any(isinstance(module, FusedEncoder) for module in found.modules())
    assert torch.equal(logits(found, inputs), logits(fuse(model), inputs))


def test_embeddings_of_eight_bits_are_kept(tmp_path) -> None:
    model, inputs = quantized(embeddings="int8_per_channel"), batch()
    save_packed(model, tmp_path)
    assert torch.equal(logits(load(tmp_path), inputs), logits(fuse(model), inputs))


def test_a_packed_file_of_floats_is_rounded_on_loading(tmp_path) -> None:
    model, inputs = build(), batch()
    prune(model, 0.7)
    save_packed(model, tmp_path)
    assert torch.equal(logits(load(tmp_path), inputs), logits(fuse(model), inputs))


def test_a_plain_directory_loads_too(tmp_path) -> None:
    model, inputs = build(), batch()
    prune(model, 0.7)
    model.save_pretrained(tmp_path / "plain")
    assert torch.equal(logits(load(tmp_path / "plain"), inputs), logits(fuse(model), inputs))


@pytest.mark.parametrize("activations", ["uint8_per_tensor", "int8_per_token", "none"])
@pytest.mark.parametrize("weights", ["int8_per_channel", "int8_per_tensor"])
def test_a_compressed_directory_has_the_same_codes(weights: str, activations: str, tmp_path) -> None:
    model, inputs = quantized(weights=weights, activations=activations), batch()
    save_compressed(model, tmp_path)
    if activations != "none":
        found = load_model(tmp_path, restore=False)
        assert torch.equal(logits(fuse(found), inputs), logits(fuse(copy.deepcopy(model)), inputs))
    found = load_model(tmp_path, restore=False)
    # After a first forward pass the weights are floats.
    logits(found, inputs)
    assert torch.equal(logits(optimize(found), inputs), logits(optimize(model), inputs))


def test_packed_codes_of_a_compressed_directory_are_named(tmp_path) -> None:
    save_compressed(quantized(weights="int8_per_channel", activations="none"), tmp_path)
    with pytest.raises(ValueError, match="codes of encoder.layer.0.attention.self.query lie several"):
        fuse(load_model(tmp_path, restore=False))


def test_without_a_compiler_a_packed_file_is_an_ordinary_model(monkeypatch, tmp_path) -> None:
    model, inputs = quantized(), batch()
    save_packed(model, tmp_path)
    for module in ("loading", "fusing"):
        monkeypatch.setattr(f"hf_sparse.runtime.{module}.load_kernels", lambda: None)
    assert torch.equal(logits(load(tmp_path), inputs), logits(model, inputs))


def test_a_damaged_file_is_refused_by_name(tmp_path) -> None:
    save_packed(quantized(), tmp_path)
    file = tmp_path / "packed.safetensors"
    content = bytearray(file.read_bytes())
    content[-200] ^= 0xFF
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"packed\.safetensors"):
        load(tmp_path)


def test_scales_of_groups_are_optimized_and_not_called_damage(tmp_path, caplog) -> None:
    model, inputs = quantized(weights="int4_group_4"), batch()
    save_packed(model, tmp_path)
    assert torch.equal(logits(load(tmp_path), inputs), logits(model, inputs))
    assert "The encoder is not fused: " in caplog.text and "damaged" not in caplog.text
