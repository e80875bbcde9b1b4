"""run_mlm: files it writes, texts it reads, resuming."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from transformers import AutoModelForMaskedLM, BertConfig, BertModel, BertTokenizerFast

from hf_sparse import SparseTrainer, find_targets, measure_sparsity
from tests.cli.commands import lines
from tests.scripts.tiny_data import results, sentences, write_table

Script = Callable[[str], ModuleType]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    write_table(tmp_path / "text" / "train.parquet", {"text": sentences(64), "source": ["x"] * 64})
    write_table(
        tmp_path / "text" / "validation.parquet", {"text": sentences(16, seed=1), "source": ["x"] * 16}
    )
    return tmp_path / "text"


def arguments(model: Path, text: Path, output: Path, *others: str) -> list[str]:
    given = f"--model_name_or_path {model} --dataset_name {text} --output_dir {output}"
    fixed = "--use_cpu True --disable_tqdm True --per_device_train_batch_size 4 --max_seq_length 16"
    return [*given.split(), *fixed.split(), *others]


PRUNE = ["--recipe", "prune_ofa_90", "--recipe_override", "sparsity.schedule.final=0.5", "--do_train"]


def test_a_pruned_and_distilled_model_loads_as_a_plain_one(
    script: Script, model_dir: Path, text: Path, tmp_path: Path
) -> None:
    output = tmp_path / "pruned"
    argv = arguments(model_dir, text, output, *PRUNE, "--teacher_name_or_path", str(model_dir), "--do_eval")
    script("run_mlm").main([*argv, "--max_steps", "8"])
    assert {"eval_loss", "eval_accuracy", "perplexity", "sparsity", "train_loss", "eval_samples"} <= set(
        results(output)
    )
    assert (
        results(output, "train")["sparsity"]
        == results(output, "eval")["sparsity"]
        == pytest.approx(0.5, abs=1e-3)
    )
    assert (
        measure_sparsity(AutoModelForMaskedLM.from_pretrained(output)).overall == results(output)["sparsity"]
    )


def test_a_run_begins_where_pruning_by_texts_ended(
    script: Script, model_dir: Path, text: Path, tmp_path: Path
) -> None:
    half, output = tmp_path / "half", tmp_path / "pruned"
    how = ["--sparsity", 0.3, "--method", "sparse_gpt", "--calibration", text / "train.parquet"]
    lines("prune", model_dir, half, *how, "--text-column", "text")
    settings = ["--recipe_override", "sparsity.schedule.initial=0.3", "sparsity.schedule.final=0.5"]
    argv = arguments(half, text, output, "--do_train", "--max_steps", "8", "--recipe", "prune_ofa_90")
    script("run_mlm").main([*argv, *settings, "--teacher_name_or_path", str(model_dir)])
    before, after = (AutoModelForMaskedLM.from_pretrained(path) for path in (half, output))
    assert measure_sparsity(before).overall == pytest.approx(0.3, abs=1e-3)
    assert measure_sparsity(after).overall == pytest.approx(0.5, abs=1e-3)
    for old, new in zip(find_targets(before), find_targets(after), strict=True):
        assert not new.weight[old.weight == 0].any()


def test_an_interrupted_run_goes_on_to_end_bit_for_bit_the_same(
    script: Script, model_dir: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [
        *PRUNE,
        "--teacher_name_or_path",
        str(model_dir),
        *["--num_train_epochs", "2", "--save_steps", "5"],
    ]
    run_mlm = script("run_mlm")
    run_mlm.main(arguments(model_dir, text, tmp_path / "straight", *others))

    whole_step = SparseTrainer.training_step

    def interrupted(trainer: SparseTrainer, *given: object, **named: object) -> object:
        if trainer.state.global_step == 17:
            raise KeyboardInterrupt
        return whole_step(trainer, *given, **named)

    monkeypatch.setattr(SparseTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_mlm.main(arguments(model_dir, text, tmp_path / "resumed", *others))
    monkeypatch.setattr(SparseTrainer, "training_step", whole_step)
    run_mlm.main(arguments(model_dir, text, tmp_path / "resumed", *others))

    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("straight", "resumed")]
    assert weights[0] == weights[1]


def test_an_encoder_without_a_head_gets_a_new_one(
    script: Script, config: BertConfig, tokenizer: BertTokenizerFast, text: Path, tmp_path: Path
) -> None:
    BertModel(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    script("run_mlm").main(arguments(tmp_path / "encoder", text, tmp_path / "out", "--do_eval"))
    assert results(tmp_path / "out", "eval")["sparsity"] == 0


def test_a_new_model_takes_its_size_from_the_command_line(
    script: Script, model_dir: Path, text: Path, tmp_path: Path
) -> None:
    size = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16"
    given = f"--model_type bert --config_overrides {size} --tokenizer_name {model_dir} --dataset_name {text}"
    fixed = f"--do_train --max_steps 1 --use_cpu True --disable_tqdm True --output_dir {tmp_path / 'out'}"
    script("run_mlm").main([*given.split(), *fixed.split()])
    new = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert new.config.hidden_size == 16 and new.config.vocab_size == 65


def test_lines_are_padded_to_the_longest_in_their_batch(
    script: Script, model_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "lines.txt").write_text("ba be\n\nbi bo bu da de di do du\n" * 8)
    files = f"--train_file {tmp_path / 'lines.txt'} --model_name_or_path {model_dir}"
    fixed = "--line_by_line --do_train --do_eval --max_steps 2 --use_cpu True --disable_tqdm True"
    script("run_mlm").main([*files.split(), *fixed.split(), "--output_dir", str(tmp_path / "out")])
    # 5 in a hundred of 24 lines is 1: the one set apart for validation.
    assert results(tmp_path / "out")["eval_samples"] == 1
    assert results(tmp_path / "out")["train_samples"] == 15


def test_bad_input_is_refused(script: Script, model_dir: Path, tmp_path: Path) -> None:
    main = script("run_mlm").main
    write_table(tmp_path / "short" / "train.csv", {"text": ["ba be"]})
    with pytest.raises(ValueError, match="'text' lacks a block of 16 tokens; lower --max_seq_length"):
        main(arguments(model_dir, tmp_path / "short", tmp_path / "out", "--do_train"))
    with pytest.raises(ValueError, match="--config_overrides is for new models"):
        main(
            arguments(
                model_dir, tmp_path / "short", tmp_path / "out", "--do_train", "--config_overrides", "a=1"
            )
        )
    with pytest.raises(ValueError, match="a percentage is between 0 and 100, got 100"):
        main(["--output_dir", str(tmp_path), "--do_eval", "--validation_split_percentage", "100"])
    with pytest.raises(ValueError, match="predicts nothing new; leave --do_predict out, --do_eval scores"):
        main(arguments(model_dir, tmp_path / "short", tmp_path / "out", "--do_predict"))
    with pytest.raises(ValueError, match="no tokenizer"):
        main(["--output_dir", str(tmp_path / "out"), "--do_eval"])
