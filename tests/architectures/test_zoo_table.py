"""The table of docs/architectures.md is what the tested models give."""

import pytest

from tests.support.zoo import ARCHITECTURES, architecture
from tests.support.zoo_table import PAGE, fill, kinds, row, table


def test_the_page_holds_the_table_of_the_tested_architectures() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert fill(page) == page


def test_the_table_replaces_what_stood_in_its_place() -> None:
    page = fill("Before.\n<!-- architectures -->\nold\n<!-- /architectures -->\nAfter.\n")
    assert page == f"Before.\n<!-- architectures -->\n{table()}<!-- /architectures -->\nAfter.\n"
    assert len(table().splitlines()) == 2 + len(ARCHITECTURES)


def test_a_page_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="the page lacks a place for the table; add <!-- architectures -->"):
        fill("no place")


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        (
            "GPT-2",
            [
                "`GPT2LMHeadModel`",
                "8 in 2 layers: attn (c_attn, c_proj), mlp (c_fc, c_proj)",
                "tied to an embedding: lm_head",
                "Conv1D",
            ],
        ),
        (
            "ALBERT",
            [
                "`AlbertForSequenceClassification`",
                "6 in 1 layer: attention (query, key, value, dense), ffn, ffn_output",
                "outside the layer stack: encoder.embedding_hidden_mapping_in, pooler; head: classifier",
                "Linear",
            ],
        ),
        (
            "wav2vec 2.0",
            [
                "`Wav2Vec2ForSequenceClassification`",
                "12 in 2 layers: attention (k_proj, v_proj, q_proj, out_proj), "
                "feed_forward (intermediate_dense, output_dense)",
                "outside the layer stack: feature_projection.projection; head: projector, classifier",
                "Linear",
            ],
        ),
        (
            "GPT-OSS",
            [
                "`GptOssForCausalLM`",
                "24 in 2 layers: self_attn (q_proj, k_proj, v_proj, o_proj), "
                "mlp.experts (gate_up_proj, down_proj)",
                "head: lm_head",
                "Linear, transposed experts",
            ],
        ),
    ],
)
def test_a_row_says_what_is_pruned_and_what_is_not(name: str, cells: list[str]) -> None:
    assert row(architecture(name)) == [name, *cells]


def test_matrices_of_one_module_are_named_together() -> None:
    names = ["layer.0.attention.query.weight", "layer.0.attention.key.weight", "layer.1.fc.weight"]
    assert kinds(names) == "attention (query, key), fc"
    assert kinds(["mlp.0.experts.up[0]", "mlp.0.experts.up[1]"]) == "experts.up"
