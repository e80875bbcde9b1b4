"""Relative errors of hidden states, over all tokens of all texts."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from hf_sparse.distillation.distance import layer_distances, load_encoders
from tests.data.tiny_tokenizers import bert as tokenizer
from tests.support.pairs import batch, encoder_decoder, make


def test_a_copy_is_at_distance_0_and_zeros_are_at_1() -> None:
    student, teacher = make("bert", 1), make("bert", 1)
    assert layer_distances(student, teacher, [batch("bert")]) == {1: 0.0, 2: 0.0}
    with torch.no_grad():
        norm = student.bert.encoder.layer[1].output.LayerNorm
        norm.weight.zero_()
        norm.bias.zero_()
    assert layer_distances(student, teacher, [batch("bert")]) == {1: 0.0, 2: 1.0}


def test_padding_counts_nothing_and_batches_do_not_matter() -> None:
    student, teacher, whole = make("bert"), make("bert", 1), batch("bert")
    pieces = [{name: value[part] for name, value in whole.items()} for part in (slice(0, 2), slice(2, 6))]
    single = [
        {name: value[i : i + 1, : whole["attention_mask"][i].sum()] for name, value in whole.items()}
        for i in range(6)
    ]
    expected = layer_distances(student, teacher, [whole])
    for others in (pieces, single):
        assert layer_distances(student, teacher, others) == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        keep = whole["attention_mask"].bool()
        ours, theirs = (
            model(**whole, output_hidden_states=True).hidden_states[2][keep] for model in (student, teacher)
        )
    assert expected[2] == pytest.approx(
        float((ours - theirs).square().sum() / theirs.square().sum()), rel=1e-5
    )


def test_a_shallower_student_is_compared_with_the_layers_it_learns_from() -> None:
    teacher = make("bert", 1, num_hidden_layers=4)
    student = make("bert", 1)
    student.bert.load_state_dict(teacher.bert.state_dict(), strict=False)
    assert list(layer_distances(student, teacher, [batch("bert")])) == [1, 2]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="states of width 32 and 48 cannot be compared"):
        layer_distances(make("bert"), make("bert", hidden_size=48), [batch("bert")])
    with pytest.raises(ValueError, match="the batches hold no tokens to measure distances on"):
        layer_distances(make("bert"), make("bert"), [])
    with pytest.raises(ValueError, match="an encoder-decoder has two stacks"):
        layer_distances(make("bert"), encoder_decoder("t5", 0, (2, 2)), [batch("bert")])


def test_inputs_are_those_that_both_take(tmp_path: Path) -> None:
    sizes = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    BertModel(BertConfig(**sizes, intermediate_size=64)).save_pretrained(tmp_path / "bert")
    DistilBertModel(DistilBertConfig(**sizes, hidden_dim=64)).save_pretrained(tmp_path / "distilbert")
    student, teacher, accepted = load_encoders(str(tmp_path / "distilbert"), str(tmp_path / "bert"))
    assert isinstance(teacher, BertModel) and isinstance(student, DistilBertModel)
    assert {"input_ids", "attention_mask"} <= accepted and "token_type_ids" not in accepted
