"""Adapters on sparse bases of 8 and 4 bits, which stay rounded and sparse."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, CompressedTensorsConfig, PreTrainedModel

from hf_sparse import SparseTrainer, load_packed, merge_adapter, save_compressed, save_packed
from hf_sparse.checkpoint.packed.hf_quantizer import SUPPORTED
from hf_sparse.checkpoint.sparsity_record import lost_zeros
from hf_sparse.quantization.calibrate import calibrate
from hf_sparse.quantization.fake_layers import FakeQuantLinear
from tests.adapters.adapted import adapted, logits, masked, plain, same_zeros, sparse_bert
from tests.support.tiny import arguments, batches, sentences

LOADERS = [load_packed] + [AutoModelForSequenceClassification.from_pretrained] * SUPPORTED
SCHEMES = ["int8_per_channel", "int4_per_channel", "int4_group_32"]


def rounded(scheme: str) -> PreTrainedModel:
    model = sparse_bert()
    calibrate(model, batches(), weights=scheme)
    return model


@pytest.mark.parametrize("config", [plain, masked])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_adapter_trains_and_its_base_stays(
    scheme: str, config: Callable[[], LoraConfig], tmp_path: Path
) -> None:
    base = rounded(scheme)
    said = logits(base)
    held = {name: value.clone() for name, value in base.state_dict().items()}
    model = get_peft_model(base, config())
    trainer = SparseTrainer(model=model, args=arguments(tmp_path, max_steps=4), train_dataset=sentences(16))
    trainer.train()
    assert all(part.abs().sum() > 0 for name, part in model.named_parameters() if "lora_B" in name)
    model.eval()
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), said)
    left = model.unload()
    assert isinstance(left.bert.encoder.layer[0].attention.self.query, FakeQuantLinear)
    now = left.state_dict()
    # A head of the task is trained beside the adapter.
    changed = [name for name, value in held.items() if not torch.equal(value, now[name])]
    assert [name for name in changed if not name.startswith("classifier.")] == []
    assert same_zeros(left, sparse_bert())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_merged_it_rounds_anew_and_says_how_far_that_is(
    scheme: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = adapted(rounded(scheme), masked())
    layer = model.get_base_model().bert.encoder.layer[0].attention.self.query
    update = layer.get_delta_weight("default").detach()
    before = layer.base_layer.weight.detach().clone()
    with caplog.at_level(logging.WARNING, logger="hf_sparse"):
        merged = merge_adapter(model)
    assert "6 merged layers round their weight again: that moves them by" in caplog.text
    weight = merged.bert.encoder.layer[0].attention.self.query.weight
    torch.testing.assert_close(weight.detach(), before + update)
    assert lost_zeros(merged) == {} and same_zeros(merged, sparse_bert())
    save_packed(merged, tmp_path)
    loaded = load_packed(tmp_path).eval()
    torch.testing.assert_close(logits(loaded), logits(merged))
    assert lost_zeros(loaded) == {}


def test_an_ordinary_adapter_is_cut_back_before_it_is_rounded() -> None:
    model = adapted(rounded("int8_per_channel"), plain())
    with pytest.raises(ValueError, match="fills"):
        merge_adapter(model)
    assert same_zeros(merge_adapter(model, prune="again"), sparse_bert())


@pytest.mark.parametrize("scheme", ["int8_per_channel", "int4_per_channel"])
@pytest.mark.parametrize("load", LOADERS)
def test_a_packed_directory_takes_an_adapter(load: Callable, scheme: str, tmp_path: Path) -> None:
    save_packed(rounded(scheme), tmp_path / "base")
    bases = [load(tmp_path / "base").eval() for _ in range(2)]
    model = adapted(bases[0], masked())
    said = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(bases[1], tmp_path / "adapter").eval()
    assert torch.equal(logits(loaded), said)
    assert same_zeros(merge_adapter(loaded), sparse_bert())


@pytest.mark.skipif(not SUPPORTED, reason="transformers before 5.23 goes on rounding what it dequantizes")
@pytest.mark.parametrize("scheme", ["int8_per_channel", "int4_per_channel"])
def test_a_directory_of_compressed_tensors_takes_an_adapter(scheme: str, tmp_path: Path) -> None:
    save_compressed(rounded(scheme), tmp_path)
    load = AutoModelForSequenceClassification.from_pretrained
    with pytest.raises(ValueError, match=r"holds torch.int8.*CompressedTensorsConfig\(dequantize=True\)"):
        adapted(load(tmp_path), masked())
    base = load(tmp_path, quantization_config=CompressedTensorsConfig(dequantize=True)).eval()
    model = adapted(base, masked())
    said = logits(model)
    merged = merge_adapter(model)
    torch.testing.assert_close(logits(merged), said, rtol=1e-4, atol=1e-4)
    assert lost_zeros(merged) == {}
