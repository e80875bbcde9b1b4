"""Scripts: refusals and resuming."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from transformers import BertConfig, BertTokenizerFast, RobertaConfig, RobertaModel, TrainingArguments

Script = Callable[[str], ModuleType]
TASK = "fill-mask"


def arguments(folder: Path, **others: object) -> TrainingArguments:
    return TrainingArguments(str(folder), do_train=True, use_cpu=True, **others)


def checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    return path


def test_an_empty_directory_starts_anew(script: Script, tmp_path: Path) -> None:
    find_checkpoint = script("common").find_checkpoint
    assert find_checkpoint(arguments(tmp_path)) is None
    assert find_checkpoint(arguments(tmp_path / "not there yet")) is None


@pytest.mark.parametrize("flag", [None, "True"])
def test_the_last_checkpoint_is_found_with_or_without_the_flag(
    script: Script, tmp_path: Path, flag: str | None
) -> None:
    checkpoint(tmp_path, 10)
    last = checkpoint(tmp_path, 200)
    assert script("common").find_checkpoint(arguments(tmp_path, resume_from_checkpoint=flag)) == str(last)


def test_the_checkpoint_asked_for_wins(script: Script, tmp_path: Path) -> None:
    asked = checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 200)
    assert script("common").find_checkpoint(arguments(tmp_path, resume_from_checkpoint=str(asked))) == str(
        asked
    )


def test_resuming_without_a_checkpoint_is_refused(script: Script, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lacks a checkpoint to resume from"):
        script("common").find_checkpoint(arguments(tmp_path, resume_from_checkpoint="True"))


def test_training_over_a_finished_model_is_refused(script: Script, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a model but no checkpoint to go on from; choose another"):
        script("common").find_checkpoint(arguments(tmp_path))


def test_a_run_with_nothing_to_do_is_refused(script: Script, tmp_path: Path) -> None:
    common = script("common")
    with pytest.raises(ValueError, match="nothing to do"):
        common.parse((common.ModelArguments, common.DataArguments), ["--output_dir", str(tmp_path)], TASK)


def test_a_bad_recipe_is_refused_before_any_data_is_read(script: Script, tmp_path: Path) -> None:
    common = script("common")
    argv = ["--output_dir", str(tmp_path), "--do_train", "--recipe", "no_such_preset"]
    with pytest.raises(ValueError, match="no_such_preset"):
        common.parse((common.ModelArguments, common.DataArguments), argv, TASK)


def test_arguments_may_come_from_a_file(script: Script, tmp_path: Path) -> None:
    common = script("common")
    (tmp_path / "run.yaml").write_text(
        f"output_dir: {tmp_path}\ndo_eval: true\nsparsity: 0.8\ntrain_file: a.csv\n"
    )
    model, data, training, sparse = common.parse(
        (common.ModelArguments, common.DataArguments), [str(tmp_path / "run.yaml")], TASK
    )
    assert training.do_eval and sparse.sparsity == 0.8 and data.files == {"train": "a.csv"}


def test_a_text_is_no_longer_than_the_model_takes(
    script: Script, tokenizer: BertTokenizerFast, config: BertConfig
) -> None:
    text_length = script("tokenization").text_length
    assert text_length(None, tokenizer, config, most=128) == 32
    assert text_length(512, tokenizer, config, most=128) == 32
    assert text_length(16, tokenizer, config, most=128) == 16
    assert text_length(None, tokenizer, config, most=8) == 8
    # Two of the positions of RoBERTa are no token's.
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    roberta = RobertaConfig(**sizes, max_position_embeddings=22, pad_token_id=1)
    assert text_length(64, tokenizer, roberta, most=128) == 20
    assert text_length(64, tokenizer, RobertaModel(roberta), most=128) == 20


def test_a_split_that_is_missing_is_named(script: Script) -> None:
    with pytest.raises(ValueError, match=r"lacks a split 'train' and has \['test'\]; give --train_file"):
        script("common").take({"test": None}, "train")


def test_an_old_name_of_an_argument_is_read_as_the_new_one(script: Script, tmp_path: Path) -> None:
    common, glue = script("common"), script("run_glue")
    kinds, rest = (
        (common.ModelArguments, glue.GlueDataArguments),
        ["--output_dir", str(tmp_path), "--do_eval"],
    )
    for name in ("--text_column_names", "--text-column-names"):
        with pytest.warns(FutureWarning, match=f"^{name} is an old name; write --text-column$"):
            assert common.parse(kinds, [name, "a", "b", *rest], TASK)[1].text_column == ["a", "b"]
    file = tmp_path / "arguments.yaml"
    file.write_text(f"output_dir: {tmp_path}\ndo_eval: true\ntext_column_names: [a]\n")
    with pytest.warns(FutureWarning, match="^text_column_names is an old name; write text_column$"):
        assert common.parse(kinds, [str(file)], TASK)[1].text_column == ["a"]
