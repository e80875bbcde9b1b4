"""What a run was: where its model came from, its recipe, its settings, in a file beside the model."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from hf_sparse.atomic.files import write_atomically
from hf_sparse.environment import hardware, versions
from hf_sparse.reading import read_json, shortened
from hf_sparse.recipe import Recipe

if TYPE_CHECKING:
    from hf_sparse.training.mixin import SparseTrainingMixin

RECORD = "hf_sparse_run.json"
FORMAT_VERSION = 1
# The training arguments that decide what is learnt. No path and no token is among them.
_ARGUMENTS = (
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "weight_decay",
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "train_sampling_strategy",
    "dataloader_drop_last",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
)
_MODELS = ("base_model", "teacher")
_WHAT, _WAY_OUT = "record of a run", "delete it, or save the model again"
_TABLES = ("arguments", "facts", "hardware", "versions")
# What a part is where it is known; the recipe has a check of its own.
_KINDS: dict[Any, tuple[str, ...]] = {
    str: ("date", "architecture", *_MODELS),
    int: ("step", "total_steps", "train_samples"),
    int | float: ("epochs", "seconds"),
    Mapping: _TABLES,
}


def write_record(directory: str | Path, trainer: "SparseTrainingMixin") -> None:
    """Write the record of a trainer's run, as far as it has come, into a checkpoint or model directory."""
    state = trainer.state
    runtimes = [line["train_runtime"] for line in state.log_history if "train_runtime" in line]
    record = {
        "format_version": FORMAT_VERSION,
        # When training ended: what was measured before that is not of this model.
        "date": (trainer.trained_at or datetime.now(UTC)).isoformat(timespec="seconds"),
        "architecture": type(trainer.model).__name__,
        "base_model": _origin(trainer.model),
        "teacher": trainer.distiller and _origin(trainer.distiller.teacher),
        "recipe": trainer.recipe.to_dict(),
        "step": state.global_step,
        "total_steps": state.max_steps,
        "epochs": state.epoch,
        "train_samples": _rows(trainer),
        # Of the last session only, which is not the run where it went on from a checkpoint.
        "seconds": runtimes[-1] if runtimes and not trainer.resumed else None,
        "arguments": _settings(trainer),
        "facts": {name: _finite(value) for name, value in trainer.facts.items()},
        "hardware": hardware(),
        "versions": versions(),
    }
    _write(directory, record)


def changed_settings(record: Mapping[str, Any], trainer: "SparseTrainingMixin") -> dict[str, tuple[Any, Any]]:
    """Return what decides what is learnt and is another in a trainer than in a record: both values by name.

    What one of them does not know is left out.
    """
    # As JSON gives it back.
    now = json.loads(json.dumps(_settings(trainer), default=str)) | {"train_samples": _rows(trainer)}
    before = {**record.get("arguments", {}), "train_samples": record.get("train_samples")}
    rows = None in (now["train_samples"], before["train_samples"])
    known = [name for name in now if name in before and not (rows and name == "train_samples")]
    return {name: (before[name], now[name]) for name in known if before[name] != now[name]}


def read_record(directory: str | Path) -> dict[str, Any] | None:
    """Return the record in a directory, None if there is none; raise `ValueError` if it cannot be read.

    What is not known is None in it, a table or the architecture empty.
    """
    path = Path(directory) / RECORD
    if not path.is_file():
        return None
    record = read_json(path, _WHAT, _WAY_OUT, own=True)
    version = record.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}, this release reads {FORMAT_VERSION}; upgrade hf_sparse"
        )
    try:
        _check(record)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a valid {_WHAT} ({error}); {_WAY_OUT}") from error
    known = dict.fromkeys(name for names in _KINDS.values() for name in names) | record
    tables = {name: known[name] or {} for name in _TABLES}
    return known | tables | {"architecture": known["architecture"] or ""}


def _check(record: Mapping[str, Any]) -> None:
    """Raise an error for a part that is missing, or of another kind than what is written."""
    if record.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"format_version is {shortened(record.get('format_version'))}")
    Recipe.from_dict(record.get("recipe"))
    if record.get("step") is None:
        raise ValueError("step is missing")
    for kind, names in _KINDS.items():
        for name in names:
            value = record.get(name)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise ValueError(f"{name} is {shortened(value)}")
    if (date := record.get("date")) is not None:
        # It is compared with the times of files.
        datetime.fromisoformat(date).timestamp()
    for name, version in (record.get("versions") or {}).items():
        if not isinstance(version, str):
            raise ValueError(f"the version of {shortened(name)} is {shortened(version)}")


def copy_public_record(source: str | Path, directory: str | Path) -> None:
    """Write the public record of a directory into another one; without a record do nothing."""
    if (record := read_record(source)) is not None:
        _write(directory, public_record(record))


def public_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record to hand on, without paths.

    Of models that came from a directory it keeps `./` and that one's name, of facts that are paths the last
    part.
    """
    named = {key: name for key in _MODELS if (name := record.get(key)) is not None}
    models = {key: f"./{public_name(name)}" if is_local(name) else name for key, name in named.items()}
    facts = {key: _public_fact(fact) for key, fact in record.get("facts", {}).items()}
    return dict(record) | models | {"facts": facts}


def public_name(model: str) -> str:
    """Return the name of a model on the Hub as it is, of one in a directory the last part of its path."""
    return Path(model).name if is_local(model) else model


def fact_text(fact: Any) -> str:
    """Return a fact as it is shown, without paths."""
    public = _public_fact(fact)
    return ", ".join(map(str, public)) if isinstance(public, list) else str(public)


def is_local(model: str) -> bool:
    """Say whether a model was named by a path rather than as on the Hub: `name` or `owner/name`."""
    return Path(model).is_absolute() or model.startswith((".", "~")) or model.count("/") > 1


def _write(directory: str | Path, record: Mapping[str, Any]) -> None:
    # The kinds of schedulers and optimizers are enumerations.
    text = json.dumps(record, indent=2, default=str, allow_nan=False)
    write_atomically(Path(directory) / RECORD, f"{text}\n".encode())


def _public_fact(fact: Any) -> Any:
    if isinstance(fact, list):
        return [_public_fact(part) for part in fact]
    return public_name(fact) if isinstance(fact, str) else fact


def _settings(trainer: "SparseTrainingMixin") -> dict[str, Any]:
    args = trainer.args
    settings = {name: _finite(getattr(args, name)) for name in _ARGUMENTS if hasattr(args, name)}
    return settings | {"processes": args.world_size}


def _rows(trainer: "SparseTrainingMixin") -> int | None:
    data = trainer.train_dataset
    return len(data) if hasattr(data, "__len__") else None


def _finite(value: Any) -> Any:
    """Return a setting as JSON takes it, which knows no infinity."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _origin(model: nn.Module) -> str | None:
    """Return what a model was loaded from, as an absolute path if it is a directory, None if it is new."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or None
    return str(Path(name).resolve()) if name is not None and Path(name).is_dir() else name
