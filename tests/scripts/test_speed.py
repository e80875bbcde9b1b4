"""Defaults that the scripts choose for the machine, and what they log about it."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments

from hf_sparse import Recipe
from hf_sparse.data.length_groups import LengthGroups

Script = Callable[[str], ModuleType]
ASKED = {"use_cpu": True, "do_train": True}


@pytest.fixture
def on(script: Script, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Make the scripts believe that a processor multiplies bfloat16, or does not."""

    def hardware(name: str | None, gain: float = 1.0) -> ModuleType:
        speed = script("speed")
        monkeypatch.setattr(speed, "bf16_hardware", lambda accelerator: name)
        monkeypatch.setattr(speed, "bf16_speedup", lambda: gain)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
        return speed

    return hardware


def test_bfloat16_is_chosen_where_the_processor_multiplies_it(on: Callable[..., ModuleType]) -> None:
    assert on("amx_bf16").defaults(Recipe(), ASKED)["bf16"] is True
    assert "bf16" not in on(None).defaults(Recipe(), ASKED)
    assert "bf16" not in on("amx_bf16").defaults(Recipe(), ASKED | {"fp16": True})


def test_without_training_nothing_is_reordered_or_rounded(on: Callable[..., ModuleType]) -> None:
    chosen = on("amx_bf16").defaults(Recipe(), {"do_eval": True})
    assert "bf16" not in chosen and "train_sampling_strategy" not in chosen


def test_rounding_to_8_bits_is_learned_in_single_precision(on: Callable[..., ModuleType]) -> None:
    assert "bf16" not in on("amx_bf16").defaults(Recipe.preset("transfer_int8"), ASKED)


def test_what_the_command_line_says_stands(
    on: Callable[..., ModuleType], script: Script, tmp_path: Path
) -> None:
    on("amx_bf16")
    common = script("common")
    kinds = (common.ModelArguments, common.DataArguments)
    fixed = ["--output_dir", str(tmp_path), "--do_train", "--report_to", "none"]

    def parsed(*others: str) -> TrainingArguments:
        return common.parse(kinds, [*fixed, *others], "fill-mask")[2]

    chosen = parsed()
    assert chosen.bf16 and chosen.train_sampling_strategy == "group_by_length"
    assert chosen.include_num_input_tokens_seen == "non_padding"
    own = parsed("--bf16", "False", "--train_sampling_strategy", "random")
    assert not own.bf16 and own.train_sampling_strategy == "random"
    (tmp_path / "run.yaml").write_text(f"output_dir: {tmp_path}\ndo_train: true\nbf16: false\n")
    from_file = common.parse(kinds, [str(tmp_path / "run.yaml")], "fill-mask")[2]
    assert not from_file.bf16 and from_file.train_sampling_strategy == "group_by_length"


def test_bfloat16_that_is_slower_is_said_with_the_figure(
    on: Callable[..., ModuleType], script: Script, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    speed = on(None, gain=0.4)
    args = TrainingArguments(str(tmp_path), do_train=True, use_cpu=True, bf16=True)
    with caplog.at_level(logging.INFO, "hf_sparse.scripts"):
        speed.use_machine(args)
    assert (
        "not in hardware" in caplog.messages[0] and f"{torch.get_num_threads()} threads" in caplog.messages[0]
    )
    assert "a matrix product is 2.5 times as slow as in float32 here; leave --bf16 out" in caplog.messages[1]


def test_attention_is_that_which_trains_fastest(on: Callable[..., ModuleType], tmp_path: Path) -> None:
    speed = on("amx_bf16")
    half = TrainingArguments(str(tmp_path), do_train=True, use_cpu=True, bf16=True)
    full = TrainingArguments(str(tmp_path), do_train=True, use_cpu=True)
    assert speed.attention(None, half) == "eager"
    assert speed.attention("sdpa", half) == "sdpa"
    assert speed.attention(None, full) is None


def test_a_budget_in_tokens_sets_the_steps(on: Callable[..., ModuleType], tmp_path: Path) -> None:
    speed = on(None)
    rows = Dataset.from_dict({"input_ids": [[1] * length for length in (2, 4, 6, 8)] * 10})

    def args(**others: object) -> TrainingArguments:
        given = {"do_train": True, "use_cpu": True, "train_sampling_strategy": "group_by_length"}
        return TrainingArguments(str(tmp_path), **(given | others))

    # Batches of 2 x 2 rows of 5 tokens on the average.
    training = args(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    arranged = speed.arrange(rows, training, 200)
    assert training.max_steps == 10 and training.train_sampling_strategy == "sequential"
    assert isinstance(arranged, LengthGroups) and arranged.batch_size == 4
    assert speed.arrange(rows, args(train_sampling_strategy="random"), None) is rows
    evaluation = args(do_train=False)
    assert speed.arrange(None, evaluation, None) is None
    assert evaluation.train_sampling_strategy == "sequential"
    for seed, chosen in ((None, 42), (0, 0)):
        assert speed.arrange(rows, args(data_seed=seed), None).seed == chosen


def test_a_budget_in_tokens_is_the_only_word_on_the_length(script: Script, tmp_path: Path) -> None:
    common = script("common")
    fixed = ["--output_dir", str(tmp_path), "--do_train", "--report_to", "none"]

    def parsed(*others: str) -> TrainingArguments:
        kinds = (common.ModelArguments, common.DataArguments)
        return common.parse(kinds, [*fixed, *others], "fill-mask")[2]

    with pytest.raises(ValueError, match="--max_tokens is at least 1, got 0"):
        parsed("--max_tokens", "0")
    with pytest.raises(
        ValueError, match="--max_tokens 10 and --max_steps both give the length of the run; leave one out"
    ):
        parsed("--max_tokens", "10", "--max_steps", "5")
    # What is published of the length gives way.
    assert parsed("--max_tokens", "10", "--recipe", "prune_ofa_90", "--recipe_arguments").max_steps == -1
