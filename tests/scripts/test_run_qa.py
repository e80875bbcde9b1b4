"""run_qa: training, scores, files, data, resuming."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForQuestionAnswering,
    BertTokenizerFast,
)

from hf_sparse import SparseTrainer, measure_sparsity
from tests.scripts.tiny_data import WORDS, results, write_table

Script = Callable[[str], ModuleType]


def questions(count: int, seed: int = 0, unanswerable: bool = False) -> dict[str, list[object]]:
    """Ask for the word after "ba" in a text, which is too long for one window of 24 tokens."""
    draw = random.Random(seed)
    table: dict[str, list[object]] = {"id": [], "question": [], "context": [], "answers": []}
    for i in range(count):
        words = draw.choices(WORDS[1:], k=30)
        place = draw.randrange(29)
        none = unanswerable and i % 2 == 1
        words[place] = WORDS[1] if none else WORDS[0]
        start = len(" ".join([*words[: place + 1], ""]))
        answers = {"text": [words[place + 1]], "answer_start": [start]}
        table["id"].append(f"q{i}")
        table["question"].append("ba ?")
        table["context"].append(" ".join(words))
        table["answers"].append({"text": [], "answer_start": []} if none else answers)
    return table


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_table(tmp_path / "data" / "train.parquet", questions(16))
    write_table(tmp_path / "data" / "validation.jsonl", questions(6, seed=1))
    test = questions(5, seed=2)
    del test["answers"]
    write_table(tmp_path / "data" / "test.parquet", test)
    return tmp_path / "data"


def arguments(model: Path, data: Path, output: Path, *others: str) -> list[str]:
    given = f"--model_name_or_path {model} --dataset_name {data} --output_dir {output}"
    fixed = "--use_cpu True --disable_tqdm True --per_device_train_batch_size 4 --max_seq_length 24"
    return [*given.split(), *fixed.split(), "--doc_stride", "8", *others]


def answerer(folder: Path, config: BertConfig, tokenizer: BertTokenizerFast, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    model = BertForQuestionAnswering(config)
    for name, weight in model.named_parameters():
        if seed == 2 and "encoder.layer" in name and weight.ndim == 2:
            weight.data[:, ::2] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def read(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def test_transfer_keeps_the_zeros_while_it_distils(
    script: Script, config: BertConfig, tokenizer: BertTokenizerFast, data: Path, tmp_path: Path
) -> None:
    teacher = answerer(tmp_path / "teacher", config, tokenizer)
    student = answerer(tmp_path / "student", config, tokenizer, seed=2)
    taught = f"--recipe transfer --teacher_name_or_path {teacher} --warmup_steps 0.06 --max_steps 3"
    fixed = "--save_strategy no --do_train --do_eval --max_eval_samples 4 --seed 42"
    output = tmp_path / "out"
    script("run_qa").main(arguments(student, data, output, *taught.split(), *fixed.split()))
    scores = results(output)
    assert {"eval_exact_match", "eval_f1", "train_runtime", "train_loss"} <= scores.keys()
    assert 0 <= scores["eval_exact_match"] <= scores["eval_f1"] <= 100
    # Windows are trained on, questions evaluated.
    assert scores["train_samples"] > 16 and scores["eval_samples"] == 4
    assert measure_sparsity(AutoModelForQuestionAnswering.from_pretrained(output)).overall == 0.5
    assert scores["sparsity"] == 0.5


def test_predictions_are_written_for_questions_without_answers(
    script: Script, model_dir: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    argv = arguments(
        model_dir, data, output, "--do_predict", "--n_best_size", "3", "--max_predict_samples", "4"
    )
    script("run_qa").main(argv)
    predictions = read(output / "predict_predictions.json")
    candidates = read(output / "predict_nbest_predictions.json")
    assert list(predictions) == list(candidates) == ["q0", "q1", "q2", "q3"]
    for name, text in predictions.items():
        assert (
            text and text in dict(zip(questions(5, 2)["id"], questions(5, 2)["context"], strict=True))[name]
        )
        assert candidates[name][0]["text"] == text and len(candidates[name]) == 3
        assert list(candidates[name][0]) == ["text", "probability", "start_logit", "end_logit"]
    assert not (output / "predict_null_odds.json").exists()
    assert results(output, "predict")["predict_samples"] == 4


def test_version_2_scores_and_predicts_missing_answers(
    script: Script, model_dir: Path, tmp_path: Path
) -> None:
    for seed, split in enumerate(["train", "validation", "test"]):
        write_table(tmp_path / "data" / f"{split}.parquet", questions(8, seed, unanswerable=True))
    output = tmp_path / "out"
    flags = "--version_2_with_negative --do_train --do_eval --do_predict --max_steps 2"
    threshold = "--null_score_diff_threshold=-1000"
    script("run_qa").main(arguments(model_dir, tmp_path / "data", output, *flags.split(), threshold))
    scores = results(output)
    assert (scores["eval_NoAns_exact"], scores["eval_HasAns_exact"], scores["eval_total"]) == (100, 0, 8)
    assert {
        "eval_best_f1",
        "eval_best_f1_thresh",
        "eval_best_exact",
        "eval_best_exact_thresh",
    } <= scores.keys()
    assert set(read(output / "predict_predictions.json").values()) == {""}
    odds = read(output / "predict_null_odds.json")
    assert list(odds) == [f"q{i}" for i in range(8)] and all(
        isinstance(value, float) for value in odds.values()
    )
    argv = arguments(model_dir, tmp_path / "data", tmp_path / "other", "--do_eval", *flags.split()[:1])
    script("run_qa").main([*argv, "--null_score_diff_threshold", "1000"])
    assert results(tmp_path / "other")["eval_NoAns_exact"] == 0


def test_an_interrupted_run_goes_on_to_end_bit_for_bit_the_same(
    script: Script, model_dir: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = ["--do_train", "--max_steps", "4", "--save_steps", "2", "--recipe", "gmp_finetune"]
    run_qa = script("run_qa")
    run_qa.main(arguments(model_dir, data, tmp_path / "straight", *others))
    whole_step = SparseTrainer.training_step

    def interrupted(trainer: SparseTrainer, *given: object, **named: object) -> object:
        if trainer.state.global_step == 3:
            raise KeyboardInterrupt
        return whole_step(trainer, *given, **named)

    monkeypatch.setattr(SparseTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_qa.main(arguments(model_dir, data, tmp_path / "resumed", *others))
    monkeypatch.setattr(SparseTrainer, "training_step", whole_step)
    run_qa.main(arguments(model_dir, data, tmp_path / "resumed", *others))
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("straight", "resumed")]
    assert weights[0] == weights[1]


def test_the_best_model_is_chosen_by_f1(script: Script, model_dir: Path, data: Path, tmp_path: Path) -> None:
    chosen = "--eval_strategy steps --eval_steps 2 --save_strategy steps --save_steps 2 --max_steps 6"
    best = "--load_best_model_at_end --metric_for_best_model f1 --do_train --do_eval --learning_rate 1e-2"
    output = tmp_path / "out"
    script("run_qa").main(arguments(model_dir, data, output, *chosen.split(), *best.split()))
    state = read(output / "trainer_state.json")
    scores = [line["eval_f1"] for line in state["log_history"] if "eval_f1" in line]
    assert state["best_metric"] == max(scores) == results(output)["eval_f1"]


def test_files_with_columns_of_other_names(script: Script, model_dir: Path, tmp_path: Path) -> None:
    table = questions(6)
    renamed = {"query": table["question"], "story": table["context"], "gold": table["answers"]}
    for split in ("train", "dev", "test"):
        write_table(tmp_path / f"{split}.jsonl", renamed)
    files = f"--train_file {tmp_path / 'train.jsonl'} --validation_file {tmp_path / 'dev.jsonl'}"
    more = f"--test_file {tmp_path / 'test.jsonl'} --context_column_name story --answer_column_name gold"
    fixed = "--do_train --do_eval --do_predict --max_steps 1 --max_seq_length 32 --pad_to_max_length"
    output = tmp_path / "out"
    given = (
        f"--model_name_or_path {model_dir} --output_dir {output} --doc_stride 9 --use_cpu --disable_tqdm True"
    )
    script("run_qa").main([*files.split(), *more.split(), *fixed.split(), *given.split()])
    assert results(output)["eval_samples"] == 6
    assert list(read(output / "predict_predictions.json")) == [str(i) for i in range(6)]


def test_misplaced_answers_are_not_trained_on(
    script: Script, model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = questions(4)
    table["answers"][2]["answer_start"] = [0]
    write_table(tmp_path / "data" / "train.parquet", table)
    output = tmp_path / "out"
    script("run_qa").main(arguments(model_dir, tmp_path / "data", output, "--do_train", "--max_steps", "1"))
    assert "1 of 4 questions are left out of training" in caplog.text


def test_bad_input_is_refused(script: Script, model_dir: Path, data: Path, tmp_path: Path) -> None:
    main = script("run_qa").main

    def given(folder: Path, *others: str) -> list[str]:
        return arguments(model_dir, folder, tmp_path / "out", *others)

    with pytest.raises(ValueError, match="a model to fine-tune is missing"):
        main(["--output_dir", str(tmp_path / "out"), "--do_eval"])
    with pytest.raises(ValueError, match="n_best_size is at least 1"):
        main(given(data, "--do_eval", "--n_best_size", "0"))
    with pytest.raises(ValueError, match="leaves room for 19 tokens .* doc_stride 128 must be less"):
        main(given(data, "--do_eval", "--doc_stride", "128"))
    write_table(tmp_path / "v2" / "validation.parquet", questions(4, unanswerable=True))
    with pytest.raises(ValueError, match="2 of 4 questions have no answer; set version_2_with_negative"):
        main(given(tmp_path / "v2", "--do_eval"))
    write_table(tmp_path / "bare" / "train.parquet", {"question": ["ba ?"], "context": ["ba be"]})
    with pytest.raises(ValueError, match="column 'answers' or 'answer' is missing among"):
        main(given(tmp_path / "bare", "--do_train"))
    best = "--do_train --do_eval --eval_strategy epoch --save_strategy epoch --load_best_model_at_end"
    with pytest.raises(ValueError, match="answers are scored without a loss"):
        main(given(data, *best.split()))
