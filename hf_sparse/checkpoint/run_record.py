"""The run record, a file beside a model: where it came from, recipe, settings, hardware, versions."""

import json
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import nn

from hf_sparse.atomic.files import write_atomically
from hf_sparse.environment import hardware, versions
from hf_sparse.modules import class_name
from hf_sparse.readers import read_json, shortened
from hf_sparse.recipe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import Trainer

RECORD = "hf_sparse_run.json"
FORMAT_VERSION = 1
# The training arguments that decide what is learned; paths and tokens are left out.
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
# The type of each value that is not null; the recipe is checked by itself.
_KINDS: dict[Any, tuple[str, ...]] = {
    str: ("date", "architecture", *_MODELS),
    int: ("step", "total_steps", "train_samples"),
    int | float: ("epochs", "seconds"),
    Mapping: _TABLES,
}


@dataclass(frozen=True)
class RunRecord:
    """A run as far as it has come, after `step` of `total_steps` optimizer steps.

    `ended`: when training ended; what was measured earlier is not of this model. `base_model` and `teacher`:
    Hub names or absolute paths, None for new models. `train_samples`: rows of the training data, None for
    streams. `seconds`: None where the run resumed, since Trainer times the last session alone. `arguments`:
    the training arguments that decide what is learned; `facts`: what only the caller knows, such as
    `dataset`.
    """

    ended: datetime
    architecture: str
    base_model: str | None
    teacher: str | None
    recipe: Recipe
    step: int
    total_steps: int
    epochs: float | None
    train_samples: int | None
    seconds: float | None
    arguments: Mapping[str, Any]
    facts: Mapping[str, Any]


def record_of(
    trainer: "Trainer",
    recipe: Recipe,
    *,
    teacher: nn.Module | None = None,
    facts: Mapping[str, Any] = MappingProxyType({}),
    ended: datetime | None = None,
    resumed: bool = False,
) -> RunRecord:
    """Return the record of a Trainer's run under a recipe; one that is still training ends now."""
    state = trainer.state
    runtimes = [line["train_runtime"] for line in state.log_history if "train_runtime" in line]
    return RunRecord(
        ended=ended or datetime.now(UTC),
        architecture=class_name(trainer.model) if trainer.model is not None else "",
        base_model=_origin(trainer.model),
        teacher=_origin(teacher),
        recipe=recipe,
        step=state.global_step,
        total_steps=state.max_steps,
        epochs=state.epoch,
        train_samples=_rows(trainer),
        seconds=runtimes[-1] if runtimes and not resumed else None,
        arguments=_settings(trainer),
        facts=facts,
    )


def write_record(directory: str | Path, record: RunRecord) -> None:
    """Write a record, with this machine and the versions in use, into a checkpoint or model directory."""
    held = {
        "format_version": FORMAT_VERSION,
        "date": record.ended.isoformat(timespec="seconds"),
        "architecture": record.architecture,
        "base_model": record.base_model,
        "teacher": record.teacher,
        "recipe": record.recipe.to_dict(),
        "step": record.step,
        "total_steps": record.total_steps,
        "epochs": record.epochs,
        "train_samples": record.train_samples,
        "seconds": record.seconds,
        "arguments": record.arguments,
        "facts": {name: _finite(value) for name, value in record.facts.items()},
        "hardware": hardware(),
        "versions": versions(),
    }
    _write(directory, held)


def changed_settings(record: Mapping[str, Any], trainer: "Trainer") -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ between a record and a Trainer, both values by name.

    Compared are the training arguments that decide what is learned and the rows of the training data; one
    that is missing on either side is left out.
    """
    # As JSON gives it back.
    now = json.loads(json.dumps(_settings(trainer), default=str)) | {"train_samples": _rows(trainer)}
    before = {**record.get("arguments", {}), "train_samples": record.get("train_samples")}
    rows = None in (now["train_samples"], before["train_samples"])
    known = [name for name in now if name in before and not (rows and name == "train_samples")]
    return {name: (before[name], now[name]) for name in known if before[name] != now[name]}


def read_record(directory: str | Path) -> dict[str, Any] | None:
    """Return the run record in a directory, None without one; raise `ValueError` if it is damaged.

    Unknown values are None; unknown tables and an unknown architecture are empty.
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
    """Raise an error for a value that is missing, or of another type than `write_record` writes."""
    if record.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"format_version is {shortened(record.get('format_version'))}")
    recipe: Any = record.get("recipe")
    Recipe.from_dict(recipe)
    if record.get("step") is None:
        raise ValueError("step is missing")
    for kind, names in _KINDS.items():
        for name in names:
            value = record.get(name)
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise ValueError(f"{name} is {shortened(value)}")
    if (date := record.get("date")) is not None:
        # The date is compared with the times of files.
        datetime.fromisoformat(date).timestamp()
    for name, version in (record.get("versions") or {}).items():
        if not isinstance(version, str):
            raise ValueError(f"the version of {shortened(name)} is {shortened(version)}")


def copy_public_record(source: str | Path, directory: str | Path) -> None:
    """Write the public form of the record in a directory, if there is one, into another directory."""
    if (record := read_record(source)) is not None:
        _write(directory, public_record(record))


def public_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record without paths, for publication.

    A model from a directory becomes `./` and the name of the directory, a fact that is a path its last part.
    """
    named = {key: name for key in _MODELS if (name := record.get(key)) is not None}
    models = {key: f"./{public_name(name)}" if is_local(name) else name for key, name in named.items()}
    facts = {key: _public_fact(fact) for key, fact in record.get("facts", {}).items()}
    return dict(record) | models | {"facts": facts}


def public_name(model: str) -> str:
    """Return the last part of the path of a local model, and a Hub name unchanged."""
    return Path(model).name if is_local(model) else model


def fact_text(fact: Any) -> str:
    """Return a fact as text, paths shortened to their last part."""
    public = _public_fact(fact)
    return ", ".join(map(str, public)) if isinstance(public, list) else str(public)


def is_local(model: str) -> bool:
    """Return whether a model is named by a path; a Hub name is `name` or `owner/name`."""
    return Path(model).is_absolute() or model.startswith((".", "~")) or model.count("/") > 1


def _write(directory: str | Path, record: Mapping[str, Any]) -> None:
    # Schedulers and optimizers are named by enumerations, which become texts.
    text = json.dumps(record, indent=2, default=str, allow_nan=False)
    write_atomically(Path(directory) / RECORD, f"{text}\n".encode())


def _public_fact(fact: Any) -> Any:
    if isinstance(fact, list):
        return [_public_fact(part) for part in fact]
    return public_name(fact) if isinstance(fact, str) else fact


def _settings(trainer: "Trainer") -> dict[str, Any]:
    args = trainer.args
    settings = {name: _finite(getattr(args, name)) for name in _ARGUMENTS if hasattr(args, name)}
    return settings | {"processes": args.world_size}


def _rows(trainer: "Trainer") -> int | None:
    data = trainer.train_dataset
    return len(data) if isinstance(data, Sized) else None


def _finite(value: Any) -> Any:
    """Return a setting; infinity and NaN, which JSON lacks, become texts."""
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _origin(model: nn.Module | None) -> str | None:
    """Return the Hub name or absolute path that a model was loaded from, None for a new model."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "") or None
    return str(Path(name).resolve()) if name is not None and Path(name).is_dir() else name
