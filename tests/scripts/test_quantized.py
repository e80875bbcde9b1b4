"""Quantized models of the scripts: plain directory, small formats, scores with rounding."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertTokenizerFast,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from hf_sparse import SparseTrainer
from hf_sparse.checkpoint.load import load_model
from hf_sparse.checkpoint.packed.model import load_packed
from hf_sparse.checkpoint.sidecar import SIDECAR
from tests.scripts.tiny_data import WORDS, results, sentences, write_table

Script = Callable[[str], ModuleType]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    for seed, split in enumerate(("train", "validation")):
        rows = {"text": sentences(32, seed), "label": [0, 1] * 16}
        write_table(tmp_path / "text" / f"{split}.parquet", rows)
    return tmp_path / "text"


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    context = " ".join(WORDS[:12])
    answer = {"text": [WORDS[3]], "answer_start": [context.index(WORDS[3])]}
    rows = {"id": [f"q{i}" for i in range(8)], "question": ["ba ?"] * 8, "context": [context] * 8}
    for split in ("train", "validation", "test"):
        write_table(tmp_path / "questions" / f"{split}.jsonl", rows | {"answers": [answer] * 8})
    return tmp_path / "questions"


def arguments(model: Path, data: Path, output: Path, *others: str) -> list[str]:
    given = f"--model_name_or_path {model} --dataset_name {data} --output_dir {output}"
    fixed = "--use_cpu True --disable_tqdm True --per_device_train_batch_size 4 --max_seq_length 24"
    return [*given.split(), *fixed.split(), *others]


TRAIN = ["--do_train", "--do_eval", "--max_steps", "4", "--learning_rate", "1e-3"]
INT8 = [*TRAIN, "--quantize", "int8"]
INT4 = [*TRAIN, "--quantize", "int4"]


def without_sidecar(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(SIDECAR, "packed", "compressed-tensors"))
    return to


@pytest.mark.parametrize("name", ["run_mlm", "run_glue"])
def test_a_quantized_model_is_published_and_scored_as_it_rounds(
    script: Script,
    model_dir: Path,
    text: Path,
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, main = tmp_path / "out", script(name).main
    # Of 4 bits: of 8 a loss may be the same to the last digit.
    main(arguments(model_dir, text, output, *INT4, "--sparsity", "0.5"))
    scores, printed = results(output, "eval"), capsys.readouterr().out
    assert scores["packed_bytes"] == (output / "packed" / "packed.safetensors").stat().st_size
    stock = output / "compressed-tensors" / "model.safetensors"
    assert scores["compressed_tensors_bytes"] == stock.stat().st_size
    assert 1 < scores["packed_ratio"] < scores["encoder_ratio"] < scores["counted_ratio"]
    # A half of the weights at an eighth of the bits.
    assert scores["counted_ratio"] == pytest.approx(16, rel=0.01)
    assert "as papers count" in printed and "packed_bytes" in printed
    assert {key: results(output, "train")[key] for key in ("packed_bytes", "encoder_ratio")}.items() <= (
        scores.items()
    )
    for folder in ("packed", "compressed-tensors"):
        assert len(AutoTokenizer.from_pretrained(output / folder)) == 65

    batch = {"input_ids": torch.arange(5, 21).reshape(2, 8)}
    with torch.no_grad():
        rounded = load_model(str(output))(**batch).logits
        packed = load_packed(output / "packed")(**batch).logits
    assert torch.equal(rounded, packed)

    main(arguments(output, text, tmp_path / "again", "--do_eval"))
    plain = without_sidecar(output, tmp_path / "plain")
    main(arguments(plain, text, tmp_path / "unrounded", "--do_eval"))
    again, unrounded = (results(tmp_path / run, "eval") for run in ("again", "unrounded"))
    assert again["eval_loss"] == scores["eval_loss"] != unrounded["eval_loss"]
    assert again["sparsity"] == scores["sparsity"] == pytest.approx(0.5, abs=1e-3)


def test_answers_are_those_of_the_quantized_model(
    script: Script, model_dir: Path, questions: Path, tmp_path: Path
) -> None:
    output, main = tmp_path / "out", script("run_qa").main
    main(arguments(model_dir, questions, output, *INT8, "--do_predict", "--doc_stride", "8"))
    scores = results(output, "eval")
    assert {"eval_f1", "packed_bytes", "compressed_tensors_bytes"} <= scores.keys()
    odds = {}
    for run, model in (("again", output), ("unrounded", without_sidecar(output, tmp_path / "plain"))):
        main(arguments(model, questions, tmp_path / run, "--do_eval", "--do_predict", "--doc_stride", "8"))
    for run in ("out", "again", "unrounded"):
        odds[run] = json.loads((tmp_path / run / "predict_nbest_predictions.json").read_text())
    assert odds["out"] == odds["again"] != odds["unrounded"]
    assert results(tmp_path / "again", "eval")["eval_f1"] == scores["eval_f1"]


def test_training_goes_on_from_the_unrounded_weights(
    script: Script, model_dir: Path, text: Path, tmp_path: Path
) -> None:
    main = script("run_mlm").main
    main(arguments(model_dir, text, tmp_path / "first", *INT8))
    main(arguments(tmp_path / "first", text, tmp_path / "second", *TRAIN))
    assert not (tmp_path / "second" / "packed").exists()
    assert "packed_bytes" not in results(tmp_path / "second")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "second")
    loaded = load_model(str(tmp_path / "second")).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_what_one_format_does_not_hold_is_published_in_the_other(
    script: Script,
    config: BertConfig,
    tokenizer: BertTokenizerFast,
    text: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    size = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32, "pad_token_id": 0}
    GPT2ForSequenceClassification(GPT2Config(vocab_size=config.vocab_size, **size)).save_pretrained(
        tmp_path / "gpt2"
    )
    tokenizer.save_pretrained(tmp_path / "gpt2")
    output = tmp_path / "out"
    script("run_glue").main(arguments(tmp_path / "gpt2", text, output, *INT8))
    assert "No compressed-tensors model: transformer.h.0.attn.c_attn is a Conv1D" in caplog.text
    assert not (output / "compressed-tensors").exists()
    assert "compressed_tensors_bytes" not in results(output) and results(output)["packed_ratio"] > 1
    assert type(load_packed(output / "packed")) is GPT2ForSequenceClassification


def test_only_the_first_process_publishes(
    script: Script, model_dir: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SparseTrainer, "is_world_process_zero", lambda trainer: False)
    script("run_mlm").main(arguments(model_dir, text, tmp_path / "out", *INT8))
    assert not (tmp_path / "out" / "packed").exists()
