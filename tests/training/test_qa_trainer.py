"""How QuestionAnsweringTrainer evaluates, predicts, chooses the best model, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    DataCollatorWithPadding,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from hf_sparse import Recipe
from hf_sparse.data.qa_answers import AnswerFinder
from hf_sparse.data.qa_examples import numbered, question_columns
from hf_sparse.data.qa_features import Cutting, QuestionSet, evaluation_encoder, training_encoder
from hf_sparse.training.qa_trainer import QuestionAnsweringTrainer
from tests.data.tiny_tokenizers import bert, llama, roberta
from tests.support.tiny import SIZES, arguments

CONTEXTS = ["the big cat sat on a mat in paris .", "a mat", "the cats sat , who ? in paris on the mat"] * 4


def rows(answers: tuple[str, ...] = ("mat",)) -> Dataset:
    places = [{"text": list(answers), "answer_start": [text.find(a) for a in answers]} for text in CONTEXTS]
    return Dataset.from_dict({"question": ["who ?"] * len(CONTEXTS), "context": CONTEXTS, "answers": places})


def sets(data: Dataset, tokenizer: Any, pad: bool = False) -> dict[str, Any]:
    columns, cutting = question_columns(data), Cutting(tokenizer, 24, 4, pad)
    labeled, plain = (
        Dataset.from_dict(make(cutting, columns)(numbered(data, columns)[:]))
        for make in (training_encoder, evaluation_encoder)
    )
    return {"train_dataset": labeled, "eval_dataset": QuestionSet(data, plain, columns)}


def trainer(folder: Path, finder: AnswerFinder | None = None, **changes: Any) -> QuestionAnsweringTrainer:
    torch.manual_seed(0)
    given = changes.pop("given", {})
    return QuestionAnsweringTrainer(
        BertForQuestionAnswering(BertConfig(**SIZES)),
        arguments(folder, per_device_eval_batch_size=4, **changes),
        data_collator=DataCollatorWithPadding(bert()),
        finder=finder,
        **sets(rows(), bert()) | given,
    )


def test_evaluation_scores_the_text_of_answers(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    scores = one.evaluate()
    assert {"eval_exact_match", "eval_f1", "eval_runtime"} <= scores.keys() and "eval_loss" not in scores
    answers = one.predict(one.eval_dataset).predictions
    assert [answer.id for answer in answers] == [str(i) for i in range(len(CONTEXTS))]
    right = sum(answer.text in ("mat", "a mat", "the mat") for answer in answers)
    assert scores["eval_exact_match"] == pytest.approx(100 * right / len(CONTEXTS))


def test_logits_reach_their_own_windows_whatever_the_batch(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    found = one.predict(one.eval_dataset).predictions
    questions, model = one.eval_dataset, one.model.eval()
    with torch.no_grad():
        outputs = [model(**bert().pad([item], return_tensors="pt")) for item in questions]
    starts, ends = (np.zeros(questions.first.shape, dtype=np.float32) for _ in range(2))
    for i, output in enumerate(outputs):
        starts[i, : output.start_logits.shape[1]] = output.start_logits[0].numpy()
        ends[i, : output.end_logits.shape[1]] = output.end_logits[0].numpy()
    alone = AnswerFinder().find(questions, starts, ends)
    for ours, theirs in zip(found, alone, strict=True):
        assert ours.text == theirs.text
        assert ours.null_odds == pytest.approx(theirs.null_odds, abs=1e-5)


def test_training_finds_the_answers(tmp_path: Path) -> None:
    one = trainer(tmp_path, max_steps=40, learning_rate=1e-2)
    before = one.evaluate()["eval_f1"]
    one.train()
    assert one.evaluate()["eval_exact_match"] == 100 > before


def test_version_2_reports_the_scores_of_both_kinds(tmp_path: Path) -> None:
    # No answer for every third context, which a short training learns in part.
    none = {"text": [], "answer_start": []}
    answers = [none if i % 3 == 0 else value for i, value in enumerate(rows()["answers"])]
    data = rows().remove_columns("answers").add_column("answers", answers)
    finder = AnswerFinder(version_2_with_negative=True, null_score_diff_threshold=-9.0)
    one = trainer(tmp_path, finder, given=sets(data, bert()), max_steps=25, learning_rate=5e-3)
    one.train()
    scores = one.evaluate()
    counts = [scores[name] for name in ("eval_total", "eval_HasAns_total", "eval_NoAns_total")]
    assert counts == [12, 8, 4]
    assert scores["eval_f1"] == (2 * scores["eval_HasAns_f1"] + scores["eval_NoAns_f1"]) / 3
    assert scores["eval_best_f1"] > max(scores["eval_f1"], 100 * 4 / 12)
    # The threshold found to be the best gives the score that it promises, as the one of the finder.
    one.finder = AnswerFinder(True, null_score_diff_threshold=scores["eval_best_f1_thresh"])
    assert one.evaluate()["eval_f1"] == pytest.approx(scores["eval_best_f1"])


def test_the_best_model_is_chosen_by_f1(tmp_path: Path) -> None:
    one = trainer(
        tmp_path,
        max_steps=6,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="f1",
    )
    one.train()
    scores = [line["eval_f1"] for line in one.state.log_history if "eval_f1" in line]
    assert len(scores) == 3 and one.state.best_metric == max(scores)
    assert one.evaluate()["eval_f1"] == max(scores)


def test_questions_without_known_answers_are_answered_unscored(tmp_path: Path) -> None:
    data = rows().remove_columns("answers")
    columns = question_columns(data, answered=False)
    encode = evaluation_encoder(Cutting(bert(), 24, 4), columns)
    questions = QuestionSet(data, Dataset.from_dict(encode(numbered(data, columns)[:])), columns)
    output = trainer(tmp_path).predict(questions, metric_key_prefix="predict")
    assert len(output.predictions) == len(CONTEXTS) and all(answer.text for answer in output.predictions)
    assert not {"predict_f1", "predict_exact_match"} & output.metrics.keys()


@pytest.mark.parametrize("family", ["distilbert", "roberta", "padded on the left"])
def test_models_without_types_of_tokens_are_trained(tmp_path: Path, family: str) -> None:
    if family == "distilbert":
        sizes = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": 100}
        model, tokenizer = DistilBertForQuestionAnswering(DistilBertConfig(**sizes)), bert()
    else:
        tokenizer = roberta() if family == "roberta" else llama()
        sizes = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 80}
        model = RobertaForQuestionAnswering(RobertaConfig(**sizes))
    data = rows()
    columns, cutting = question_columns(data), Cutting(tokenizer, 60, 20)
    labeled, plain = (
        Dataset.from_dict(make(cutting, columns)(numbered(data, columns)[:]))
        for make in (training_encoder, evaluation_encoder)
    )
    one = QuestionAnsweringTrainer(
        model,
        arguments(tmp_path, max_steps=2),
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=labeled,
        eval_dataset=QuestionSet(data, plain, columns),
    )
    one.train()
    assert 0 <= one.evaluate()["eval_exact_match"] <= 100


def test_answers_are_distilled(tmp_path: Path) -> None:
    torch.manual_seed(1)
    teacher = BertForQuestionAnswering(BertConfig(**SIZES))
    recipe = Recipe.from_dict({"distillation": {"temperature": 2.0, "task": 0.5, "logits": 0.5}})
    one = trainer(tmp_path, max_steps=2, given={"teacher": teacher, "recipe": recipe})
    one.train()
    assert one.state.log_history[0]["loss_logits"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_sampling_strategy": "group_by_length"}, "shuffles evaluation sets as well"),
        ({"batch_eval_metrics": True}, "leave batch_eval_metrics and eval_do_concat_batches out"),
        ({"eval_do_concat_batches": False}, "answers are found after the last one"),
        ({"metric_for_best_model": "eval_loss"}, "'eval_loss' cannot choose the best model; set .* to f1"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"},
            "'loss' cannot choose the best",
        ),
    ],
)
def test_arguments_that_would_spoil_an_evaluation_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, **changes)


def test_other_sets_than_questions_are_refused(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    with pytest.raises(TypeError, match="evaluation needs a QuestionSet, got a Dataset"):
        one.evaluate(one.train_dataset)
