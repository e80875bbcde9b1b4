"""Outputs are named for every form that a model may return."""

from collections import namedtuple
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_sparse.distillation.inputs import named

LOSS, LOGITS, OTHER = torch.tensor(1.0), torch.ones(2, 3), torch.zeros(2, 3)
Pair = namedtuple("Pair", "logits hidden")


@pytest.mark.parametrize(
    "outputs",
    [LOGITS, (LOGITS,), (LOSS, LOGITS), (LOSS, LOGITS, (OTHER, OTHER)), [LOGITS, OTHER], Pair(LOGITS, OTHER)],
    ids=["tensor", "tuple", "loss first", "states after", "list", "named"],
)
def test_the_logits_are_the_first_tensor_after_the_loss(outputs: Any) -> None:
    found = named(outputs, {}, "teacher")
    assert found.keys() == {"logits"} and found["logits"] is LOGITS


@pytest.mark.parametrize("outputs", [{"logits": LOGITS}, SequenceClassifierOutput(logits=LOGITS)])
def test_mappings_stay_what_they_are(outputs: Any) -> None:
    assert named(outputs, {}, "student") is outputs


def test_answers_have_a_start_and_an_end() -> None:
    inputs = {"start_positions": torch.ones(2), "end_positions": torch.ones(2)}
    found = named((LOSS, LOGITS, OTHER), inputs, "student")
    assert found["start_logits"] is LOGITS and found["end_logits"] is OTHER
    with pytest.raises(ValueError, match="returned Tensor instead of start_logits and end_logits"):
        named(LOGITS, inputs, "student")


@pytest.mark.parametrize(
    ("outputs", "what"), [(None, "NoneType"), ((), "tuple"), (LOSS, "Tensor"), (("text",), "str")]
)
def test_what_holds_no_logits_is_refused(outputs: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"the teacher returned {what} instead of logits"):
        named(outputs, {}, "teacher")
