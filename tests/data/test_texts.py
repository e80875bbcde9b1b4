"""The choice of text columns."""

import pytest
from datasets import Dataset
from transformers import BertTokenizerFast

from hf_sparse.data.glue import GLUE_TASKS
from hf_sparse.data.texts import text_columns, text_encoder


def rows(*columns: str, **others: list[object]) -> Dataset:
    return Dataset.from_dict({column: ["text"] for column in columns} | others)


def test_a_task_names_its_columns() -> None:
    assert text_columns(rows("idx", "question", "sentence"), "qnli") == ("question", "sentence")
    assert len(GLUE_TASKS) == 9


def test_chosen_columns_come_first() -> None:
    assert text_columns(rows("sentence", "note"), "sst2", chosen=["note"]) == ("note",)


def test_the_guess_prefers_a_pair_of_sentences() -> None:
    assert text_columns(rows("genre", "sentence2", "sentence1")) == ("sentence1", "sentence2")


def test_the_guess_is_the_first_two_columns_of_strings_beside_the_label() -> None:
    assert text_columns(rows("label", "title", "body", "note", idx=[1])) == ("title", "body")
    assert text_columns(rows("sentence", label=[1], idx=[1])) == ("sentence",)
    assert text_columns(rows("kind", "text"), label="kind") == ("text",)


def test_missing_columns_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"text column \['premise', 'hypothesis'\] is missing; choose among \['sentence'\]"
    ):
        text_columns(rows("sentence"), "mnli")
    with pytest.raises(ValueError, match="1 or 2 columns"):
        text_columns(rows("a", "b", "c"), chosen=["a", "b", "c"])
    with pytest.raises(ValueError, match="holds strings; add a column of text"):
        text_columns(rows(label=[1]))


def test_pairs_are_cut_and_padded_to_the_length() -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    batch = {"first": ["a a a", None], "second": ["b", "b"]}
    cut = text_encoder(tokenizer, ("first", "second"), max_length=6)(batch)
    assert cut["input_ids"] == [[2, 5, 5, 3, 6, 3], [2, 3, 6, 3]]
    assert cut["token_type_ids"] == [[0, 0, 0, 0, 1, 1], [0, 0, 1, 1]]
    padded = text_encoder(tokenizer, ("second",), max_length=4, pad=True)(batch)
    assert padded["input_ids"] == [[2, 6, 3, 0], [2, 6, 3, 0]]


def test_a_column_called_text_is_read_alone() -> None:
    rows = Dataset.from_dict({"source": ["x"], "text": ["a b"], "title": ["y"]})
    assert text_columns(rows) == ("text",)
    assert text_columns(rows, chosen=["title", "text"]) == ("title", "text")


def test_a_column_without_text_is_refused() -> None:
    rows = Dataset.from_dict({"text": ["a"], "score": [1]})
    with pytest.raises(ValueError, match="column 'score' holds int64, not text; choose among"):
        text_columns(rows, chosen=["score"])
