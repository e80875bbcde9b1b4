"""Models receive the columns that they take; missing ones are reported before the first step."""

import logging
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from hf_sparse.distillation.inputs import Taken, as_mapping, check_given, decoder_inputs, teacher_inputs
from tests.support.pairs import encoder_decoder, make

BATCH = {name: torch.ones(2, 3, dtype=torch.long) for name in ("input_ids", "attention_mask", "labels")}
ADAPTER = LoraConfig(target_modules=["query"], task_type="SEQ_CLS")


class Strange(nn.Module):
    """A model outside transformers with a required argument and without other keywords."""

    def forward(self, input_ids: Tensor, boxes: Tensor, weight: float = 1.0) -> Tensor:
        return input_ids + boxes * weight


def test_the_teacher_sees_no_labels() -> None:
    labels = ("labels", "shift_labels", "next_sentence_label", "sentence_order_label")
    hidden = (*labels, "start_positions", "end_positions")
    seen = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids", "position_ids"), 1)
    assert teacher_inputs({**seen, **dict.fromkeys(hidden, 1)}) == seen


def test_a_forward_pass_takes_what_it_names_and_others_where_it_says_so() -> None:
    taken = Taken.by(Strange())
    assert (taken.names, taken.required, taken.others) == (
        {"input_ids", "boxes", "weight"},
        ("input_ids", "boxes"),
        False,
    )
    assert taken.of({"boxes": 1, "labels": 2}) == {"boxes": 1}
    assert Taken.by(make("bert")).of(BATCH) == BATCH


@pytest.mark.parametrize(
    "around",
    [lambda model: get_peft_model(model, ADAPTER), torch.compile, nn.DataParallel],
    ids=["adapter", "compiled", "parallel"],
)
def test_what_is_around_a_model_takes_what_it_takes(around: Any) -> None:
    assert Taken.by(around(make("bert"))) == Taken.by(make("bert"))


def test_a_model_whose_forward_was_replaced_still_takes_what_its_class_names() -> None:
    model = make("bert")
    plain, forward = Taken.by(model), model.forward
    model.forward = lambda **inputs: forward(**inputs)
    assert Taken.by(model).names == plain.names


def test_a_decoder_starts_from_the_labels_where_nothing_else_is_given() -> None:
    student, labels = encoder_decoder("bart", 0, (1, 1)), torch.tensor([[5, 6, -100]])
    assert decoder_inputs(student, {"labels": labels}) == {"labels": labels}
    for given in ("decoder_input_ids", "decoder_inputs_embeds"):
        assert decoder_inputs(student, {"labels": labels, given: labels}) == {}
    assert decoder_inputs(student, {"input_ids": labels}) == {}
    assert decoder_inputs(make("bert"), {"labels": labels}) == {}


def test_a_teacher_that_needs_what_a_batch_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="the teacher Strange needs boxes, and a batch has attention_mask, "):
        check_given(make("bert"), Strange(), BATCH, {"input_ids": BATCH["input_ids"]})


def test_a_teacher_that_takes_no_column_is_refused() -> None:
    inputs = {"sentence_0_input_ids": BATCH["input_ids"]}
    with pytest.raises(ValueError, match="takes none of the columns of a batch, sentence_0_input_ids"):
        check_given(make("bert"), make("bert", 1), inputs, inputs)


def test_a_decoder_without_a_start_is_refused() -> None:
    class Around(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return input_ids

    student, teacher = encoder_decoder("bart", 0, (1, 1)), Around()
    given = Taken.by(teacher).of(BATCH | decoder_inputs(student, BATCH))
    with pytest.raises(ValueError, match="the decoder of the teacher Around starts from labels, which"):
        check_given(student, teacher, BATCH, given)


@pytest.mark.parametrize(
    ("student", "teacher", "more", "warned"),
    [
        ("distilbert", "bert", (), True),
        ("distilbert", "bert", ("token_type_ids",), False),
        ("bert", "bert", (), False),
        ("bert", "distilbert", (), False),
    ],
)
def test_a_teacher_of_pairs_without_their_types_is_warned_of(
    student: str, teacher: str, more: tuple[str, ...], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    given = teacher_inputs(BATCH) | dict.fromkeys(more, BATCH["input_ids"])
    with caplog.at_level(logging.WARNING, logger="hf_sparse"):
        check_given(make(student), make(teacher), given, given)
    assert ("token_type_ids" in caplog.text) == warned


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_a_model_that_is_set_to_tuples_answers_by_names_when_it_is_asked_to(kind: str) -> None:
    assert as_mapping(make(kind)) == {}
    model = make(kind, return_dict=False)
    assert as_mapping(model) == {"return_dict": True}
    assert "logits" in model(input_ids=BATCH["input_ids"], **as_mapping(model))
