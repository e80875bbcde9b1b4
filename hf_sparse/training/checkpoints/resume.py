"""Check that a run may resume from a checkpoint, and read the model's weights from it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_sparse.checkpoint.run_record import changed_settings, read_record
from hf_sparse.checkpoint.sidecar import SIDECAR, SavedState, check_weights, read_state
from hf_sparse.modules import adapter_owner
from hf_sparse.recipe.recipe import Recipe
from hf_sparse.recipe.saved import NORMALIZED
from hf_sparse.recipe.sparsity import method_settings
from hf_sparse.training.engine import is_sharded_at_load
from hf_sparse.training.host import Host

logger = logging.getLogger(__name__)

_NEVER = "these never change within a run: resume with the checkpoint's own, or start a new run"
_WAY_OUT = (
    "resume with the recipe and length of the run that wrote the checkpoint, or pass allow_schedule_change"
)

# The optimizer's state restores these and overrules the arguments.
_RESTORED = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")

# Settings that define what the saved masks and ranges mean.
_FIXED = (
    "sparsity was",
    "sparsity.method",
    "sparsity.pattern",
    "sparsity.include",
    "sparsity.exclude",
    "sparsity.overrides",
    "sparsity.revive",
    "quantization was",
    "quantization.weights",
    "quantization.activations",
    "quantization.embeddings",
    "quantization.observer",
    "quantization.include",
    "quantization.exclude",
)


def check_settings(checkpoint: Path, trainer: Host, recipe: Recipe, allow_schedule_change: bool) -> None:
    """Raise `ValueError` if a run is resumed with other training arguments, unless that is allowed.

    Another number of processes or micro-batches is allowed if each step reads as many rows as before. If it
    is allowed, or the recipe is empty, log a warning; likewise if the run record cannot be read.
    """
    try:
        record = read_record(checkpoint)
    except ValueError as error:
        if recipe != Recipe():
            raise
        logger.warning("%s", error)
        return
    if not (changed := {} if record is None else changed_settings(record, trainer)):
        return
    if _same_rows(changed, trainer):
        logger.warning(
            "%s was written by another number of processes or micro-batches (%s). Each step reads the same "
            "rows; sums are taken in another order, and random numbers, as of dropout, are others.",
            checkpoint,
            ", ".join(f"{name} was {before}, is {now}" for name, (before, now) in changed.items()),
        )
        return
    said = "; ".join(f"{name} was {before}, is {now}" for name, (before, now) in changed.items())
    kept = [name for name in _RESTORED if name in changed]
    restored = f" The optimizer of the checkpoint keeps its own {', '.join(kept)}." if kept else ""
    if recipe != Recipe() and not allow_schedule_change:
        raise ValueError(
            f"{checkpoint} was written with other training arguments ({said}), so the resumed run would "
            f"differ; resume with its own, or pass allow_schedule_change.{restored}"
        )
    logger.warning("%s was written with other training arguments (%s).%s", checkpoint, said, restored)


# Their product is the number of rows in a step.
_ROWS = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")


def _same_rows(changed: Mapping[str, tuple[Any, Any]], trainer: Host) -> bool:
    """Return whether settings differ only in how the rows of a step are divided."""
    args = trainer.args
    now = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
    before = [changed.get(name, (value,))[0] for name, value in zip(_ROWS, now, strict=True)]
    counts = all(isinstance(value, int) for value in before)
    return changed.keys() <= set(_ROWS) and counts and prod(before) == prod(now)


def read_resumable(checkpoint: str | Path, recipe: Recipe, allow_schedule_change: bool) -> SavedState | None:
    """Return the sidecar of a checkpoint; None if the recipe is empty and the sidecar missing.

    Raises `ValueError` if the checkpoint was written under another recipe or holds other weights than it was
    saved with, `FileNotFoundError` if it lacks its sidecar.
    """
    checkpoint = Path(checkpoint)
    if recipe == Recipe() and not (checkpoint / SIDECAR).is_file():
        return None
    saved = read_state(checkpoint)
    recipe = adopt(recipe, saved)
    differences = list(_differences(saved.recipe.model_dump(mode="json"), recipe.model_dump(mode="json")))
    settings = tuple(f"sparsity.{key}{end}" for key in method_settings() for end in (" ", "."))
    fixed = [difference for difference in differences if difference.startswith(_FIXED + settings)]
    if differences and (fixed or not allow_schedule_change):
        way_out = _NEVER if fixed else _WAY_OUT
        raise ValueError(
            f"{checkpoint} was written under another recipe ({'; '.join(fixed or differences)}); {way_out}"
        )
    check_weights(checkpoint / SIDECAR, saved.weights, partial(_existing, checkpoint))
    return saved


def adopt(recipe: Recipe, saved: SavedState) -> Recipe:
    """Return a recipe whose unset values are those of a resumed run that began under an older default."""
    distillation, earlier = recipe.distillation, saved.recipe.distillation
    if saved.format_version >= NORMALIZED or distillation is None or earlier is None:
        return recipe
    hidden, before = distillation.hidden, earlier.hidden
    if not hidden or not before or "normalize" in hidden.model_fields_set:
        return recipe
    hidden = hidden.model_copy(update={"normalize": before.normalize})
    return recipe.model_copy(update={"distillation": distillation.model_copy(update={"hidden": hidden})})


def check_length(saved: SavedState, total_steps: int, allow_schedule_change: bool) -> None:
    """Raise `ValueError` if the run being resumed has another length, unless that is allowed."""
    if saved.total_steps != total_steps and not allow_schedule_change:
        raise ValueError(
            f"the checkpoint belongs to a run of {saved.total_steps} steps, this run has {total_steps}, "
            f"which would move its schedules, that of the learning rate included; {_WAY_OUT}"
        )


def check_step(saved: SavedState, step: int) -> None:
    """Raise `ValueError` if a sidecar belongs to another step than the checkpoint it lies in."""
    if saved.step != step:
        raise ValueError(
            f"the sidecar is that of step {saved.step}, and the checkpoint is one of step {step}; "
            "resume from a checkpoint whose files belong together"
        )


def check_moment(saved: SavedState, step: int, total_steps: int, allow_schedule_change: bool) -> None:
    """Raise `ValueError` as `check_length` and `check_step` do."""
    check_length(saved, total_steps, allow_schedule_change)
    check_step(saved, step)


@contextmanager
def loading(model: nn.Module, checkpoint: str) -> Iterator[None]:
    """Correct what `Trainer` does while it loads a checkpoint inside the block.

    Weights that were saved under other keys than the model's are converted (`read_converted`), and the
    adapters that were active stay active (`same_adapters`, which may raise `ValueError`). Raises `ValueError`
    for a model that transformers sharded as it loaded it, into which `Trainer` cannot load weights.
    """
    if is_sharded_at_load(model):
        raise ValueError(
            f"{checkpoint} cannot be resumed, since Trainer loads no weights into a model that transformers "
            "sharded as it loaded it, and saves no optimizer of one; train with --fsdp instead of "
            "distributed_config, or start a new run from the checkpoint's weights by from_pretrained"
        )
    reading = model.register_load_state_dict_pre_hook(read_converted)
    try:
        with same_adapters(model, checkpoint):
            yield
    finally:
        reading.remove()


@contextmanager
def same_adapters(model: nn.Module, checkpoint: str) -> Iterator[None]:
    """Restore, after the block, which adapters are active and which weights require gradients.

    `Trainer` loads a checkpoint inside the block. Of several adapters it activates the first, and it makes
    all weights of that adapter trainable. Raises `ValueError` for an adapter of `model.add_adapter`, whose
    checkpoints `Trainer` does not load.
    """
    if adapter_owner(model) == "transformers":
        raise ValueError(
            "Trainer reads no checkpoint of a model whose adapter was put on by model.add_adapter; put it on "
            "by peft.get_peft_model, or load it by model.load_adapter(checkpoint) and train again"
        )
    # Of a PeftModel, which torch's stubs type as a plain module.
    peft_model: Any = model
    several = list(peft_model.active_adapters) if hasattr(model, "disable_adapter") else []
    trains = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    yield
    configs = getattr(model, "peft_config", ())
    beside = (Path(checkpoint) / "adapter_config.json").is_file()
    if several and beside and len(configs) > 1 and "default" in configs:
        # Older transformers load only adapters in folders, and pass over the one beside the folders.
        peft_model.load_adapter(checkpoint, "default")
    if len(several) > 1:
        peft_model.base_model.set_adapter(several)
    for parameter, flag in trains:
        parameter.requires_grad_(flag)


def read_converted(module: nn.Module, state_dict: dict[str, Tensor], *_: Any) -> None:
    """Turn what `save_pretrained` wrote into the keys and tensors of the model; a pre-hook of loading.

    transformers saves some models under the keys that they have on the Hub, such as the experts of mixtures
    one by one. `Trainer` reads such a checkpoint without the conversion, and leaves weights that it does not
    find as they were.
    """
    if not isinstance(module, PreTrainedModel) or state_dict.keys() <= module.state_dict().keys():
        return
    # With output_loading_info it returns a pair, which the annotation of transformers leaves out.
    loaded: Any = type(module).from_pretrained(
        None,
        config=deepcopy(module.config),
        state_dict=dict(state_dict),
        dtype=module.dtype,
        output_loading_info=True,
    )
    converted, report = loaded
    # What a shard of a checkpoint lacks has been initialized at random.
    found = {key: value for key, value in converted.state_dict().items() if key not in report["missing_keys"]}
    state_dict.clear()
    state_dict.update(found)


def _existing(directory: Path, name: str) -> Path | None:
    return directory / name if (directory / name).is_file() else None


def _differences(saved: Any, now: Any, path: str = "") -> Iterator[str]:
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        for key in {**saved, **now}:
            yield from _differences(saved.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif saved != now:
        yield f"{path} was {_short(saved)}, is {_short(now)}"


def _short(value: Any) -> str:
    return "set" if isinstance(value, Mapping) else "unset" if value is None else repr(value)
