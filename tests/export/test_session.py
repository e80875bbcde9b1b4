"""Pipelines give the same from an exported file as from its model."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    pipeline,
)

from hf_sparse.data.calibration import TextBatches
from hf_sparse.data.qa_answers import AnswerFinder
from hf_sparse.data.qa_examples import numbered, question_columns
from hf_sparse.data.qa_features import Cutting, QuestionSet, evaluation_encoder
from hf_sparse.export.directory import export_directory
from hf_sparse.export.inputs import example_inputs
from hf_sparse.export.session import OnnxModel, load_onnx
from hf_sparse.quantization.calibrate import calibrate
from tests.data.tiny_tokenizers import bert
from tests.support.tiny import SIZES

TEXTS = ["the big cat sat on a mat .", "who sat ?", "a mat , in paris , where the cat sat on the mat"]
SMALL = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "vocab_size": 100, "num_labels": 3}
# What is made, and how it is quantized: floats where it is not.
CASES: dict[str, tuple[Callable[[], PreTrainedModel], tuple[str, str] | None]] = {
    "classifier": (
        lambda: BertForSequenceClassification(BertConfig(**SIZES, initializer_range=0.2, num_labels=3)),
        ("int8_per_channel", "uint8_per_tensor"),
    ),
    "reader": (
        lambda: BertForQuestionAnswering(BertConfig(**SIZES, initializer_range=0.2)),
        ("int8_per_channel", "int8_per_token"),
    ),
    "floats": (lambda: DistilBertForSequenceClassification(DistilBertConfig(**SMALL)), None),
    "weights": (
        lambda: DistilBertForSequenceClassification(DistilBertConfig(**SMALL, initializer_range=0.2)),
        ("int4_group_16", "none"),
    ),
}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[PreTrainedModel, OnnxModel]]:
    """Return a function from the name of a case to its model and what its file computes."""

    @cache
    def loaded(case: str) -> tuple[PreTrainedModel, OnnxModel]:
        torch.manual_seed(0)
        make, schemes = CASES[case]
        model = make().eval()
        if schemes is not None:
            texts = [(text,) for text in TEXTS * 4]
            calibrate(model, TextBatches(texts, bert(), example_inputs(model)), *schemes)
        directory = tmp_path_factory.mktemp("onnx") / case
        export_directory(model, directory, tokenizer=bert())
        return model, load_onnx(directory)

    return loaded


@pytest.mark.parametrize("case", ["classifier", "floats", "weights"])
def test_a_pipeline_classifies_texts_as_with_the_model(load, case: str) -> None:
    model, file = load(case)
    expected, found = (
        pipeline("text-classification", model=one, tokenizer=bert(), top_k=None, device="cpu")(TEXTS)
        for one in (model, file)
    )
    for theirs, ours in zip(expected, found, strict=True):
        assert [row["label"] for row in ours] == [row["label"] for row in theirs]
        # An error of one bit may choose another code.
        assert [row["score"] for row in ours] == pytest.approx([row["score"] for row in theirs], abs=5e-3)


def test_questions_are_answered_as_by_the_model(load) -> None:
    data = Dataset.from_dict({"question": ["who ?", "where ?", "where ?"], "context": TEXTS})
    columns, tokenizer = question_columns(data, answered=False), bert()
    windows = evaluation_encoder(Cutting(tokenizer, 14, 4), columns)(numbered(data, columns)[:])
    questions = QuestionSet(data, Dataset.from_dict(windows), columns)

    def answers(model: nn.Module) -> list[str]:
        inputs = DataCollatorWithPadding(tokenizer)(list(questions))
        with torch.no_grad():
            outputs = model(**inputs)
        starts, ends = (np.asarray(logits) for logits in (outputs.start_logits, outputs.end_logits))
        found = AnswerFinder(max_answer_length=4).find(questions, starts, ends)
        return [answer.text for answer in found]

    model, file = load("reader")
    assert answers(file) == answers(model) and all(answers(model))


def test_pipelines_take_it_for_its_model(load, caplog: pytest.LogCaptureFixture) -> None:
    _, file = load("classifier")
    made = pipeline("text-classification", model=file, tokenizer=bert())
    # torch traces its own exports.
    said = [record for record in caplog.records if not record.name.startswith("torch")]
    assert not said and "BertForSequenceClassification" in repr(made)
    assert file.config.num_labels == 3 and not file.can_generate() and not file.training


def test_types_of_tokens_are_zeros_unless_given_and_the_rest_is_asked_for(load) -> None:
    _, file = load("classifier")
    ids = torch.tensor([[2, 5, 6, 3]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    alike = file(**inputs, token_type_ids=torch.zeros_like(ids)).logits
    assert torch.equal(file(**inputs, position_ids=ids).logits, alike)
    assert not torch.equal(file(**inputs, token_type_ids=torch.ones_like(ids)).logits, alike)
    with pytest.raises(ValueError, match="the file reads input_ids, .*, and attention_mask is not given"):
        file(input_ids=ids)


def test_a_directory_without_an_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="model.onnx does not exist; export a model"):
        load_onnx(tmp_path)
