"""Small things of the names that the guide to the papers has on its command lines: models, data sets."""

import importlib
import json
import re
import shlex
import subprocess
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)
from typer.testing import CliRunner

from hf_sparse import load_packed, measure_sparsity
from hf_sparse.cli.main import app
from tests.scripts.test_run_glue import TASKS, table
from tests.scripts.test_run_qa import questions
from tests.scripts.tiny_data import SPECIAL, WORDS, sentences, write_table

_VOCABULARY = {word: i for i, word in enumerate(SPECIAL + WORDS)}
_SIZES = {"vocab_size": len(_VOCABULARY), "max_position_embeddings": 520}
_BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
_DISTILBERT = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}

MODELS: dict[str, tuple[type[PreTrainedModel], PreTrainedConfig]] = {
    "bert-base-uncased": (BertForPreTraining, BertConfig(**_SIZES, **_BERT)),
    "bert-large-uncased": (BertForPreTraining, BertConfig(**_SIZES, **_BERT | {"num_hidden_layers": 2})),
    "distilbert-base-uncased": (DistilBertForMaskedLM, DistilBertConfig(**_SIZES, **_DISTILBERT)),
    "roberta-base": (RobertaForMaskedLM, RobertaConfig(**_SIZES, **_BERT, pad_token_id=0)),
}
# Added to every script's command line: of each run the first steps, on this processor.
LIMITS = [
    "--max_steps",
    "4",
    "--use_cpu",
    "True",
    "--disable_tqdm",
    "True",
    "--report_to",
    "none",
    "--save_strategy",
    "no",
]


def write_models() -> None:
    """Write a tiny model under each name into the current directory."""
    torch.manual_seed(0)
    for name, (kind, config) in MODELS.items():
        inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * (kind is BertForPreTraining)
        tokenizer = BertTokenizerFast(vocab=_VOCABULARY, model_max_length=512, model_input_names=inputs)
        kind(config).save_pretrained(name)
        tokenizer.save_pretrained(name)
        # Those of BERT have both heads, and call themselves masked language models.
        config = Path(name, "config.json")
        config.write_text(config.read_text().replace("BertForPreTraining", "BertForMaskedLM"))


def write_data() -> None:
    """Write texts, questions and tables of all GLUE tasks likewise, GLUE as one directory for each task."""
    write_table(Path("wikimedia/wikipedia/train.parquet"), {"text": documents(40)})
    for split in ("train", "validation"):
        write_table(Path(f"rajpurkar/squad/{split}.parquet"), questions(8))
        for task, (columns, labels, _) in TASKS.items():
            names = ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
            for name in names if split == "validation" else [split]:
                write_table(Path(f"glue/{task}/{name}.parquet"), table(columns, labels, 9))


def documents(count: int) -> list[str]:
    """Return texts of several sentences, of which pairs of segments can be made."""
    lines = sentences(6 * count, length=5)
    return ["\n".join(lines[start : start + 6]) for start in range(0, len(lines), 6)]


def expand(typed: str) -> list[list[str]]:
    """Let a shell say which commands a line is, loops and all, as words."""
    told = "".join(
        f"{program}() {{ printf '%q ' {program} \"$@\"; echo; }}; " for program in ("python", "hf-sparse")
    )
    run = subprocess.run(["bash", "-ceu", told + typed], capture_output=True, text=True, check=False)
    if run.returncode != 0 or not run.stdout:
        raise AssertionError(f"no shell runs {typed!r}: {run.stderr}")
    return [shlex.split(line) for line in run.stdout.splitlines()]


def written(words: list[str]) -> str:
    """Return the directory that a command writes."""
    return words[3] if words[0] == "hf-sparse" else words[words.index("--output_dir") + 1]


def read(words: list[str]) -> list[str]:
    """Return the models that a command reads."""
    if words[0] == "hf-sparse":
        return [words[2]]
    named = ("--model_name_or_path", "--teacher_name_or_path")
    return [value for name, value in pairwise(words) if name in named]


def make(directory: str, writers: Mapping[str, list[str]]) -> None:
    """Run the command that writes a directory, unless it is there, and before it those that it builds on."""
    if Path(directory).is_dir():
        return
    if directory not in writers:
        raise AssertionError(f"no command of the page writes {directory}, and it is no model of the Hub")
    for model in read(writers[directory]):
        make(model, writers)
    follow(writers[directory])


def follow(words: list[str]) -> None:
    """Run one command as it stands, with what a tiny run needs besides."""
    program, *rest = words
    if program == "hf-sparse":
        result = CliRunner().invoke(app, rest)
        assert result.exit_code == 0, result.output
        return
    script, *arguments = rest
    if "--task_name" in arguments:
        # By default this is one dataset of the Hub with a configuration for each task.
        arguments += ["--dataset_name", f"glue/{arguments[arguments.index('--task_name') + 1]}"]
    importlib.import_module(Path(script).stem).main([*arguments, *LIMITS])


def promised(directory: Path) -> float:
    """Return the share of zeros that the name of a directory promises, such as bert-base-90-sst2."""
    found = re.search(r"-(\d\d)(?:-|$)", directory.name)
    return int(found[1]) / 100 if found else 0.0


def measured(directory: Path) -> float:
    """Return the share of zeros in a packed directory, or that a script has written beside its model."""
    if directory.name.endswith("-packed"):
        return measure_sparsity(load_packed(directory)).overall
    results = json.loads((directory / "all_results.json").read_text())
    assert any(name.startswith("eval_") for name in results) and results["train_samples"] > 0
    return results["sparsity"]
