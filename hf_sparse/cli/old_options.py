"""Old spellings of options: they keep working, and a `FutureWarning` names the new one."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

Value = TypeVar("Value")

# The new spelling of each old one, by command.
COMMANDS: Mapping[str, Mapping[str, str]] = {
    "benchmark": {"--batch": "--batch-size", "--length": "--max-seq-length"},
    "demo": {
        "--model": "--model-name-or-path",
        "--dataset": "--dataset-name",
        "--dataset-config": "--dataset-config-name",
    },
    "export": {"--to": "--format"},
    "plan": {
        "--set": "--recipe-override",
        "--steps": "--max-steps",
        "--data": "--dataset-name",
        "--batch-size": "--per-device-train-batch-size",
        "--epochs": "--num-train-epochs",
        "--accumulation": "--gradient-accumulation-steps",
        "--model": "--model-name-or-path",
        "--teacher": "--teacher-name-or-path",
        "--lr-scheduler": "--lr-scheduler-type",
        "--lr-option": "--lr-scheduler-kwargs",
        "--warmup": "--warmup-steps",
    },
    "prune": {"--tokenizer": "--tokenizer-name"},
    "push": {"--message": "--commit-message", "--licence": "--license"},
    "quantize": {"--tokenizer": "--tokenizer-name"},
    "report": {"--out": "--output-dir"},
    "rescue": {"--revision": "--model-revision"},
}
# The same for all scripts, whose options may also be written with underscores.
SCRIPTS: Mapping[str, str] = {"--text-column-names": "--text-column"}


def with_new_options(words: Sequence[str], new_names: Mapping[str, str]) -> Iterator[str]:
    """Yield the words of a command line with every old option replaced by the new one."""
    options = True
    for word in words:
        options = options and word != "--"
        name, equals, value = word.partition("=")
        new = new_names.get(name.replace("_", "-")) if options else None
        if new is not None:
            _warn(name, new)
        yield word if new is None else f"{new}{equals}{value}"


def with_new_keys(values: Mapping[str, Value], new_names: Mapping[str, str]) -> dict[str, Value]:
    """Return a file of arguments with every old key replaced by the new one."""
    keys = {_key(old): _key(new) for old, new in new_names.items()}
    for old in keys.keys() & values.keys():
        _warn(old, keys[old])
    return {keys.get(name, name): value for name, value in values.items()}


def _key(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _warn(old: str, new: str) -> None:
    # A command lacks a line of code to point at.
    warnings.warn_explicit(f"{old} is an old name; write {new}", FutureWarning, "hf-sparse", 1)
