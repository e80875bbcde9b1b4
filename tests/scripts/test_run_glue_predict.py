"""run_glue: predictions for data without labels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from tests.scripts.tiny_data import sentences, write_table

Script = Callable[[str], ModuleType]


def answering(
    folder: Path,
    bias: Sequence[float],
    names: Sequence[str],
    config: BertConfig,
    tokenizer: BertTokenizerFast,
) -> Path:
    """Save a model whose outputs are `bias`, whatever it reads."""
    # As in some files on the Hub, without label2id.
    labels = {"id2label": dict(enumerate(names))}
    model = BertForSequenceClassification(BertConfig(**config.to_dict() | labels))
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor(bias)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("task", "names", "bias", "answer"),
    [
        ("stsb", ["LABEL_0"], [3.5], "3.5000"),
        ("mrpc", ["LABEL_0", "LABEL_1"], [0.0, 1.0], "equivalent"),
        ("mrpc", ["Equivalent", "Not_Equivalent"], [0.0, 1.0], "not_equivalent"),
        (None, ["LABEL_0"], [3.5], "3.5000"),
        (None, ["pear", "fig", "apple"], [0.0, 1.0, 0.0], "fig"),
    ],
)
def test_texts_alone_are_answered_in_the_words_of_task_or_model(
    script: Script,
    config: BertConfig,
    tokenizer: BertTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: str | None,
    names: list[str],
    bias: list[float],
    answer: str,
) -> None:
    model = answering(tmp_path / "model", bias, names, config, tokenizer)
    test = tmp_path / "test.jsonl"
    write_table(test, {"sentence1": sentences(2), "sentence2": sentences(2, seed=1)})
    given = f"--model_name_or_path {model} --test_file {test} --output_dir {tmp_path / 'out'} --do_predict"
    # Without labels nothing is scored, so no metric has to be installed.
    monkeypatch.delattr(script("run_glue"), "scores")
    chosen = ["--task_name", task] if task is not None else []
    script("run_glue").main([*given.split(), *chosen, "--use_cpu", "True", "--disable_tqdm", "True"])
    lines = (tmp_path / "out" / "predict_results_test.txt").read_text().splitlines()
    assert lines == ["index\tprediction", f"0\t{answer}", f"1\t{answer}"]


def test_a_model_with_another_number_of_classes_is_refused(
    script: Script, config: BertConfig, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    model = answering(tmp_path / "model", [0.0, 1.0], ["LABEL_0", "LABEL_1"], config, tokenizer)
    test = tmp_path / "test.jsonl"
    write_table(test, {"premise": sentences(2), "hypothesis": sentences(2, seed=1)})
    given = f"--model_name_or_path {model} --test_file {test} --output_dir {tmp_path / 'out'} --do_predict"
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        script("run_glue").main([*given.split(), "--task_name", "mnli", "--use_cpu", "True"])


@pytest.mark.parametrize("strategy", [[], ["--train_sampling_strategy", "group_by_length"]])
def test_answers_stand_in_the_order_of_the_texts(
    script: Script,
    config: BertConfig,
    tokenizer: BertTokenizerFast,
    tmp_path: Path,
    strategy: list[str],
) -> None:
    torch.manual_seed(0)
    sizes = config.to_dict() | {"num_labels": 1, "initializer_range": 0.5}
    model = BertForSequenceClassification(BertConfig(**sizes)).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    texts = [sentences(1, seed=i, length=1 + i * 7 % 12)[0] for i in range(24)]
    write_table(tmp_path / "test.jsonl", {"sentence": texts})
    given = f"--model_name_or_path {tmp_path / 'model'} --test_file {tmp_path / 'test.jsonl'} --do_predict"
    output = ["--output_dir", str(tmp_path / "out"), "--per_device_eval_batch_size", "4"]
    script("run_glue").main([*given.split(), *output, *strategy, "--report_to", "none"])
    lines = (tmp_path / "out" / "predict_results_test.txt").read_text().splitlines()[1:]
    with torch.no_grad():
        expected = [float(model(**tokenizer(text, return_tensors="pt")).logits) for text in texts]
    assert [float(line.split("\t")[1]) for line in lines] == pytest.approx(expected, abs=2e-4)
    assert len({f"{value:.3f}" for value in expected}) > 20
