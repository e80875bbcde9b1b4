"""A model is whole, or there is none: nothing in it is random."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertForQuestionAnswering, BertModel

from hf_sparse.hub import load_legacy
from tests.hub.legacy.written import (
    PRUNED,
    SIZES,
    assert_gives,
    config_of,
    keep,
    logits,
    tensors_of,
    wide,
    write,
)


def pruned(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Zeros in plain weights, as oBERT saved them."""
    tensors = tensors_of(model)
    for name in PRUNED:
        name = name if name in tensors else name.removeprefix("bert.")
        tensors[name] *= keep(tensors[name].shape, 0.9)
    return tensors


def test_plain_zeros_need_no_layout(tmp_path: Path) -> None:
    model = wide()
    tensors = pruned(model)
    rescued = load_legacy(str(write(tmp_path, tensors, config_of(model))))
    assert rescued.layouts == () and rescued.notes == ()
    # Nothing was written otherwise, so equal logits would say nothing.
    assert rescued.difference is None and rescued.rounding is None
    assert rescued.pattern == "unstructured" and abs(rescued.sparsity - 0.9) < 1e-3
    assert_gives(rescued.model, logits(tensors))


def test_gamma_and_beta_are_weight_and_bias(tmp_path: Path) -> None:
    model = wide()
    tensors = pruned(model)
    for name in tensors:
        if name.endswith("LayerNorm.weight"):
            tensors[name] = torch.linspace(0.5, 1.5, 32)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    written = {
        name.replace(*next(((new, was) for new, was in old.items() if new in name), ("", ""))): value
        for name, value in tensors.items()
    }
    assert "bert.embeddings.LayerNorm.gamma" in written
    rescued = load_legacy(str(write(tmp_path, written, config_of(model))))
    assert_gives(rescued.model, logits(tensors))


def test_buffers_of_older_releases_are_known(tmp_path: Path) -> None:
    model = wide()
    written = pruned(model) | {"bert.embeddings.position_ids": torch.arange(512)[None]}
    assert load_legacy(str(write(tmp_path, written, config_of(model)))).sparsity > 0.89


def test_pretraining_heads_are_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BertForPreTraining(BertConfig(**SIZES))
    written = pruned(model)
    # Tied, and not saved by releases of its time.
    del written["cls.predictions.decoder.weight"], written["cls.predictions.decoder.bias"]
    rescued = load_legacy(str(write(tmp_path, written, config_of(model))))
    assert type(rescued.model) is BertForPreTraining
    assert torch.equal(rescued.model.cls.seq_relationship.weight, model.cls.seq_relationship.weight)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_a_base_model_has_its_prefix_or_not(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SIZES))
    written = {f"{prefix}{name}": value for name, value in pruned(model).items()}
    name = f"{prefix}encoder.layer.0.output.dense.weight"
    weight = written.pop(name)
    written |= {f"{name}_original": weight, f"{name}_mask": (weight != 0).float()}
    rescued = load_legacy(str(write(tmp_path, written, config_of(model))))
    assert type(rescued.model) is BertModel and rescued.difference < 1e-6


def test_a_pooler_without_a_use_is_left_out_with_a_note(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BertForQuestionAnswering(BertConfig(**SIZES))
    written = pruned(model) | {
        "bert.pooler.dense.weight": torch.ones(32, 32),
        "bert.pooler.dense.bias": torch.ones(32),
    }
    rescued = load_legacy(str(write(tmp_path, written, config_of(model))))
    assert rescued.notes == ("a pooler left out, which BertForQuestionAnswering lacks",)


@pytest.mark.parametrize("endings", [("orig", "mask"), ("original", "mask")])
def test_so_is_a_masked_one(tmp_path: Path, endings: tuple[str, str]) -> None:
    torch.manual_seed(0)
    model = BertForQuestionAnswering(BertConfig(**SIZES))
    written = pruned(model) | {"bert.pooler.dense.bias": torch.ones(32)}
    written |= {f"bert.pooler.dense.weight_{ending}": torch.ones(32, 32) for ending in endings}
    rescued = load_legacy(str(write(tmp_path, written, config_of(model))))
    assert rescued.notes[1:] == ("a pooler left out, which BertForQuestionAnswering lacks",)
    # All that was written otherwise is gone.
    assert rescued.difference is None


NAME = "bert.encoder.layer.0.output.dense.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NAME), f"the checkpoint lacks {NAME}|the matrix {NAME}"),
        (
            lambda tensors: tensors.pop("classifier.bias"),
            "the checkpoint lacks classifier.bias, which would be random in a BertFor",
        ),
        (
            lambda tensors: tensors.update(extra=torch.ones(1)),
            "extra is in no layout known and in no BertForSequenceClassification",
        ),
        (
            lambda tensors: tensors.update({"classifier.weight": torch.ones(5, 32)}),
            "classifier.weight has another shape than in a BertFor",
        ),
    ],
)
def test_what_is_missing_left_over_or_of_another_shape_is_refused(
    tmp_path: Path, change: object, message: str
) -> None:
    model = wide()
    tensors = pruned(model)
    change(tensors)
    with pytest.raises(ValueError, match=message):
        load_legacy(str(write(tmp_path, tensors, config_of(model))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MaskedBertForSequenceClassification"]}, "which transformers does not have"),
        ({"architectures": None}, "names None, which transformers does not have"),
        ({"architectures": ["BertConfig"]}, "names BertConfig, which transformers does not have"),
        ({"model_type": "masked_bert"}, "is of no model that transformers knows"),
        ({"hidden_size": "wide"}, "is of no model that transformers knows"),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            "quantized by gptq, which this command does not read",
        ),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "quantized by compressed-tensors"),
    ],
)
def test_a_configuration_of_anything_else_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    model = wide()
    with pytest.raises(ValueError, match=message):
        load_legacy(str(write(tmp_path, pruned(model), config_of(model) | change)))
