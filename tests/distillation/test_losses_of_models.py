"""With real models, loss terms do not depend on how a batch is split, nor on padding."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AlbertConfig,
    AlbertForPreTraining,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    ElectraConfig,
    ElectraForPreTraining,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from hf_sparse.distillation.batch_counts import Counts, count
from hf_sparse.distillation.inputs import teacher_inputs
from hf_sparse.distillation.losses import LossTerm, logits_terms, task_terms
from hf_sparse.distillation.teacher import freeze

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "attention_dropout": 0.0,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 16}
BATCH, LENGTH = 6, 8


def bert(architecture: type[PreTrainedModel], seed: int, **config: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    configs = {AlbertForPreTraining: AlbertConfig, ElectraForPreTraining: ElectraConfig}
    return architecture(
        configs.get(architecture, BertConfig)(**SIZES, **NO_DROPOUT, initializer_range=0.3, **config)
    )


def llama(seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES, initializer_range=0.3, pad_token_id=0))


def texts() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 40, (BATCH, LENGTH), generator=generator)
    lengths = torch.tensor([8, 3, 5, 8, 2, 6])
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def token_labels() -> Tensor:
    """Labels: some in the first rows, none in row 3, many in the last."""
    inputs = texts()
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:3, ::2] = -100
    labels[3] = -100
    return labels


CASES: dict[str, tuple[Callable[[int], PreTrainedModel], dict[str, Tensor], bool]] = {
    "classes": (
        lambda seed: bert(BertForSequenceClassification, seed, num_labels=3),
        {"labels": torch.tensor([0, 1, 2, 0, 1, 2])},
        False,
    ),
    "regression": (
        lambda seed: bert(BertForSequenceClassification, seed, num_labels=1),
        {"labels": torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])},
        False,
    ),
    "several labels": (
        lambda seed: bert(BertForSequenceClassification, seed, num_labels=3),
        {"labels": torch.eye(3).repeat(2, 1)},
        False,
    ),
    "masked language": (lambda seed: bert(BertForMaskedLM, seed), {"labels": token_labels()}, False),
    "token classes": (
        lambda seed: bert(BertForTokenClassification, seed, num_labels=4),
        {"labels": torch.where(token_labels() > 0, token_labels() % 4, -100)},
        False,
    ),
    "causal language": (llama, {"labels": token_labels()}, True),
    "answers": (
        lambda seed: bert(BertForQuestionAnswering, seed),
        {
            "start_positions": torch.tensor([0, 1, 2, 20, 1, 3]),
            "end_positions": torch.tensor([4, 2, 3, 20, 1, 5]),
        },
        False,
    ),
    "pre-training": (
        lambda seed: bert(BertForPreTraining, seed),
        {"labels": token_labels(), "next_sentence_label": torch.tensor([0, 1, 1, 0, 1, 0])},
        False,
    ),
    "pre-training with single texts": (
        lambda seed: bert(BertForPreTraining, seed),
        {"labels": token_labels(), "next_sentence_label": torch.tensor([0, -100, 1, -100, -100, 1])},
        False,
    ),
    "sentence order": (
        lambda seed: bert(AlbertForPreTraining, seed, embedding_size=16, classifier_dropout_prob=0.0),
        {"labels": token_labels(), "sentence_order_label": torch.tensor([0, 1, 1, 0, 1, 0])},
        False,
    ),
    "replaced tokens": (
        lambda seed: bert(ElectraForPreTraining, seed, embedding_size=16),
        {"labels": (token_labels() > 20).long()},
        False,
    ),
}


def share(terms: Iterable[LossTerm], totals: Counts) -> Tensor:
    return sum(term.total / totals.of(term.unit) for term in terms)


def gradients(name: str, sizes: list[int], kind: str) -> tuple[float, Tensor]:
    """Return loss and gradient of a batch split into micro-batches of these sizes."""
    make, labels, shifts = CASES[name]
    student, teacher = make(0), freeze(make(1))
    inputs = {**texts(), **labels}
    batches = [
        dict(zip(inputs, parts, strict=True))
        for parts in zip(*(torch.split(value, sizes) for value in inputs.values()), strict=True)
    ]
    totals = sum((count(batch, shifts) for batch in batches[1:]), start=count(batches[0], shifts))
    loss = 0.0
    for batch in batches:
        output = student(**batch)
        if kind == "task":
            terms = task_terms(output.loss, output, batch, count(batch, shifts))
        else:
            terms = logits_terms(
                output, teacher(**teacher_inputs(batch)), batch, 2.0, student.config.problem_type
            )
        part = share(terms, totals)
        part.backward()
        loss += part.item()
    return loss, torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", ["task", "logits"])
@pytest.mark.parametrize("name", CASES)
def test_any_split_of_a_batch_gives_the_loss_and_gradient_of_the_whole(name: str, kind: str) -> None:
    loss, gradient = gradients(name, [BATCH], kind)
    assert loss > 0
    for sizes in ([1] * BATCH, [4, 2]):
        other_loss, other_gradient = gradients(name, sizes, kind)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert torch.allclose(other_gradient, gradient, atol=1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize("name", CASES)
def test_the_task_terms_of_a_whole_batch_are_the_models_own_loss(name: str) -> None:
    make, labels, _ = CASES[name]
    with torch.no_grad():
        own = make(0)(**texts(), **labels).loss.item()
    assert gradients(name, [BATCH], "task")[0] == pytest.approx(own, rel=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_teacher_that_agrees_gives_no_loss_or_gradient(name: str) -> None:
    make, labels, _ = CASES[name]
    student, teacher, inputs = make(0), freeze(make(0)), {**texts(), **labels}
    terms = logits_terms(student(**inputs), teacher(**teacher_inputs(inputs)), inputs, 2.0, None)
    total = sum(term.total for term in terms)
    total.backward()
    assert total == 0
    assert not any(p.grad.any() for p in student.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "name", ["masked language", "token classes", "causal language", "answers", "pre-training"]
)
@pytest.mark.parametrize("hidden", [123.0, float("nan"), -float("inf")])
def test_logits_of_padding_never_count(name: str, hidden: float) -> None:
    make, _, _ = CASES[name]
    inputs, padding = texts(), texts()["attention_mask"] == 0
    with torch.no_grad():
        student, teacher = dict(make(0)(**inputs)), dict(make(1)(**inputs))
    expected = [term.total for term in logits_terms(student, teacher, inputs, 2.0, None)]
    for output in (student, teacher):
        for key in {"logits", "prediction_logits", "start_logits", "end_logits"} & output.keys():
            output[key][padding] = hidden
    leaves = {key: value.requires_grad_() for key, value in student.items() if isinstance(value, Tensor)}
    terms = logits_terms(leaves, teacher, inputs, 2.0, None)
    assert [term.total.item() for term in terms] == [total.item() for total in expected]
    sum(term.total for term in terms).backward()
    slopes = [
        leaf.grad for leaf in leaves.values() if leaf.grad is not None and leaf.shape[:2] == padding.shape
    ]
    assert slopes
    assert not any(slope[padding].any() for slope in slopes)


@pytest.mark.parametrize("name", ["classes", "regression", "several labels", "masked language", "answers"])
def test_terms_are_single_precision_under_autocast(name: str) -> None:
    make, labels, shifts = CASES[name]
    inputs = {**texts(), **labels}
    with torch.autocast("cpu", torch.bfloat16):
        output, other = make(0)(**inputs), freeze(make(1))(**teacher_inputs(inputs))
        terms = logits_terms(output, other, inputs, 2.0, None)
        terms += task_terms(output.loss, output, inputs, count(inputs, shifts))
    assert {term.total.dtype for term in terms} == {torch.float32}


@pytest.mark.parametrize("name", ["classes", "masked language", "causal language", "answers", "pre-training"])
def test_a_micro_batch_without_valid_labels_adds_nothing_rather_than_nan(name: str) -> None:
    make, labels, shifts = CASES[name]
    empty = {key: torch.full_like(value, 99 if "positions" in key else -100) for key, value in labels.items()}
    inputs = {
        **texts(),
        **empty,
        **{key: value for key, value in labels.items() if key == "next_sentence_label"},
    }
    student = make(0)
    output = student(**inputs)
    assert output.loss.isnan()
    terms = task_terms(output.loss, output, inputs, count(inputs, shifts))
    assert terms[0].total == 0
    terms[0].total.backward(retain_graph=True)
    assert not any(p.grad.any() for p in student.parameters() if p.grad is not None)
    sum(term.total for term in terms).backward()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


@pytest.mark.parametrize("tokens", [True, False])
def test_a_micro_batch_without_pairs_learns_its_tokens_alone(tokens: bool) -> None:
    make, labels, _ = CASES["pre-training"]
    inputs = {**texts(), "next_sentence_label": torch.full((BATCH,), -100)}
    inputs["labels"] = labels["labels"] if tokens else torch.full((BATCH, LENGTH), -100)
    student, counts = make(0), count(inputs, False)
    output = student(**inputs)
    assert output.loss.isnan()
    masked, pairs = task_terms(output.loss, output, inputs, counts)
    expected = functional.cross_entropy(
        output.prediction_logits.view(-1, 40), inputs["labels"].view(-1), reduction="sum"
    )
    assert masked.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert (masked.unit, pairs.unit, pairs.total) == ("labels", "sentences", 0)
    (masked.total + pairs.total).backward()
    slopes = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    assert all(slope.isfinite().all() for slope in slopes.values())
    assert bool(slopes["cls.predictions.transform.dense.weight"].any()) is tokens
    assert not slopes["cls.seq_relationship.weight"].any()
