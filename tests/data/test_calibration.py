"""Calibration texts and their batches."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from hf_sparse.data.calibration import TextBatches, load_texts
from tests.data.tiny_tokenizers import bert, gpt

NAMES = ("input_ids", "attention_mask", "token_type_ids")


def csv(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_sample_is_drawn_from_all_of_a_file_and_always_the_same(tmp_path: Path) -> None:
    file = csv(tmp_path / "some.csv", "sentence,label", *(f"word {number},0" for number in range(100)))
    texts = load_texts(file, samples=20)
    assert len(set(texts)) == 20 and texts == load_texts(file, samples=20)
    assert max(int(text.split()[1]) for (text,) in texts) > 50
    assert len(load_texts(file, samples=1000)) == 100


def test_pairs_and_chosen_columns_are_read(tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").write_text(json.dumps({"question": "who ?", "context": "the cat", "id": "7"}))
    file = str(tmp_path / "some.jsonl")
    assert load_texts(file) == [("who ?", "the cat")]
    assert load_texts(file, chosen=["context"]) == [("the cat",)]


def test_a_directory_gives_its_training_texts_or_the_first_ones(tmp_path: Path) -> None:
    csv(tmp_path / "dev.csv", "text", "dev")
    csv(tmp_path / "train.csv", "text", "train")
    assert load_texts(str(tmp_path)) == [("train",)]
    (tmp_path / "train.csv").rename(tmp_path / "unlabeled.csv")
    assert load_texts(str(tmp_path)) == [("dev",)]


def test_empty_texts_are_left_out_and_nothing_else_is_refused(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["", None, " ", "cat"]}).to_parquet(tmp_path / "some.parquet")
    assert load_texts(str(tmp_path / "some.parquet")) == [("cat",)]
    Dataset.from_dict({"text": ["", None]}).to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match=r"none.parquet holds no text in text; give texts"):
        load_texts(str(tmp_path / "none.parquet"))
    with pytest.raises(ValueError, match="samples must be above 0, got 0"):
        load_texts(str(tmp_path / "some.parquet"), samples=0)


def test_batches_hold_what_the_model_accepts() -> None:
    texts = [("the cat",), ("the big cat sat on a mat",), ("who ?",)]
    batches = TextBatches(texts, bert(), NAMES[:2], batch_size=2, max_length=5)
    found = list(batches)
    assert len(found) == len(batches) == 2 and all(batch.keys() == set(NAMES[:2]) for batch in found)
    assert found[0]["input_ids"].shape == (2, 5) and found[1]["input_ids"].shape == (1, 4)
    assert found[0]["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1] * 5]


def test_a_pair_is_read_as_one() -> None:
    (batch,) = TextBatches([("who ?", "the cat")], bert(), NAMES)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1]]


def test_without_a_padding_token_texts_come_alone() -> None:
    tokenizer = gpt()
    tokenizer.pad_token = None
    batches = TextBatches([("the cat",), ("who",)], tokenizer, NAMES, batch_size=16)
    assert [len(batch["input_ids"]) for batch in batches] == [1, 1] and len(batches) == 2


@pytest.mark.parametrize("name", ["batch_size", "max_length"])
def test_sizes_below_1_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0, got 0"):
        TextBatches([("a",)], bert(), NAMES, **{name: 0})


def test_a_length_without_room_for_a_text_is_refused() -> None:
    for texts, length in (([("a",)], 2), ([("a", "b")], 3)):
        with pytest.raises(
            ValueError, match=f"max_length {length} leaves no room for text beside {length} special"
        ):
            TextBatches(texts, bert(), NAMES, max_length=length)
