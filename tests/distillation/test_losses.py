"""The comparison of each kind of head equals one worked out by hand; others are refused."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.electra.modeling_electra import ElectraForPreTrainingOutput

from hf_sparse.distillation.batch_counts import count
from hf_sparse.distillation.losses import LossTerm, logits_terms, mean_loss, task_terms


def logits(*rows: list[float]) -> dict[str, Tensor]:
    return {"logits": torch.tensor(rows)}


def only(terms: list[LossTerm]) -> tuple[float, str]:
    (term,) = terms
    return term.total.item(), term.unit


def test_class_logits_are_summed_over_the_batch() -> None:
    student, teacher = logits([0.0, 0.0], [1.0, 1.0]), logits([2.0, 0.0], [0.0, 2.0])
    single = 4 * functional.kl_div(
        torch.full((2,), 0.5).log(),
        torch.tensor([1.0, 0.0]).log_softmax(-1),
        log_target=True,
        reduction="sum",
    )
    total, unit = only(logits_terms(student, teacher, {}, 2.0, "single_label_classification"))
    assert total == pytest.approx(2 * single.item(), rel=1e-5)
    assert unit == "sequences"


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_regression_is_a_squared_error_without_temperature(temperature: float) -> None:
    one = logits_terms(logits([1.0], [2.0]), logits([0.0], [5.0]), {}, temperature, None)
    assert only(one) == (10.0, "sequences")
    two = logits_terms(logits([1.0, 2.0]), logits([0.0, 5.0]), {}, temperature, "regression")
    assert only(two) == (5.0, "sequences")


@pytest.mark.parametrize(
    ("inputs", "problem_type"), [({}, "multi_label_classification"), ({"labels": torch.zeros(1, 2)}, None)]
)
def test_several_labels_are_each_yes_or_no(inputs: dict[str, Tensor], problem_type: str | None) -> None:
    p, q = torch.tensor([2.0, -1.0]).sigmoid(), torch.tensor([0.5, 0.5])
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    total, unit = only(logits_terms(logits([0.0, 0.0]), logits([2.0, -1.0]), inputs, 1.0, problem_type))
    assert total == pytest.approx(expected.item(), rel=1e-5)
    assert unit == "sequences"


def test_answers_weigh_start_and_end_by_half() -> None:
    flat, sharp = torch.zeros(1, 2), torch.tensor([[3.0, 0.0]])
    expected, _ = only(logits_terms({"logits": flat}, {"logits": sharp}, {}, 2.0, None))
    start_only = logits_terms(
        {"start_logits": flat, "end_logits": flat}, {"start_logits": sharp, "end_logits": flat}, {}, 2.0, None
    )
    assert only(start_only) == (pytest.approx(expected / 2), "sequences")


@pytest.mark.parametrize("head", ["seq_relationship_logits", "sop_logits"])
def test_pre_training_heads_give_a_term_each(head: str) -> None:
    student = {"prediction_logits": torch.zeros(1, 3, 2), head: torch.zeros(1, 2)}
    teacher = {"prediction_logits": torch.tensor([[[3.0, 0.0]] * 3]), head: torch.tensor([[3.0, 0.0]])}
    tokens, sentences = logits_terms(
        student, teacher, {"attention_mask": torch.tensor([[1, 1, 0]])}, 2.0, None
    )
    assert (tokens.unit, sentences.unit) == ("tokens", "sequences")
    assert tokens.total.item() == pytest.approx(2 * sentences.total.item())


@pytest.mark.parametrize("hidden", [123.0, float("nan")])
def test_replaced_tokens_are_each_yes_or_no_without_padding(hidden: float) -> None:
    student = ElectraForPreTrainingOutput(logits=torch.tensor([[0.0, 0.0, hidden]]))
    teacher = ElectraForPreTrainingOutput(logits=torch.tensor([[2.0, -1.0, 0.0]]))
    p, q = torch.tensor([2.0, -1.0]).sigmoid(), torch.tensor([0.5, 0.5])
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    total, unit = only(
        logits_terms(student, teacher, {"attention_mask": torch.tensor([[1, 1, 0]])}, 1.0, None)
    )
    assert total == pytest.approx(expected.item(), rel=1e-5)
    assert unit == "tokens"


def test_every_token_counts_where_there_is_no_mask() -> None:
    student, teacher = torch.zeros(2, 3, 4), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    everywhere = {"attention_mask": torch.ones(2, 3)}
    texts = {"input_ids": torch.ones(2, 3)}
    unmasked = only(logits_terms({"logits": student}, {"logits": teacher}, texts, 2.0, None))
    assert unmasked == only(logits_terms({"logits": student}, {"logits": teacher}, everywhere, 2.0, None))
    assert unmasked[1] == "tokens"


def test_a_loss_that_diverged_stays_visible() -> None:
    inputs = {"input_ids": torch.ones(2, 3, dtype=torch.long), "labels": torch.tensor([0, 1])}
    (term,) = task_terms(torch.tensor(float("nan")), {}, inputs, count(inputs, False))
    assert term.total.isnan()


def test_the_mean_loss_is_over_labels_alone() -> None:
    given = torch.tensor([[0.0, 0.0], [torch.nan, 0.0], [1.0, 0.0]])
    expected = (math.log(2) + math.log(1 + math.e)) / 2
    assert mean_loss(given, torch.tensor([0, -100, 1])).item() == pytest.approx(expected)
    assert mean_loss(given, torch.full((3,), -100)) == 0


def test_logits_of_other_shapes_are_refused_with_both() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\), the teacher's \(1, 3\); take a teacher with the same"):
        logits_terms(logits([0.0, 1.0]), logits([0.0, 1.0, 2.0]), {}, 2.0, None)


def test_outputs_without_the_same_logits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs logits .* the teacher returned \['last_hidden_state'\]"):
        logits_terms(logits([0.0, 1.0]), {"last_hidden_state": torch.zeros(1)}, {}, 2.0, None)
    with pytest.raises(ValueError, match=r"the student returned \[\]"):
        logits_terms({}, {}, {}, 2.0, None)


def test_logits_of_unknown_shape_are_refused() -> None:
    images = {"logits": torch.zeros(1, 2, 3, 3)}
    with pytest.raises(ValueError, match=r"got shape \(1, 2, 3, 3\)"):
        logits_terms(images, images, {}, 2.0, None)


def test_a_mask_that_does_not_fit_is_refused() -> None:
    tokens = {"logits": torch.zeros(2, 3, 4)}
    with pytest.raises(ValueError, match=r"attention_mask of shape \(2, 5\)"):
        logits_terms(tokens, tokens, {"attention_mask": torch.ones(2, 5)}, 2.0, None)


def test_token_logits_of_an_encoder_decoder_count_where_there_is_a_label() -> None:
    shape, encoder = (2, 3, 4), {"encoder_last_hidden_state": torch.zeros(2, 5, 8)}
    teacher = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    inputs = {"attention_mask": torch.ones(2, 5), "labels": torch.tensor([[7, 8, -100], [0, -100, -100]])}
    keep = inputs["labels"] != -100
    expected = functional.kl_div(
        torch.full((3, 4), 0.25).log(), teacher[keep].log_softmax(-1), log_target=True, reduction="sum"
    )
    student = {"logits": torch.zeros(shape), **encoder}
    total, unit = only(logits_terms(student, {"logits": teacher, **encoder}, inputs, 1.0, None))
    assert total == pytest.approx(expected.item(), rel=1e-5)
    assert unit == "labels"


@pytest.mark.parametrize(
    ("labels", "found"), [({}, "none"), ({"labels": torch.zeros(2, 4)}, r"shape \(2, 4\)")]
)
def test_a_decoder_without_labels_for_its_logits_is_refused(labels: dict[str, Tensor], found: str) -> None:
    tokens = {"logits": torch.zeros(2, 3, 4), "encoder_last_hidden_state": torch.zeros(2, 5, 8)}
    with pytest.raises(ValueError, match=rf"labels of shape \(2, 3\) are not -100, got {found}; pass labels"):
        logits_terms(tokens, tokens, labels, 2.0, None)


def test_positions_of_images_are_averaged_for_each() -> None:
    student, teacher = torch.zeros(2, 5, 4), torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    texts = {"input_ids": torch.ones(2, 5)}
    summed, _ = only(logits_terms({"logits": student}, {"logits": teacher}, texts, 2.0, None))
    images = {"pixel_values": torch.zeros(2, 3, 8, 8)}
    total, unit = only(logits_terms({"logits": student}, {"logits": teacher}, images, 2.0, None))
    assert (total, unit) == (pytest.approx(summed / 5), "sequences")


@pytest.mark.parametrize(("total", "unit"), [(torch.zeros(2), "tokens"), (torch.zeros(()), "words")])
def test_terms_check_themselves(total: Tensor, unit: str) -> None:
    with pytest.raises(ValueError, match="scalar counted in one of"):
        LossTerm(total, unit)
