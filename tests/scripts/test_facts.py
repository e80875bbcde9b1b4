"""Task and dataset in the record of a script's run."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts.test_run_qa import questions
from tests.scripts.tiny_data import sentences, write_table

SHORT = "--use_cpu True --disable_tqdm True --max_steps 1 --do_train --do_eval --report_to none"
Script = Callable[[str], ModuleType]


def recorded(folder: Path) -> dict[str, str]:
    return json.loads((folder / "hf_sparse_run.json").read_text())["facts"]


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        (
            {"dataset_name": "nyu-mll/glue", "dataset_config_name": "sst2"},
            {"dataset": "nyu-mll/glue", "config": "sst2"},
        ),
        ({"train_file": "/data/mine/train.csv"}, {"dataset": "train.csv"}),
        ({"train_file": "a/train.csv", "validation_file": "b/dev.csv"}, {"dataset": "train.csv, dev.csv"}),
        ({"train_file": "one.csv", "validation_file": "two/one.csv"}, {"dataset": "one.csv"}),
    ],
)
def test_data_go_by_their_name_without_their_path(
    script: Script, given: dict[str, str], facts: dict[str, str]
) -> None:
    common = script("common")
    assert common.facts(common.DataArguments(**given), "fill-mask") == {"task": "fill-mask", **facts}


def test_a_directory_is_no_data_set_of_the_hub(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    common = script("common")
    found = common.facts(common.DataArguments(dataset_name="owner/name"), "fill-mask", "validation")
    assert found == {"task": "fill-mask", "dataset": "name", "split": "validation"}


def test_run_glue_records_its_task_and_the_split_it_was_scored_on(
    script: Script, model_dir: Path, tmp_path: Path
) -> None:
    columns = {"text": sentences(8), "label": [0, 1] * 4}
    for split in ("train", "validation"):
        write_table(tmp_path / "mine" / f"{split}.csv", columns)
    given = (
        f"--model_name_or_path {model_dir} --dataset_name {tmp_path / 'mine'} --output_dir {tmp_path / 'out'}"
    )
    script("run_glue").main([*given.split(), *SHORT.split()])
    assert recorded(tmp_path / "out") == {
        "task": "text-classification",
        "dataset": "mine",
        "split": "validation",
    }


def test_run_mlm_says_that_its_texts_were_set_apart(script: Script, model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(sentences(60)))
    given = f"--model_name_or_path {model_dir} --train_file {file} --output_dir {tmp_path / 'out'}"
    script("run_mlm").main([*given.split(), "--max_seq_length", "8", *SHORT.split()])
    assert recorded(tmp_path / "out") == {
        "task": "fill-mask",
        "dataset": "texts.txt",
        "split": "the first 5 % of train",
    }


def test_run_qa_records_its_task(script: Script, model_dir: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write_table(tmp_path / "asked" / f"{split}.parquet", questions(8))
    given = f"--model_name_or_path {model_dir} --dataset_name {tmp_path / 'asked'} --doc_stride 8"
    script("run_qa").main([*given.split(), "--output_dir", str(tmp_path / "out"), *SHORT.split()])
    assert recorded(tmp_path / "out") == {
        "task": "question-answering",
        "dataset": "asked",
        "split": "validation",
    }
