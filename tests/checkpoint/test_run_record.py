"""The record of a run beside its model."""

import json
from pathlib import Path
from typing import Any

import pytest

from hf_sparse import SparseTrainer
from hf_sparse.checkpoint.run_record import (
    RECORD,
    fact_text,
    is_local,
    public_name,
    public_record,
    read_record,
)
from tests.support.tiny import arguments, bert, pruning, sentences


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A model that was loaded from a directory, pruned, saved into another."""
    bert().save_pretrained(tmp_path / "origin")
    model = type(bert()).from_pretrained(tmp_path / "origin")
    args = arguments(tmp_path / "run", max_steps=2, learning_rate=3e-4, hub_token="hf_secret")
    trainer = SparseTrainer(model, args, train_dataset=sentences(16), recipe=pruning())
    trainer.facts |= {"dataset": "nyu-mll/glue", "file": ["/scratch/somebody/train.json"]}
    trainer.train()
    trainer.save_model()
    return tmp_path / "run"


def test_a_record_says_what_the_run_was(trained: Path) -> None:
    record = read_record(trained)
    assert record["base_model"] == str(trained.parent / "origin") and record["teacher"] is None
    assert record["recipe"] == pruning().to_dict() and record["facts"]["dataset"] == "nyu-mll/glue"
    assert (record["step"], record["total_steps"], record["train_samples"]) == (2, 2, 16)
    assert record["arguments"]["learning_rate"] == 3e-4 and record["arguments"]["processes"] == 1
    assert record["seconds"] > 0 and record["hardware"]["processor"] and record["versions"]["torch"]


def test_a_record_to_hand_on_has_no_path_and_no_token(trained: Path) -> None:
    text = json.dumps(public_record(read_record(trained)))
    assert str(trained.parent) not in text and "hf_secret" not in text and "scratch" not in text
    assert json.loads(text)["facts"] == {"dataset": "nyu-mll/glue", "file": ["train.json"]}
    assert json.loads(text)["base_model"] == "./origin"


def test_a_model_made_from_scratch_has_no_origin(tmp_path: Path) -> None:
    trainer = SparseTrainer(bert(), arguments(tmp_path, max_steps=1), train_dataset=sentences(4))
    trainer.train()
    trainer.save_model()
    assert read_record(tmp_path)["base_model"] is None


def test_without_a_record_there_is_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not a valid record of a run"),
        ("[]", "is not a valid record of a run"),
        ('{"format_version": 2}', "upgrade"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_record(tmp_path)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("recipe", [1]),
        ("recipe", {"sparcity": {}}),
        ("step", "ten"),
        ("total_steps", 2.5),
        ("seconds", "long"),
        ("facts", ["letters"]),
        ("arguments", 3),
        ("teacher", {}),
        ("date", "yesterday"),
    ],
)
def test_a_record_with_a_damaged_part_is_named_by_its_path(trained: Path, part: str, value: object) -> None:
    record = json.loads((trained / RECORD).read_text())
    (trained / RECORD).write_text(json.dumps(record | {part: value}))
    with pytest.raises(ValueError, match=f"{RECORD} is not a valid record of a run"):
        read_record(trained)


def test_facts_of_any_kind_are_shown_as_text() -> None:
    facts = (3, 0.5, ["/scratch/a.json", "b"], "/scratch/letters", "nyu-mll/glue")
    assert [fact_text(fact) for fact in facts] == ["3", "0.5", "a.json, b", "letters", "nyu-mll/glue"]


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("bert-base-uncased", False),
        ("owner/name", False),
        ("/home/somebody/model", True),
        ("./model", True),
        ("runs/sst2/model", True),
    ],
)
def test_names_on_the_hub_are_told_from_paths(name: str, local: bool) -> None:
    assert is_local(name) == local
    assert public_name(name) == ("model" if local else name)


def test_a_record_is_as_old_as_the_training_and_not_as_the_file(trained: Path, tmp_path: Path) -> None:
    trainer = SparseTrainer(bert(), arguments(tmp_path / "again", max_steps=1), train_dataset=sentences(4))
    trainer.train()
    ended = trainer.trained_at
    trainer.trained_at = ended.replace(year=2020)
    trainer.save_model()
    assert read_record(tmp_path / "again")["date"].startswith("2020-")
    assert read_record(trained)["date"] <= ended.isoformat(timespec="seconds")


def test_a_run_that_went_on_from_a_checkpoint_does_not_say_how_long_it_took(tmp_path: Path) -> None:
    args = arguments(tmp_path, max_steps=4, save_strategy="steps", save_steps=2)
    for resumed in (None, str(tmp_path / "checkpoint-2")):
        trainer = SparseTrainer(bert(), args, train_dataset=sentences(8))
        trainer.train(resume_from_checkpoint=resumed)
        trainer.save_model()
        assert (read_record(tmp_path)["seconds"] is None) == bool(resumed)


def test_settings_that_json_does_not_know_keep_nothing_from_being_saved(tmp_path: Path) -> None:
    args = arguments(tmp_path, max_steps=1, max_grad_norm=float("inf"))
    trainer = SparseTrainer(bert(), args, train_dataset=sentences(4))
    trainer.train()
    trainer.save_model()
    assert read_record(tmp_path)["arguments"]["max_grad_norm"] == "inf"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": None}, "step is missing"),
        ({"step": True}, "step is True"),
        ({"date": "yesterday"}, "Invalid isoformat"),
        ({"date": "0001-01-01T00:00:00"}, "out of range"),
        ({"versions": {"torch": 2}}, "the version of 'torch' is 2"),
        ({"architecture": ["Bert"]}, "architecture is"),
        ({"facts": []}, "facts is"),
        ({"seconds": float("nan")}, "NaN is not a number"),
        ({"format_version": "1"}, "format_version is '1'"),
        ({"recipe": {"sparsity": {"method": "x" * 5000}}}, "sparsity.method is"),
    ],
)
def test_a_part_of_another_kind_is_refused(changes: dict[str, Any], message: str, trained: Path) -> None:
    record = json.loads((trained / RECORD).read_text()) | changes
    (trained / RECORD).write_text(json.dumps(record))
    with pytest.raises(
        ValueError, match=f"{RECORD} is not a valid record of a run .*{message}.*; delete it"
    ) as caught:
        read_record(trained)
    assert len(str(caught.value)) < 500


def test_what_is_not_known_is_none(trained: Path) -> None:
    known = ("format_version", "recipe", "step")
    record = {name: json.loads((trained / RECORD).read_text())[name] for name in known}
    (trained / RECORD).write_text(json.dumps(record | {"arguments": None}))
    found = read_record(trained)
    assert found["seconds"] is None and found["architecture"] == "" and found["arguments"] == {}
