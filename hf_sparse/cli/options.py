"""Arguments and options that several commands share, and the old spellings of options.

Each is declared once, here. Options that scripts/ or `TrainingArguments` have as well bear the name that they
have there. Old spellings keep working, and a `FutureWarning` names the new one.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer


def _require_word(context: typer.Context, value: str | None) -> str | None:
    """Return the name of a variant; another option in its place is a wrong command line."""
    if value is not None and value.startswith("-") and not context.resilient_parsing:
        context.fail("Option '--variant' requires an argument, such as fp16.")
    return value


_BATCH = "Number of texts in a batch."
_CALIBRATION = typer.Option(help="Calibration texts: Hub dataset, directory or file.")

Model = Annotated[str, typer.Argument(help="Saved model: Hub name or directory.")]
OutputDir = Annotated[
    Path,
    typer.Argument(help="Directory to write: new, empty, or holding an earlier result of this command."),
]
NewDir = Annotated[Path, typer.Argument(help="Directory to write: new or empty.")]
Runs = Annotated[
    list[Path], typer.Argument(help="Output directories of runs, or directories that hold some.")
]
Variant = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=_require_word,
        help="Use the weights saved as model.NAME.safetensors, such as fp16.",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Use only the Linear layers whose name contains this or matches it as a regular expression. "
        "May be repeated. By default those of the encoder and decoder layers.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Leave out the layers whose name contains this or matches it as a regular expression. "
        "May be repeated.",
    ),
]
Sparsity = Annotated[float, typer.Option(help="Share of weights to remove, between 0 and 1, such as 0.5.")]
Calibration = Annotated[str, _CALIBRATION]
CalibrationIfNeeded = Annotated[str | None, _CALIBRATION]
TextColumn = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Column of the texts; give it twice for pairs. By default sentence1 with sentence2, else text, "
        "else the first columns of strings.",
    ),
]
Samples = Annotated[int, typer.Option(help="Number of texts to use, the same ones every time.")]
BatchSize = Annotated[int, typer.Option(help=_BATCH)]
BatchSizeToTime = Annotated[int, typer.Option(min=1, help=_BATCH)]
MaxSeqLength = Annotated[
    int,
    typer.Option(
        help="Tokens of each text: longer ones are cut, to this or to what the model takes if that is less."
    ),
]
TokenizerName = Annotated[
    str | None, typer.Option(help="Tokenizer, if it is not saved with the model: Hub name or directory.")
]
DatasetConfigName = Annotated[
    str | None, typer.Option(help="Configuration of the Hub dataset, such as sst2.")
]
Png = Annotated[Path | None, typer.Option(help="Draw the result as well, into this PNG file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]


@contextmanager
def chosen_weights(model: str, variant: str | None) -> Iterator[str]:
    """Give the name to load a saved model by: its own, or that of a temporary directory with a variant."""
    if variant is None:
        yield model
        return
    from hf_sparse.checkpoint.variants import with_variant

    with with_variant(model, variant) as view:
        yield view


Value = TypeVar("Value")

# The new spelling of each old option, by command.
OLD_OPTIONS: Mapping[str, Mapping[str, str]] = {
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
# The same for all of scripts/, whose options may also be written with underscores.
OLD_OPTIONS_OF_SCRIPTS: Mapping[str, str] = {"--text-column-names": "--text-column"}


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
