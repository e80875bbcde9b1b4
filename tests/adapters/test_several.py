"""Several adapters on one sparse base: each by itself, together, mixed, combined."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from tests.adapters.adapted import (
    TOLERANCE,
    adapted,
    fill,
    logits,
    masked,
    plain,
    same_zeros,
    sparse_bert,
    words,
)


@pytest.fixture
def model() -> PeftModel:
    """A base with masked adapters `default` and `other`, of which `default` is active."""
    model = adapted(sparse_bert(), masked(task_type=None))
    model.add_adapter("other", masked(task_type=None, r=2, target_modules=["query", "key"]))
    fill(model, "other", 7)
    return model.eval()


def updates(model: PeftModel, adapter: str) -> dict[str, torch.Tensor]:
    return {
        name: layer.get_delta_weight(adapter).detach().clone()
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight") and adapter in layer.lora_A
    }


def test_each_is_what_it_is_alone(model: PeftModel) -> None:
    alone = adapted(sparse_bert(), masked(task_type=None, r=2, target_modules=["query", "key"]), seed=9)
    theirs = {name: part for name, part in model.state_dict().items() if ".other." in name}
    named = {name.replace(".other.", ".default."): part for name, part in theirs.items()}
    alone.load_state_dict(named, strict=False)
    model.set_adapter("other")
    assert torch.equal(logits(model), logits(alone))


def test_both_at_once_are_merged_as_they_compute(model: PeftModel) -> None:
    model.base_model.set_adapter(["default", "other"])
    said = logits(model)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), said, **TOLERANCE)
    assert same_zeros(merged, sparse_bert())


def test_one_is_merged_while_another_was_before(model: PeftModel) -> None:
    model.base_model.set_adapter(["default", "other"])
    said = logits(model)
    model.merge_adapter(["other"])
    model.merge_adapter(["default"])
    torch.testing.assert_close(logits(model), said, **TOLERANCE)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), said, **TOLERANCE)


def test_rows_of_one_batch_may_go_by_different_adapters(model: PeftModel) -> None:
    with torch.no_grad():
        mixed = model(**words(), adapter_names=["__base__", "default", "other"]).logits
    expected = [logits(sparse_bert())[0]]
    for index, name in enumerate(["default", "other"], start=1):
        model.set_adapter(name)
        expected.append(logits(model)[index])
    torch.testing.assert_close(mixed, torch.stack(expected), **TOLERANCE)


@pytest.mark.parametrize("kind", ["cat", "svd"])
def test_a_weighted_combination_is_masked(model: PeftModel, kind: str) -> None:
    model.add_weighted_adapter(["default", "other"], [0.5, 2.0], "both", kind)
    ours, theirs, both = (updates(model, name) for name in ("default", "other", "both"))
    for name, update in both.items():
        zeros = model.get_submodule(name).base_layer.weight == 0
        assert not update[zeros].any()
        if kind == "cat":
            expected = 0.5 * ours.get(name, 0.0) + 2.0 * theirs.get(name, 0.0)
            torch.testing.assert_close(update, torch.as_tensor(expected), rtol=1e-4, atol=1e-5)


def test_one_that_is_not_masked_may_stand_beside(model: PeftModel) -> None:
    model.add_adapter("plain", plain(task_type=None))
    fill(model, "plain", 11)
    zeros = model.base_model.model.bert.encoder.layer[0].attention.self.query.base_layer.weight == 0
    assert updates(model, "plain")[_QUERY][zeros].any() and not updates(model, "default")[_QUERY][zeros].any()


def test_one_that_is_deleted_leaves_the_others(model: PeftModel, tmp_path: Path) -> None:
    said = logits(model)
    model.delete_adapter("other")
    assert torch.equal(logits(model), said)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(sparse_bert(), tmp_path).eval()), said)


_QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"
