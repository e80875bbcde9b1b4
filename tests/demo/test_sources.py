"""Data of the demo: built in, datasets, files."""

from pathlib import Path

import pytest
from datasets import Dataset

from hf_sparse.demo.corpus import Docstring
from hf_sparse.demo.settings import DemoSettings
from hf_sparse.demo.sources import Examples, Sources, load_sources


def test_a_data_set_lends_its_texts_to_pre_training(task_dir: Path) -> None:
    sources = load_sources(DemoSettings(dataset=str(task_dir)))
    assert sources.names == ("city", "river")
    assert (len(sources.train), len(sources.validation)) == (40, 20)
    assert sources.texts == sources.train.texts[0] and sources.held_out_texts == sources.validation.texts[0]


def test_a_text_file_is_split_where_it_has_no_validation(task_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text("\n".join(f"line {number}" for number in range(40)))
    sources = load_sources(DemoSettings(dataset=str(task_dir), text=str(tmp_path / "poem.txt")))
    assert sources.held_out_texts == ["line 0", "line 20"]
    assert len(sources.texts) == 38 and "line 20" not in sources.texts


def test_pairs_of_texts_keep_their_columns(tmp_path: Path) -> None:
    pairs = {"sentence1": ["a", "b", "d"], "sentence2": ["c", None, "e"], "label": ["yes", "no", "yes"]}
    Dataset.from_dict(pairs).to_csv(tmp_path / "train.csv")
    sources = load_sources(DemoSettings(dataset=str(tmp_path)))
    assert sources.validation.texts == (["a"], ["c"]) and sources.train.texts == (["b", "d"], ["", "e"])


def test_without_a_data_set_the_library_is_read_up_to_the_limit_of_the_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules = ("re", "os", "json", "this")
    found = [
        Docstring(module, f"{module} does {'very ' * number}well")
        for module in modules
        for number in range(99)
    ]
    monkeypatch.setattr("hf_sparse.demo.sources.library_docstrings", lambda: found)
    sources = load_sources(DemoSettings(quick=True))
    assert sources.names == ("text", "operating system", "mail and markup")
    assert len(sources.train) == len(sources.texts) == 64
    assert len(sources.validation) == sum(one.held_out and one.module != "this" for one in found)


def test_numbers_instead_of_classes_are_refused(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["a", "b"], "label": [0.5, 1.5]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="compares accuracies.*give one with classes"):
        load_sources(DemoSettings(dataset=str(tmp_path)))


def test_data_without_train_are_refused(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["a"], "label": ["x"]}).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match="lacks a split 'train' and has ..test.."):
        load_sources(DemoSettings(dataset=str(tmp_path)))


def test_the_majority_is_the_most_frequent_class_of_training() -> None:
    train = Examples((["a", "b", "c"],), [1, 1, 0])
    sources = Sources([], [], ("x", "y"), train, Examples((["d", "e", "f", "g"],), [0, 0, 0, 1]))
    assert sources.balance == {"x": 1, "y": 2}
    assert sources.majority == 0.25


def test_every_text_and_label_counts_for_the_digest() -> None:
    rows = Examples((["a"],), [0])
    first = Sources(["text"], [], ("x", "y"), rows, rows)
    others = [
        Sources(["texts"], [], ("x", "y"), rows, rows),
        Sources(["text"], [], ("x", "z"), rows, rows),
        Sources(["text"], [], ("x", "y"), Examples((["a"],), [1]), rows),
    ]
    assert first.digest not in {other.digest for other in others}
