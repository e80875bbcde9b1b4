"""Adapters are merged into a sparse base with all its zeros, or not at all."""

import logging
from pathlib import Path

import pytest
import torch
from peft import LoHaConfig, PromptTuningConfig, get_peft_model
from transformers import BertForSequenceClassification

from hf_sparse import merge_adapter, save_compressed, save_packed
from hf_sparse.checkpoint.sparsity_record import lost_zeros, read_sparsity_record
from hf_sparse.runtime import fuse
from tests.adapters.adapted import (
    TOLERANCE,
    adapted,
    fill,
    logits,
    masked,
    plain,
    same_zeros,
    sparse_bert,
)
from tests.support.tiny import bert

PARTS = {
    "plain": plain,
    "with biases": lambda: plain(lora_bias=True),
    "of directions": lambda: plain(use_dora=True),
}


@pytest.mark.parametrize("config", PARTS.values(), ids=PARTS)
def test_an_ordinary_adapter_is_refused_and_the_model_is_as_it_was(config: object) -> None:
    model = adapted(sparse_bert(), config())
    said = logits(model)
    held = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"fills [\d,]+ of [\d,]+ zeros in 6 layers, .*again"):
        merge_adapter(model)
    assert torch.equal(logits(model), said)
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("config", PARTS.values(), ids=PARTS)
def test_pruned_again_it_has_the_zeros_of_its_base(
    config: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="hf_sparse"):
        merged = merge_adapter(adapted(sparse_bert(), config()), prune="again")
    assert same_zeros(merged, sparse_bert()) and lost_zeros(merged) == {}
    assert "set to zero again, which cuts off" in caplog.text
    merged.save_pretrained(tmp_path)
    loaded = BertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded), logits(merged)) and lost_zeros(loaded) == {}
    assert read_sparsity_record(loaded).layers


def test_how_much_was_cut_off_is_a_share_of_the_update(caplog: pytest.LogCaptureFixture) -> None:
    base, model = sparse_bert(), adapted(sparse_bert(), plain())
    layers = dict(model.get_base_model().named_modules())
    cut = whole = 0.0
    for name, module in base.named_modules():
        if hasattr(layers.get(name), "get_delta_weight"):
            update = layers[name].get_delta_weight("default").detach().square()
            whole, cut = whole + update.sum(), cut + update[module.weight == 0].sum()
    with caplog.at_level(logging.WARNING, logger="hf_sparse"):
        merge_adapter(model, prune="again")
    assert f"cuts off {100 * cut / whole:.1f} % of its update" in caplog.text


def test_a_masked_adapter_fills_nothing(caplog: pytest.LogCaptureFixture) -> None:
    model = adapted(sparse_bert(), masked())
    said = logits(model)
    merged = merge_adapter(model)
    torch.testing.assert_close(logits(merged), said, **TOLERANCE)
    assert same_zeros(merged, sparse_bert()) and caplog.text == ""


def test_zeros_without_a_record_stay_too() -> None:
    base = sparse_bert()
    del base.config.hf_sparse
    with pytest.raises(ValueError, match="fills"):
        merge_adapter(adapted(base, plain()))


def test_a_dense_base_is_merged_as_by_peft(caplog: pytest.LogCaptureFixture) -> None:
    base = bert()
    with torch.no_grad():
        # By accident.
        base.bert.encoder.layer[0].attention.self.query.weight[0, 0] = 0.0
    model = adapted(base, plain())
    said = logits(model)
    merged = merge_adapter(model)
    torch.testing.assert_close(logits(merged), said, **TOLERANCE)
    assert merged.bert.encoder.layer[0].attention.self.query.weight[0, 0] != 0 and caplog.text == ""


def test_only_the_adapters_that_are_named_are_merged() -> None:
    model = adapted(sparse_bert(), masked())
    said = logits(model)
    model.add_adapter("other", masked())
    fill(model, "other", 4)
    torch.testing.assert_close(logits(merge_adapter(model, adapter_names=["default"])), said, **TOLERANCE)


def test_other_kinds_of_adapters_are_measured_alike() -> None:
    model = get_peft_model(sparse_bert(), LoHaConfig(r=2, target_modules=["query"], init_weights=False))
    with pytest.raises(ValueError, match="in 2 layers"):
        merge_adapter(model)
    assert same_zeros(merge_adapter(model, prune="again"), sparse_bert())


def test_what_cannot_be_merged_is_refused() -> None:
    with pytest.raises(ValueError, match="prune is one of refuse, again, got 'never'"):
        merge_adapter(adapted(sparse_bert(), masked()), prune="never")
    with pytest.raises(ValueError, match="BertForSequenceClassification lacks adapters that can be merged"):
        merge_adapter(sparse_bert())
    prompt = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="lacks adapters that can be merged"):
        merge_adapter(get_peft_model(sparse_bert(), prompt))
    injected = sparse_bert()
    injected.add_adapter(masked(task_type=None))
    with pytest.raises(ValueError, match="merged in place; save them by"):
        merge_adapter(injected)
    merged = adapted(sparse_bert(), masked())
    merged.merge_adapter()
    with pytest.raises(ValueError, match="default is merged already.*unmerge_adapter"):
        merge_adapter(merged)


def test_a_base_that_lost_its_zeros_is_refused() -> None:
    model = adapted(sparse_bert(), masked())
    with torch.no_grad():
        model.base_model.model.bert.encoder.layer[0].attention.self.query.base_layer.weight.fill_(1.0)
    with pytest.raises(ValueError, match="fewer zeros than .* records.*load the base as it was saved"):
        merge_adapter(model)


def test_what_writes_or_replaces_a_whole_model_asks_for_a_merged_one(tmp_path: Path) -> None:
    model = adapted(sparse_bert(), masked())
    for write in (save_packed, save_compressed):
        with pytest.raises(ValueError, match="carries an adapter beside its weights; merge it"):
            write(model, tmp_path / "out")
    with pytest.raises(ValueError, match="carries an adapter beside its weights; merge it"):
        fuse(model)
    assert not (tmp_path / "out").exists()
