"""The training arguments beside each preset, and arguments that are given as well."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_sparse.recipe import published_arguments as recipe_arguments
from hf_sparse.recipe.published_arguments import RecipeArguments, given_arguments, read_recipe_arguments
from hf_sparse.recipe.recipe import preset_names
from hf_sparse.training.arguments import SparseArguments

TASKS = ["fill-mask", "question-answering", "text-classification"]
PUBLISHED = RecipeArguments("a paper", {"learning_rate": 1e-4, "num_train_epochs": 9}, 64)


def training(folder: Path, **given: Any) -> TrainingArguments:
    return TrainingArguments(str(folder), use_cpu=True, report_to=[], **given)


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_has_a_file_that_says_what_is_published(preset: str, tmp_path: Path) -> None:
    text = (recipe_arguments._FOLDER / f"{preset}.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# Beside the preset {preset}")
    found = recipe_arguments._read(preset)
    assert found.keys() <= set(TASKS)
    assert found or "nothing" in text.splitlines()[0]
    for published in found.values():
        assert "arXiv:" in published.source or "benchmarks/results" in published.source
        args = training(tmp_path, **published.arguments)
        published.share_batch(args, {})
        assert args.train_batch_size * args.gradient_accumulation_steps == published.total_batch_size


def test_every_file_is_of_a_preset() -> None:
    assert sorted(path.name for path in recipe_arguments._FOLDER.iterdir()) == [
        f"{name}.yaml" for name in preset_names()
    ]


@pytest.mark.parametrize(
    ("preset", "task", "arguments", "batch"),
    [
        (
            "prune_ofa_90",
            "fill-mask",
            {
                "learning_rate": 5e-5,
                "lr_scheduler_type": "linear",
                "warmup_steps": 0.01,
                "weight_decay": 0.01,
                "max_steps": 100_000,
            },
            256,
        ),
        ("transfer", "text-classification", {"learning_rate": 1e-4, "num_train_epochs": 9}, 32),
        ("transfer", "question-answering", {"learning_rate": 1.5e-4, "num_train_epochs": 8}, 12),
        ("transfer_int8", "text-classification", {"learning_rate": 1e-5, "num_train_epochs": 3}, 32),
        ("transfer_int8", "question-answering", {"learning_rate": 1e-5, "num_train_epochs": 2}, 12),
        ("gmp_star", "text-classification", {"learning_rate": 5e-5, "num_train_epochs": 30}, 32),
        ("gmp_star", "question-answering", {"learning_rate": 8e-5, "num_train_epochs": 30}, 16),
        ("group_lasso_paper", "text-classification", {"learning_rate": 2e-5, "num_train_epochs": 6}, 32),
    ],
)
def test_the_values_are_the_published_ones(
    preset: str, task: str, arguments: Mapping[str, Any], batch: int
) -> None:
    found = read_recipe_arguments(preset, task)
    assert (found.arguments, found.total_batch_size) == (arguments, batch)


@pytest.mark.parametrize(
    ("recipe", "task", "message"),
    [
        (
            None,
            "fill-mask",
            "and no --recipe is given; .* fill-mask: prune_encoder_85, .*, prune_ofa_80_1x4, prune",
        ),
        ("transfer", "fill-mask", "recipe transfer has none for fill-mask, only for text-class.*, question"),
        ("gmp_finetune", "text-classification", "gmp_finetune has none for text-classification; leave it"),
        ("mine.yaml", "question-answering", "mine.yaml has none .*: gmp_star, transfer, transfer_int8$"),
    ],
)
def test_where_nothing_is_published_it_says_what_is(recipe: str | None, task: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_recipe_arguments(recipe, task)


@pytest.mark.parametrize(
    ("arguments", "batch", "message"),
    [
        ({"learning_rat": 1e-4}, 32, "learning_rat is not a training argument"),
        ({"per_device_train_batch_size": 4}, 32, "name one of TrainingArguments, and batches by total_"),
        ({"learning_rate": "5e-5"}, 32, "learning_rate is '5e-5': "),
        ({"max_steps": 1.5}, 32, "max_steps is 1.5: "),
        ({"weight_decay": True}, 32, "weight_decay is True: "),
        ({}, 0, "total_batch_size counts rows from 1, got 0"),
        ({}, "32", "total_batch_size counts rows from 1, got '32'"),
    ],
)
def test_what_is_no_training_argument_is_refused(
    arguments: Mapping[str, Any], batch: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RecipeArguments("a paper", arguments, batch)


def test_what_is_given_wins_and_one_of_two_ways_to_say_it_is_left() -> None:
    assert PUBLISHED.leave({}) == PUBLISHED.arguments
    assert PUBLISHED.leave({"learning_rate"}) == {"num_train_epochs": 9}
    assert PUBLISHED.leave({"max_steps"}) == {"learning_rate": 1e-4}
    steps = RecipeArguments("a paper", {"max_steps": 100, "warmup_steps": 0.1}, 8)
    assert steps.leave({"num_train_epochs", "warmup_ratio"}) == {}


@pytest.mark.parametrize(
    ("given", "rows", "accumulated"),
    [
        ({}, 32, 2),
        ({"per_device_train_batch_size": 4}, 4, 16),
        ({"gradient_accumulation_steps": 4}, 16, 4),
        ({"per_device_train_batch_size": 3, "gradient_accumulation_steps": 5}, 3, 5),
    ],
)
def test_the_batch_is_that_of_the_paper_unless_both_its_parts_are_given(
    tmp_path: Path, given: dict[str, int], rows: int, accumulated: int
) -> None:
    args = training(tmp_path, **given)
    PUBLISHED.share_batch(args, given)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (rows, accumulated)


@pytest.mark.parametrize(("processes", "rows", "accumulated"), [(1, 32, 8), (4, 32, 2), (16, 16, 1)])
def test_processes_share_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, rows: int, accumulated: int
) -> None:
    monkeypatch.setattr(TrainingArguments, "world_size", processes)
    args = training(tmp_path)
    read_recipe_arguments("prune_ofa_90", "fill-mask").share_batch(args, {})
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (rows, accumulated)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"per_device_train_batch_size": 48}
    with pytest.raises(
        ValueError, match=r"64 rows cannot .* 1 device\(s\) with per_device_train_batch_size 48"
    ):
        PUBLISHED.share_batch(training(tmp_path, **given), given)
    monkeypatch.setattr(TrainingArguments, "world_size", 6)
    with pytest.raises(
        ValueError, match=r"by 6 device\(s\); give both --per_device_train_batch_size and --grad"
    ):
        PUBLISHED.share_batch(training(tmp_path), {})


def test_it_says_what_it_took_and_what_was_given_instead(tmp_path: Path) -> None:
    args = training(tmp_path)
    PUBLISHED.share_batch(args, {})
    assert PUBLISHED.describe(args, {}) == (
        "From a paper: learning_rate 0.0001, num_train_epochs 9, batches of 32 x 2 x 1 (rows, accumulated, "
        "devices)."
    )
    given = {"max_steps": 5, "seed": 3, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    said = PUBLISHED.describe(training(tmp_path, **given), given)
    assert said.startswith("From a paper: learning_rate 0.0001, batches of 8 x 1 x 1")
    assert said.endswith(
        "Given: max_steps 5, per_device_train_batch_size 8, gradient_accumulation_steps 1, where "
        "num_train_epochs 9, total_batch_size 64 is published."
    )


def test_only_what_is_written_counts_as_given(tmp_path: Path) -> None:
    parser = HfArgumentParser((TrainingArguments, SparseArguments))
    words = ["--learning_rate", "5e-5", "--do_train", "--recipe_override", "a=1", "b=2"]
    expected = {"learning_rate": 5e-5, "do_train": True, "recipe_override": ["a=1", "b=2"]}
    assert given_arguments(parser, words) == expected
    (tmp_path / "run.json").write_text(json.dumps(expected))
    assert given_arguments(parser, [str(tmp_path / "run.json")]) == expected
    (tmp_path / "run.yaml").write_text("learning_rate: 5e-5\ndo_train: true\nrecipe_override: [a=1, b=2]\n")
    assert given_arguments(parser, [str(tmp_path / "run.yaml")]) == expected


def test_words_that_nothing_takes_are_refused(tmp_path: Path) -> None:
    parser = HfArgumentParser(SparseArguments)
    with pytest.raises(ValueError, match="no argument takes --learning_rate 1"):
        given_arguments(parser, ["--learning_rate", "1"])
    (tmp_path / "run.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match="run.yaml holds no arguments"):
        given_arguments(parser, [str(tmp_path / "run.yaml")])
