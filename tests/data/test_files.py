"""Rows loaded from files and directories."""

from pathlib import Path

import pytest
from datasets import Dataset

from hf_sparse.data.files import load_splits


def table(*texts: str) -> Dataset:
    return Dataset.from_dict({"text": list(texts)})


def test_stems_in_a_directory_name_the_splits(tmp_path: Path) -> None:
    table("a", "b").to_parquet(tmp_path / "train.parquet")
    table("c").to_csv(tmp_path / "validation_matched.csv")
    table("d").to_json(tmp_path / "test.jsonl")
    (tmp_path / "README.md").write_text("not data")
    splits = load_splits(str(tmp_path))
    assert {name: rows["text"][:] for name, rows in splits.items()} == {
        "train": ["a", "b"],
        "validation_matched": ["c"],
        "test": ["d"],
    }


def test_shards_in_a_directory_are_joined_in_order(tmp_path: Path) -> None:
    table("a").to_parquet(tmp_path / "train-00000-of-00002.parquet")
    table("b").to_parquet(tmp_path / "train-00001-of-00002.parquet")
    splits = load_splits(str(tmp_path))
    assert list(splits) == ["train"] and splits["train"]["text"][:] == ["a", "b"]


def test_one_split_in_two_formats_is_refused(tmp_path: Path) -> None:
    table("a").to_parquet(tmp_path / "train.parquet")
    table("a").to_csv(tmp_path / "train.csv")
    with pytest.raises(ValueError, match="'train' has files of several formats .train.csv, train.parquet."):
        load_splits(str(tmp_path))


def test_a_directory_in_the_layout_of_the_hub_is_left_to_datasets(tmp_path: Path) -> None:
    (tmp_path / "hub" / "data").mkdir(parents=True)
    table("a", "b").to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    assert load_splits(str(tmp_path / "hub"))["train"]["text"][:] == ["a", "b"]


def test_each_split_may_have_a_file_of_its_own_format(tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text("first line\nsecond line\n")
    table("c").to_json(tmp_path / "held_out.json")
    splits = load_splits(
        files={"train": str(tmp_path / "poem.txt"), "validation": str(tmp_path / "held_out.json")}
    )
    assert splits["train"]["text"][:] == ["first line", "second line"]
    assert splits["validation"]["text"][:] == ["c"]


def test_bad_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        load_splits(files={"train": str(tmp_path / "nowhere.csv")})
    with pytest.raises(ValueError, match=r"train.doc is none of .parquet, .csv"):
        load_splits(files={"train": "train.doc"})
    (tmp_path / "table.parquet").write_text("no table")
    (tmp_path / "rows.json").write_text('{"a": 1')
    for name, form in (("table.parquet", "parquet"), ("rows.json", "json")):
        with pytest.raises(ValueError, match=rf"{name} cannot be read as {form} "):
            load_splits(files={"train": str(tmp_path / name)}, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="no data"):
        load_splits()
