"""Encoders without a head: which teachers fit and which terms are refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertGenerationDecoder,
    BertModel,
    CLIPModel,
    EncoderDecoderModel,
    GPT2Config,
    GPT2DoubleHeadsModel,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    MarianMTModel,
    PreTrainedModel,
)

from hf_sparse.distillation.teacher import check_learnable, has_head, load_teacher
from tests.distillation.test_teacher import SIZES, WORDS, bert, saved


@pytest.mark.parametrize(
    "origin", [BertModel, BertForMaskedLM, BertForPreTraining, BertForSequenceClassification]
)
def test_an_encoder_is_taught_by_the_encoder_of_any_checkpoint(
    tmp_path: Path, origin: type[PreTrainedModel]
) -> None:
    saved_model = bert(origin)
    teacher = load_teacher(saved(tmp_path, saved_model), bert(BertModel))
    assert type(teacher) is BertModel and not has_head(teacher)
    assert not teacher.training and not any(weight.requires_grad for weight in teacher.parameters())
    encoder = teacher.encoder.state_dict()
    wanted = saved_model.base_model.encoder.state_dict()
    assert all(torch.equal(encoder[name], value) for name, value in wanted.items())


def test_labels_of_its_head_mean_nothing_to_an_encoder(tmp_path: Path) -> None:
    assert type(load_teacher(saved(tmp_path, bert(num_labels=7)), bert(BertModel))) is BertModel


def test_the_encoder_of_a_causal_model_is_found(tmp_path: Path) -> None:
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=len(WORDS))
    teacher = load_teacher(saved(tmp_path, GPT2LMHeadModel(config)), GPT2Model(config))
    assert type(teacher) is GPT2Model


def test_an_encoder_that_lacks_more_than_its_pooler_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, bert(BertModel, num_hidden_layers=1))
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    with pytest.raises(
        ValueError, match=r"no weights for \['encoder.layer.1.*of BertModel, which would be random"
    ):
        load_teacher(path, bert(BertModel))


def test_another_vocabulary_is_refused_without_a_head_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocabulary size is 8, the teacher's 9"):
        load_teacher(saved(tmp_path, bert(BertForMaskedLM, vocab_size=9)), bert(BertModel))


def test_what_has_a_head_of_its_own() -> None:
    class MyEncoder(BertModel):
        pass

    class MyTagger(BertModel):
        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
            raise NotImplementedError

    class MyClassifier(BertForSequenceClassification):
        pass

    gpt = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=len(WORDS))
    without = [
        bert(BertModel),
        bert(MyEncoder),
        GPT2Model(gpt),
        LlamaModel(LlamaConfig(**SIZES, vocab_size=len(WORDS))),
    ]
    heads = [
        bert(),
        bert(BertForMaskedLM),
        bert(BertForPreTraining),
        bert(MyClassifier),
        GPT2LMHeadModel(gpt),
    ]
    unknown = [nn.Linear(2, 2), bert(MyTagger)]
    assert [has_head(model) for model in without] == [False] * len(without)
    assert [has_head(model) for model in (*heads, *unknown)] == [True] * len([*heads, *unknown])


def test_a_model_that_gives_a_loss_has_a_head_whatever_it_is_called() -> None:
    """Models with heads whose names end like those of encoders."""
    named = (EncoderDecoderModel, MarianMTModel, CLIPModel, GPT2DoubleHeadsModel, BertGenerationDecoder)
    # Without weights, which are not looked at.
    made = [object.__new__(kind) for kind in named]
    assert [has_head(model) for model in made] == [True] * len(named)


@pytest.mark.parametrize(("name", "weight"), [("task", 0.5), ("logits", 1.0)])
def test_a_term_that_needs_a_head_is_refused_for_an_encoder(name: str, weight: float) -> None:
    weights = SimpleNamespace(**{"task": 0.0, "logits": 0.0} | {name: weight})
    with pytest.raises(ValueError, match="lacks a head") as caught:
        check_learnable(bert(BertModel), weights)
    assert str(caught.value) == (
        f"{name} has weight {weight}, and BertModel lacks a head to compute it; override "
        f"distillation.{name}=0 and give a weight to hidden, attention or relations, or load the model "
        "with a head"
    )
    check_learnable(bert(), weights)
    check_learnable(bert(BertModel), SimpleNamespace(task=0.0, logits=0.0))


def test_a_student_that_is_frozen_learns_nothing() -> None:
    student, weights = bert(), SimpleNamespace(task=0.5, logits=0.5)
    student.bert.requires_grad_(False)
    check_learnable(student, weights)
    with pytest.raises(
        ValueError, match="every weight of BertForSequenceClassification is frozen, so no term"
    ):
        check_learnable(student.requires_grad_(False), weights)
