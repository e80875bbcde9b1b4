"""Training arguments that are published with a preset, and the command line's precedence over them."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from hf_sparse import SparseTrainer
from tests.scripts.test_run_glue import TASKS, arguments, table
from tests.scripts.tiny_data import sentences, write_table

Script = Callable[[str], ModuleType]
# Without a teacher, and without the zeros that it would lock: arguments are all that matters here.
TRANSFER = [
    "--recipe",
    "transfer",
    "--recipe_override",
    "sparsity=null",
    "distillation=null",
    "--recipe_arguments",
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    columns, labels, _ = TASKS["sst2"]
    for split in ("train", "validation"):
        write_table(tmp_path / "sst2" / f"{split}.parquet", table(columns, labels, 40))
    return tmp_path / "sst2"


def recorded(folder: Path) -> dict[str, object]:
    return json.loads((folder / "hf_sparse_run.json").read_text())


def without_batch(argv: list[str]) -> list[str]:
    place = argv.index("--per_device_train_batch_size")
    return argv[:place] + argv[place + 2 :]


def test_published_arguments_train_the_model(
    script: Script, model_dir: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    argv = without_batch(arguments(model_dir, data, tmp_path / "out", "--do_train", *TRANSFER))
    place = argv.index("--max_steps")
    with caplog.at_level(logging.INFO):
        script("run_glue").main(argv[:place] + argv[place + 2 :])
    run = recorded(tmp_path / "out")
    # 40 rows are two batches of 32 at most, in each of nine epochs.
    assert (run["total_steps"], run["epochs"]) == (18, 9)
    assert run["arguments"]["learning_rate"] == 1e-4
    assert run["arguments"]["per_device_train_batch_size"] == 32
    assert "From Zafrir et al. 2021 (arXiv:2111.05754)" in caplog.text


def test_the_command_line_wins(
    script: Script, model_dir: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = ["--learning_rate", "3e-5", "--do_train", *TRANSFER]
    with caplog.at_level(logging.INFO):
        script("run_glue").main(arguments(model_dir, data, tmp_path / "out", *given))
    run = recorded(tmp_path / "out")
    assert run["total_steps"] == 2 and run["arguments"]["learning_rate"] == 3e-5
    assert run["arguments"]["per_device_train_batch_size"] == 4
    # Of the batch one part is given, so the other makes the published one of it.
    assert run["arguments"]["gradient_accumulation_steps"] == 8
    assert "where learning_rate 0.0001, num_train_epochs 9 is published" in caplog.text


def test_a_default_that_is_written_out_wins_too(
    script: Script, model_dir: Path, data: Path, tmp_path: Path
) -> None:
    given = ["--learning_rate", "5e-5", "--do_train", *TRANSFER]
    script("run_glue").main(arguments(model_dir, data, tmp_path / "out", *given))
    assert recorded(tmp_path / "out")["arguments"]["learning_rate"] == 5e-5


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_file_of_arguments_wins_likewise(script: Script, tmp_path: Path, form: str) -> None:
    common = script("common")
    values = {
        "output_dir": str(tmp_path / "out"),
        "do_train": True,
        "recipe": "prune_ofa_90",
        "use_cpu": True,
    }
    values |= {"recipe_arguments": True, "weight_decay": 0.1}
    (tmp_path / f"run.{form}").write_text(json.dumps(values))
    kinds = (common.ModelArguments, common.DataArguments)
    *_, training, _ = common.parse(kinds, [str(tmp_path / f"run.{form}")], "fill-mask")
    assert (training.max_steps, training.warmup_steps, training.weight_decay) == (100_000, 0.01, 0.1)
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (32, 8)


def test_without_the_flag_nothing_changes(script: Script, tmp_path: Path) -> None:
    common = script("common")
    argv = ["--output_dir", str(tmp_path), "--do_train", "--recipe", "prune_ofa_90"]
    *_, training, _ = common.parse((common.ModelArguments, common.DataArguments), argv, "fill-mask")
    assert (training.max_steps, training.per_device_train_batch_size, training.weight_decay) == (-1, 8, 0)


def test_an_interrupted_run_goes_on_with_them_bit_for_bit(
    script: Script, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(sentences(200)))
    run_mlm = script("run_mlm")

    def run(name: str) -> None:
        given = f"--model_name_or_path {model_dir} --teacher_name_or_path {model_dir} --train_file {file}"
        fixed = (
            "--do_train --max_seq_length 8 --max_steps 6 --save_steps 2 --use_cpu True --disable_tqdm True"
        )
        recipe = f"--recipe prune_ofa_90 --recipe_arguments --output_dir {tmp_path / name}"
        run_mlm.main(f"{given} {fixed} {recipe}".split())

    run("straight")
    whole_step = SparseTrainer.training_step

    def interrupted(trainer: SparseTrainer, *given: object, **named: object) -> object:
        if trainer.state.global_step == 3:
            raise KeyboardInterrupt
        return whole_step(trainer, *given, **named)

    monkeypatch.setattr(SparseTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("resumed")
    monkeypatch.setattr(SparseTrainer, "training_step", whole_step)
    run("resumed")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "resumed")]
    assert weights[0] == weights[1]
    kept = recorded(tmp_path / "resumed")["arguments"]
    assert (kept["weight_decay"], kept["gradient_accumulation_steps"]) == (0.01, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no --recipe is given"),
        (["--recipe", "gmp_finetune"], "recipe gmp_finetune has none for text-classification"),
        (["--recipe", "prune_ofa_90"], "only for fill-mask"),
        (["--sparsity", "0.5"], "no --recipe is given"),
    ],
)
def test_a_recipe_without_any_is_refused_before_any_data_is_read(
    script: Script, tmp_path: Path, given: list[str], message: str
) -> None:
    argv = arguments(tmp_path / "none", tmp_path / "none", tmp_path / "out", "--do_train", *given)
    with pytest.raises(ValueError, match=message):
        script("run_glue").main([*argv, "--recipe_arguments"])
