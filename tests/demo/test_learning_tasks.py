"""Tasks of the demo: blocks of text, labeled examples, scores."""

import numpy as np
import pytest
from transformers import BertTokenizer, EvalPrediction

from hf_sparse.demo.learning_tasks import classification_task, language_task
from hf_sparse.demo.settings import Plan, Training
from hf_sparse.demo.sources import Examples, Sources

STEPS = Training(1, 1e-3, 1)
PLAN = Plan(STEPS, STEPS, STEPS, STEPS, STEPS, STEPS, length=4, hidden=32, layers=1)
SOURCES = Sources(
    ["a b", "c"], ["b b b b"], ("x", "y"), Examples((["a b c a b c"],), [1]), Examples((["c"],), [0])
)


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})


def test_running_text_is_cut_into_blocks(tokenizer: BertTokenizer) -> None:
    task = language_task(SOURCES, tokenizer, PLAN, seed=0)
    assert [row["input_ids"] for row in task.train.examples] == [[2, 5, 6, 3]]
    assert [row["input_ids"] for row in task.validation.examples] == [[2, 6, 6, 6]]
    assert task.validation.fixed and not task.train.fixed


@pytest.mark.parametrize("texts", [[], ["a"]])
def test_too_little_text_is_refused(tokenizer: BertTokenizer, texts: list[str]) -> None:
    sources = Sources(texts, ["a b c a"], ("x", "y"), SOURCES.train, SOURCES.validation)
    with pytest.raises(ValueError, match="less than one block of 4 tokens"):
        language_task(sources, tokenizer, PLAN, seed=0)


def test_examples_are_cut_and_keep_their_class(tokenizer: BertTokenizer) -> None:
    task = classification_task(SOURCES, tokenizer, PLAN)
    assert task.train[0]["input_ids"] == [2, 5, 6, 3] and task.train[0]["labels"] == 1


def test_only_masked_words_are_scored(tokenizer: BertTokenizer) -> None:
    score = language_task(SOURCES, tokenizer, PLAN, seed=0).score
    labels, answers = np.array([[5, -100, 6, 7]]), np.array([[5, 1, 6, 6]])
    assert score(EvalPrediction(answers, labels)) == {"accuracy": pytest.approx(2 / 3)}


def test_every_class_is_scored(tokenizer: BertTokenizer) -> None:
    score = classification_task(SOURCES, tokenizer, PLAN).score
    assert score(EvalPrediction(np.array([1, 0, 0, 1]), np.array([1, 0, 1, 1]))) == {"accuracy": 0.75}
