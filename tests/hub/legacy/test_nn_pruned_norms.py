"""BERT whose norms do not normalize becomes the MobileBERT that it is."""

from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    MobileBertForSequenceClassification,
)

from hf_sparse.hub import load_legacy
from tests.hub.legacy.test_nn_pruned_removed import shrunk
from tests.hub.legacy.written import SIZES, assert_gives, config_of, logits, tensors_of, wide, write

KINDS = [
    BertModel,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
]
NO_NORM = {"layer_norm_type": "no_norm"}


def unnormalized(**config: object) -> tuple[dict, dict]:
    """Norms that divide by about what states grow to, as training leaves them."""
    model = wide(**config)
    tensors = tensors_of(model)
    for name in tensors:
        if name.endswith("LayerNorm.weight"):
            tensors[name] = torch.linspace(0.2, 0.6, 32)
        elif name.endswith("LayerNorm.bias"):
            tensors[name] = torch.linspace(-0.2, 0.3, 32)
    return tensors, config_of(model) | NO_NORM


@pytest.mark.parametrize(("name", "activation"), [("relu", torch.relu), ("gelu", torch.nn.functional.gelu)])
def test_logits_are_those_without_normalization(tmp_path: Path, name: str, activation: object) -> None:
    written, config = unnormalized(hidden_act=name)
    rescued = load_legacy(str(write(tmp_path, written, config)))
    assert type(rescued.model) is MobileBertForSequenceClassification and rescued.layouts == ("no_norm",)
    assert rescued.notes == (
        "5 norms that only multiply and add: BertForSequenceClassification became "
        "MobileBertForSequenceClassification",
        "no pattern of zeros to lock",
    )
    assert_gives(rescued.model, logits(written, activation=activation, normalized=False))
    # Stock BERT loads the same keys and says something else.
    assert (
        logits(written, activation=activation) - rescued.model(torch.zeros(1, 1).long()).logits
    ).abs().max() > 0.1


def test_it_is_saved_and_loaded_as_mobilebert(tmp_path: Path) -> None:
    written, config = unnormalized()
    for name in list(written):
        if name.endswith("intermediate.dense.weight"):
            written[name][:32] = 0
    rescued = load_legacy(str(write(tmp_path / "old", written, config)))
    assert rescued.save(tmp_path / "new") < 1e-6
    stock = MobileBertForSequenceClassification.from_pretrained(tmp_path / "new")
    assert_gives(stock, logits(written, normalized=False))
    assert stock.config.hf_sparse["layers"].keys() == {
        weight.name.removeprefix("mobilebert.") for weight in rescued.weights
    }
    # The transformation of embeddings is of no use there, and not taken for pruned.
    assert not any("embedding" in weight.name for weight in rescued.weights)


def test_removed_heads_and_missing_norms_come_together(tmp_path: Path) -> None:
    written, config = shrunk({0: [1], 1: [0, 2]}, {0: 20, 1: 40}, hidden_act="relu")
    for name in written:
        if name.endswith("LayerNorm.weight"):
            written[name] = written[name] * 0.7
    rescued = load_legacy(str(write(tmp_path, written, config | NO_NORM)))
    assert rescued.layouts == ("removed", "no_norm")
    assert_gives(rescued.model, logits(written, activation=torch.relu, normalized=False))


@pytest.mark.parametrize("kind", KINDS)
def test_other_heads_have_twins(tmp_path: Path, kind: type) -> None:
    torch.manual_seed(0)
    model = kind(BertConfig(**SIZES))
    rescued = load_legacy(str(write(tmp_path, tensors_of(model), config_of(model) | NO_NORM)))
    assert type(rescued.model).__name__ == f"Mobile{kind.__name__}" and rescued.difference < 1e-6


def test_a_language_head_has_none(tmp_path: Path) -> None:
    model = BertForMaskedLM(BertConfig(**SIZES))
    with pytest.raises(ValueError, match="BertForMaskedLM without normalization cannot be expressed"):
        load_legacy(str(write(tmp_path, tensors_of(model), config_of(model) | NO_NORM)))


@pytest.mark.parametrize("change", [{"layer_norm_type": "batch_norm"}, {"is_decoder": True}])
def test_other_norms_and_decoders_are_refused(tmp_path: Path, change: dict) -> None:
    written, config = unnormalized()
    with pytest.raises(
        ValueError, match="cannot be expressed in transformers; only no_norm of BERT encoders can"
    ):
        load_legacy(str(write(tmp_path, written, config | change)))
