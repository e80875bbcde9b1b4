"""run_glue: GLUE tasks, other labeled texts, models with labels of their own."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
)

from hf_sparse import measure_sparsity
from tests.scripts.tiny_data import results, sentences, write_table

Script = Callable[[str], ModuleType]

# columns of text, labels as the task's files have them, scores
TASKS = {
    "cola": (["sentence"], [0, 1], ["matthews_correlation"]),
    "sst2": (["sentence"], [0, 1], ["accuracy"]),
    "mrpc": (["sentence1", "sentence2"], [0, 1], ["accuracy", "f1", "combined_score"]),
    "qqp": (["question1", "question2"], [0, 1], ["accuracy", "f1", "combined_score"]),
    "stsb": (["sentence1", "sentence2"], [0.5, 4.2], ["pearson", "spearmanr", "combined_score"]),
    "mnli": (["premise", "hypothesis"], [0, 1, 2], ["accuracy"]),
    "qnli": (["question", "sentence"], ["entailment", "not_entailment"], ["accuracy"]),
    "rte": (["sentence1", "sentence2"], ["not_entailment", "entailment"], ["accuracy"]),
    "wnli": (["sentence1", "sentence2"], [0, 1], ["accuracy"]),
}


def table(columns: list[str], labels: list[object], rows: int, seed: int = 0) -> dict[str, list[object]]:
    texts = {column: sentences(rows, seed + i) for i, column in enumerate(columns)}
    return texts | {"label": [labels[i % len(labels)] for i in range(rows)], "idx": list(range(rows))}


def arguments(model: Path, data: Path, output: Path, *others: str) -> list[str]:
    given = f"--model_name_or_path {model} --dataset_name {data} --output_dir {output}"
    fixed = "--use_cpu True --disable_tqdm True --per_device_train_batch_size 4 --max_steps 2 --do_eval"
    return [*given.split(), *fixed.split(), *others]


def classifier(folder: Path, config: BertConfig, tokenizer: BertTokenizerFast, names: list[str]) -> Path:
    torch.manual_seed(1)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    model = BertForSequenceClassification(BertConfig(**config.to_dict() | labels))
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_each_task_is_scored_by_its_metrics(
    script: Script, model_dir: Path, tmp_path: Path, task: str
) -> None:
    columns, labels, scores = TASKS[task]
    write_table(tmp_path / task / "train.parquet", table(columns, labels, 8))
    write_table(tmp_path / task / "validation.parquet", table(columns, labels, 6, seed=5))
    output = tmp_path / "out"
    script("run_glue").main(arguments(model_dir, tmp_path / task, output, "--task_name", task, "--do_train"))
    assert {f"eval_{score}" for score in scores} <= set(results(output, "eval"))
    assert results(output, "train")["train_samples"] == 8 and results(output)["sparsity"] == 0
    config = json.loads((output / "config.json").read_text())
    names = script("run_glue").glue_task(task).labels
    assert task == "stsb" or config["id2label"] == {str(i): name for i, name in enumerate(names)}


def test_mnli_is_evaluated_on_both_sets(
    script: Script, config: BertConfig, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    columns, labels, _ = TASKS["mnli"]
    for seed, split in enumerate(
        ["validation_matched", "validation_mismatched", "test_matched", "test_mismatched"]
    ):
        write_table(tmp_path / "mnli" / f"{split}.jsonl", table(columns, labels, 9 + seed, seed))
    model = classifier(tmp_path / "model", config, tokenizer, ["entailment", "neutral", "contradiction"])
    output = tmp_path / "out"
    script("run_glue").main(
        arguments(
            model,
            tmp_path / "mnli",
            output,
            "--task_name",
            "mnli",
            "--do_predict",
            "--max_predict_samples",
            "4",
        )
    )
    scores = results(output, "eval")
    assert scores["eval_samples"] == 9 and scores["eval_samples_mm"] == 10
    assert 0 <= scores["eval_accuracy"] <= 1 and 0 <= scores["eval_accuracy_mm"] <= 1
    for split in ("test_matched", "test_mismatched"):
        lines = (output / f"predict_results_{split}.txt").read_text().splitlines()
        assert lines[0] == "index\tprediction" and len(lines) == 5
        assert {line.split("\t")[1] for line in lines[1:]} <= {"entailment", "neutral", "contradiction"}


def test_other_texts_bring_their_own_classes(script: Script, model_dir: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "train.csv", {"note": sentences(6), "kind": ["pear", "fig", "apple"] * 2})
    write_table(tmp_path / "dev.jsonl", {"note": sentences(4), "kind": ["fig"] * 4})
    files = f"--train_file {tmp_path / 'train.csv'} --validation_file {tmp_path / 'dev.jsonl'}"
    fixed = "--label_column_name kind --do_train --do_eval --max_steps 1 --use_cpu True --disable_tqdm True"
    output = tmp_path / "out"
    script("run_glue").main(
        [*files.split(), *fixed.split(), "--model_name_or_path", str(model_dir), "--output_dir", str(output)]
    )
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert model.config.id2label == {0: "apple", 1: "fig", 2: "pear"}
    assert "eval_accuracy" in results(output)


def test_decimal_labels_are_regressed(script: Script, model_dir: Path, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write_table(tmp_path / "data" / f"{split}.parquet", table(["text"], [0.5, 1.25, -2.0], 6))
    output = tmp_path / "out"
    script("run_glue").main(
        arguments(model_dir, tmp_path / "data", output, "--do_train", "--pad_to_max_length")
    )
    config = AutoModelForSequenceClassification.from_pretrained(output).config
    assert config.num_labels == 1 and config.problem_type == "regression"
    assert {"eval_pearson", "eval_spearmanr", "eval_loss"} <= set(results(output))


def test_a_model_with_the_labels_in_another_order_keeps_it(
    script: Script, config: BertConfig, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    rows = table(["sentence1", "sentence2"], [0, 1, 1], 24)
    write_table(tmp_path / "mrpc" / "validation.parquet", rows)
    scores = []
    for names in (["not_equivalent", "equivalent"], ["Equivalent", "Not_Equivalent"]):
        folder = classifier(tmp_path / names[0], config, tokenizer, names)
        if names[0] == "Equivalent":
            swap_classes(folder)
        output = tmp_path / f"scores_of_{names[0]}"
        script("run_glue").main(arguments(folder, tmp_path / "mrpc", output, "--task_name", "mrpc"))
        scores.append(results(output, "eval"))
    assert 0 < scores[0]["eval_f1"] == scores[1]["eval_f1"] < 1
    assert scores[0]["eval_accuracy"] == scores[1]["eval_accuracy"]
    assert scores[0]["eval_loss"] == pytest.approx(scores[1]["eval_loss"])


def swap_classes(folder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.classifier.weight.data = model.classifier.weight.data.flip(0)
    model.classifier.bias.data = model.classifier.bias.data.flip(0)
    model.save_pretrained(folder)


def test_transfer_keeps_the_zeros_while_it_distils(
    script: Script, config: BertConfig, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    columns, labels, _ = TASKS["sst2"]
    for split in ("train", "validation"):
        write_table(tmp_path / "sst2" / f"{split}.parquet", table(columns, labels, 16))
    teacher = classifier(tmp_path / "teacher", config, tokenizer, ["positive", "negative"])
    student = BertForSequenceClassification(config)
    for name, weight in student.named_parameters():
        if "encoder.layer" in name and weight.ndim == 2:
            weight.data[:, ::2] = 0
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")

    output = tmp_path / "out"
    recipe = [
        "--recipe",
        "transfer",
        "--teacher_name_or_path",
        str(teacher),
        "--do_train",
        "--task_name",
        "sst2",
    ]
    script("run_glue").main(arguments(tmp_path / "student", tmp_path / "sst2", output, *recipe))
    model = AutoModelForSequenceClassification.from_pretrained(output)
    assert measure_sparsity(model).overall == results(output)["sparsity"] == 0.5
    # The student, new to these labels, takes the order of its teacher.
    assert model.config.id2label == {0: "positive", 1: "negative"}


def test_a_head_of_another_size_is_replaced_only_on_request(
    script: Script, config: BertConfig, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    columns, labels, _ = TASKS["sst2"]
    write_table(tmp_path / "sst2" / "validation.parquet", table(columns, labels, 4))
    model = classifier(tmp_path / "model", config, tokenizer, ["a", "b", "c"])
    argv = arguments(model, tmp_path / "sst2", tmp_path / "out", "--task_name", "sst2")
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        script("run_glue").main(argv)
    script("run_glue").main([*argv, "--ignore_mismatched_sizes"])
    assert "eval_accuracy" in results(tmp_path / "out")


def test_bad_input_is_refused(script: Script, model_dir: Path, tmp_path: Path) -> None:
    main = script("run_glue").main
    write_table(tmp_path / "data" / "train.parquet", table(["sentence"], [0, 1], 4))
    with pytest.raises(ValueError, match="'sst3' is not a GLUE task"):
        main(arguments(model_dir, tmp_path / "data", tmp_path / "out", "--task_name", "sst3"))
    with pytest.raises(ValueError, match=r"lacks a split 'validation' and has \['train'\]"):
        main(arguments(model_dir, tmp_path / "data", tmp_path / "out"))
    write_table(tmp_path / "data" / "validation.parquet", table(["sentence"], [0, 1], 4))
    with pytest.raises(ValueError, match=r"text column \['premise', 'hypothesis'\] is missing"):
        main(arguments(model_dir, tmp_path / "data", tmp_path / "out", "--task_name", "mnli"))
    nameless = arguments(model_dir, tmp_path / "data", tmp_path / "out", "--tokenizer_name", str(model_dir))[
        2:
    ]
    with pytest.raises(ValueError, match="a model to fine-tune is missing"):
        main(nameless)
