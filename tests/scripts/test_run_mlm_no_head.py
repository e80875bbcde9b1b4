"""run_mlm with --no_head: encoders with and without a pooler, and refusals."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertModel,
)

from hf_sparse import SparseTrainer, measure_sparsity
from tests.scripts.tiny_data import results, sentences, write_table

Script = Callable[[str], ModuleType]

RECIPE = ["--recipe", "prune_encoder_90", "--recipe_override", "sparsity.schedule.final=0.5"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    for split, count in (("train", 48), ("validation", 12)):
        rows = [". ".join(sentences(4, seed=i, length=4)) + "." for i in range(count)]
        write_table(tmp_path / "text" / f"{split}.parquet", {"text": rows})
    return tmp_path / "text"


@pytest.fixture
def encoder(tmp_path: Path, config: BertConfig, tokenizer: BertTokenizerFast) -> Path:
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


def arguments(model: Path, text: Path, output: Path, *others: str) -> list[str]:
    given = f"--no_head --model_name_or_path {model} --dataset_name {text} --output_dir {output} --do_train"
    fixed = "--sentence_pairs --single_share 0.25 --max_seq_length 24 --per_device_train_batch_size 4"
    return [*given.split(), *fixed.split(), "--disable_tqdm", "True", "--report_to", "none", *others]


def test_an_encoder_becomes_sparse_and_a_task_is_learned_from_it(
    script: Script, encoder: Path, text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    others = [
        "--do_eval",
        "--freeze",
        "embeddings",
        "--dropout",
        "0",
        "--max_steps",
        "10",
        "--logging_steps",
        "1",
    ]
    with caplog.at_level(logging.INFO, "hf_sparse.scripts"):
        script("run_mlm").main(arguments(encoder, text, output, *RECIPE, *others))
    assert "The pooler is kept as it is: hidden states do not pass through it." in caplog.messages
    found, dense, log = BertModel.from_pretrained(output), BertModel.from_pretrained(encoder), results(output)
    assert measure_sparsity(found).overall == pytest.approx(0.5, abs=1e-3)
    assert torch.equal(found.pooler.dense.weight, dense.pooler.dense.weight)
    assert torch.equal(found.embeddings.word_embeddings.weight, dense.embeddings.word_embeddings.weight)
    assert not torch.equal(found.encoder.layer[0].output.dense.bias, dense.encoder.layer[0].output.dense.bias)
    assert found.config.hidden_dropout_prob == found.config.attention_probs_dropout_prob == 0
    assert 0 < log["eval_distance_1"] < 1 and 0 < log["eval_distance_2"] < 1
    assert log["num_input_tokens_seen"] > 0 and "eval_loss" not in log
    write_table(tmp_path / "task" / "train.csv", {"sentence": sentences(32), "label": [0, 1] * 16})
    given = f"--model_name_or_path {output} --train_file {tmp_path / 'task' / 'train.csv'} --do_train"
    fixed = f"--max_steps 2 --report_to none --output_dir {tmp_path / 'task_model'}"
    script("run_glue").main([*given.split(), *fixed.split()])
    task = AutoModelForSequenceClassification.from_pretrained(tmp_path / "task_model")
    assert measure_sparsity(task).overall == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_an_encoder_saved_without_a_pooler_gets_none(
    script: Script,
    family: str,
    config: BertConfig,
    tokenizer: BertTokenizerFast,
    text: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if family == "bert":
        model = BertModel(config, add_pooling_layer=False)
    else:
        sizes = {"vocab_size": config.vocab_size, "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}
        model = DistilBertModel(DistilBertConfig(**sizes, max_position_embeddings=32))
    model.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    with caplog.at_level(logging.INFO, "hf_sparse.scripts"):
        argv = arguments(tmp_path / "encoder", text, tmp_path / "out", *RECIPE, "--max_steps", "4")
        script("run_mlm").main(argv)
    assert "No pooler is kept: the model was saved without one." in caplog.messages
    _, loading = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not loading["unexpected_keys"]


def test_another_encoder_may_teach(
    script: Script,
    encoder: Path,
    config: BertConfig,
    tokenizer: BertTokenizerFast,
    text: Path,
    tmp_path: Path,
) -> None:
    deeper = BertConfig(**(config.to_dict() | {"num_hidden_layers": 4, "hidden_size": 48}))
    BertModel(deeper).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    given = [
        "--recipe_override",
        "distillation.teacher=given",
        "sparsity.schedule.final=0.5",
        "--max_steps",
        "4",
    ]
    argv = arguments(encoder, text, tmp_path / "out", "--recipe", "prune_encoder_90", *given, "--do_eval")
    script("run_mlm").main([*argv, "--teacher_name_or_path", str(tmp_path / "teacher")])
    # States of other widths have no distance.
    assert "eval_distance_1" not in results(tmp_path / "out")


def test_an_interrupted_run_goes_on_to_end_bit_for_bit_the_same(
    script: Script, encoder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [*RECIPE, "--num_train_epochs", "2", "--save_steps", "5"]
    run_mlm = script("run_mlm")
    run_mlm.main(arguments(encoder, text, tmp_path / "straight", *others))
    steps = results(tmp_path / "straight", "train")["train_samples"] // 4
    whole_step = SparseTrainer.training_step

    def interrupted(trainer: SparseTrainer, *given: object, **named: object) -> object:
        # In the second epoch, whose order must be found again.
        if trainer.state.global_step == steps + 8:
            raise KeyboardInterrupt
        return whole_step(trainer, *given, **named)

    monkeypatch.setattr(SparseTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_mlm.main(arguments(encoder, text, tmp_path / "resumed", *others))
    monkeypatch.setattr(SparseTrainer, "training_step", whole_step)
    run_mlm.main(arguments(encoder, text, tmp_path / "resumed", *others))
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("straight", "resumed")]
    assert weights[0] == weights[1]


def test_what_an_encoder_alone_cannot_do_is_refused(
    script: Script, encoder: Path, text: Path, tmp_path: Path
) -> None:
    main = script("run_mlm").main
    with pytest.raises(ValueError, match="task has weight 0.5, and BertModel lacks a head"):
        main(
            arguments(
                encoder,
                text,
                tmp_path / "out",
                "--recipe",
                "prune_ofa_90",
                "--teacher_name_or_path",
                str(encoder),
            )
        )
    with pytest.raises(ValueError, match="the recipe lacks distillation; give --recipe prune_encoder_90"):
        main(arguments(encoder, text, tmp_path / "out", "--sparsity", "0.5", "--max_steps", "20"))
    argv = arguments(encoder, text, tmp_path / "out", *RECIPE)
    with pytest.raises(ValueError, match="sparsity.include names the pooler, .* leave it out"):
        main([*argv, "sparsity.include=[pooler]"])
    for option in ("--next_sentence True", "--mlm_probability 0.4", "--eval_strategy steps"):
        with pytest.raises(
            ValueError, match=f"{option.split()[0]} .*is about a loss that --no_head does not use"
        ):
            main([*argv, "--do_eval", *option.split()])
    with pytest.raises(ValueError, match="lacks a loss to evaluate, .* distance .* evaluate-distance"):
        main([word for word in argv if word != "--do_train"] + ["--do_eval"])
    write_table(tmp_path / "lines" / "train.csv", {"text": sentences(40)})
    with pytest.raises(ValueError, match="pairs are made of texts of at least two sentences"):
        main(arguments(encoder, tmp_path / "lines", tmp_path / "out", *RECIPE))
