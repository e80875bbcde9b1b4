"""Targets that a recipe includes or excludes by name."""

import pytest
from torch import nn
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
)

from hf_sparse.targets import LeftOut, Target, find_targets

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
BERT = BertConfig(**SIZES)
TIED = "tied to an embedding"


def test_include_chooses_among_all_linears_of_the_model() -> None:
    targets = find_targets(
        BertForSequenceClassification(BERT), include=["pooler", r"layer\.1\..*query$", "classifier"]
    )
    assert targets.names == [
        "bert.encoder.layer.1.attention.self.query.weight",
        "bert.pooler.dense.weight",
        "classifier.weight",
    ]
    assert LeftOut("bert.encoder.layer.0.output.dense", "not included") in targets.left_out


def test_include_does_not_reach_what_is_tied_to_an_embedding() -> None:
    targets = find_targets(BertForPreTraining(BERT), include=["cls"])
    assert targets.names == ["cls.predictions.transform.dense.weight", "cls.seq_relationship.weight"]
    assert LeftOut("cls.predictions.decoder", TIED) in targets.left_out


def test_exclude_takes_from_the_layer_stack() -> None:
    targets = find_targets(BertModel(BERT), exclude=["attention", "layer.1.output.dense"])
    assert targets.names == [
        "encoder.layer.0.intermediate.dense.weight",
        "encoder.layer.0.output.dense.weight",
        "encoder.layer.1.intermediate.dense.weight",
    ]
    assert (
        LeftOut("encoder.layer.0.attention.self.query", "excluded (matches at 'attention')")
        in targets.left_out
    )


def test_exclude_wins_over_include() -> None:
    targets = find_targets(BertModel(BERT), include=["pooler", "query"], exclude=[r"layer\.0"])
    assert targets.names == ["encoder.layer.1.attention.self.query.weight", "pooler.dense.weight"]


def test_each_expression_keeps_its_own_flags_and_groups() -> None:
    expressions = ["(?i)(POOLER)", r"la(y)er\.1\..*\.quer\1$"]
    targets = find_targets(BertModel(BERT), include=expressions)
    assert targets.names == ["encoder.layer.1.attention.self.query.weight", "pooler.dense.weight"]


@pytest.mark.parametrize("role", ["include", "exclude"])
def test_an_expression_that_matches_nothing_is_refused(role: str) -> None:
    with pytest.raises(ValueError, match=rf"{role}: 'qury' matches no Linear .* named like 'encoder.layer.0"):
        find_targets(BertModel(BERT), **{role: ["query", "qury"]})


@pytest.mark.parametrize("role", ["include", "exclude"])
def test_a_malformed_expression_is_refused(role: str) -> None:
    with pytest.raises(ValueError, match=rf"{role}: '\(query' is not a regular expression: missing"):
        find_targets(BertModel(BERT), **{role: ["(query"]})


def test_a_model_with_everything_excluded_has_nothing_to_prune() -> None:
    with pytest.raises(ValueError, match=r"BertModel has nothing to prune; .*(?s:.*)excluded \(matches at"):
        find_targets(BertModel(BERT), exclude=["encoder"])


def test_linears_outside_a_layer_stack_are_found_only_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3))
    with pytest.raises(ValueError, match="Sequential has nothing to prune; name Linears with include"):
        find_targets(model)
    assert find_targets(model, include=["^2$"]).found == (Target("2.weight", model[2]),)
