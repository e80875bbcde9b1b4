"""What models of the demo learn from."""

import numpy as np
import pytest
from transformers import BertTokenizer, EvalPrediction

from hf_sparse.demo.lessons import language_lesson, new_model, task_lesson
from hf_sparse.demo.settings import Plan, Training
from hf_sparse.demo.sources import Examples, Sources

STEPS = Training(1, 1e-3, 1)
PLAN = Plan(STEPS, STEPS, STEPS, STEPS, length=4, hidden=32, layers=1)
SOURCES = Sources(
    ["a b", "c"], ["b b b b"], ("x", "y"), Examples((["a b c a b c"],), [1]), Examples((["c"],), [0])
)


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})


def test_running_text_is_cut_into_blocks(tokenizer: BertTokenizer) -> None:
    lesson = language_lesson(SOURCES, tokenizer, PLAN, seed=0)
    assert [row["input_ids"] for row in lesson.train.examples] == [[2, 5, 6, 3]]
    assert [row["input_ids"] for row in lesson.validation.examples] == [[2, 6, 6, 6]]
    assert lesson.validation.fixed and not lesson.train.fixed


@pytest.mark.parametrize("texts", [[], ["a"]])
def test_too_little_text_is_refused(tokenizer: BertTokenizer, texts: list[str]) -> None:
    sources = Sources(texts, ["a b c a"], ("x", "y"), SOURCES.train, SOURCES.validation)
    with pytest.raises(ValueError, match="less than one block of 4 tokens"):
        language_lesson(sources, tokenizer, PLAN, seed=0)


def test_examples_are_cut_and_keep_their_class(tokenizer: BertTokenizer) -> None:
    lesson = task_lesson(SOURCES, tokenizer, PLAN)
    assert lesson.train[0]["input_ids"] == [2, 5, 6, 3] and lesson.train[0]["labels"] == 1


def test_only_masked_words_are_scored(tokenizer: BertTokenizer) -> None:
    score = language_lesson(SOURCES, tokenizer, PLAN, seed=0).score
    labels, answers = np.array([[5, -100, 6, 7]]), np.array([[5, 1, 6, 6]])
    assert score(EvalPrediction(answers, labels)) == {"accuracy": pytest.approx(2 / 3)}


def test_every_class_is_scored(tokenizer: BertTokenizer) -> None:
    score = task_lesson(SOURCES, tokenizer, PLAN).score
    assert score(EvalPrediction(np.array([1, 0, 0, 1]), np.array([1, 0, 1, 1]))) == {"accuracy": 0.75}


def test_a_new_model_has_the_shape_of_the_plan(tokenizer: BertTokenizer) -> None:
    config = new_model(tokenizer, PLAN).config
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (32, 1, 8)
