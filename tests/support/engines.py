"""The engines that train over several processes, as far as they work on a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate.state
import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from tests.support.tiny import arguments

LAYERS = ["BertLayer"]
LOADS_SHARDED = hasattr(Trainer, "_defer_fsdp_gradient_reduction")


def let_accelerate_shard() -> None:
    """Let accelerate take this CPU for an accelerator, in this process: on a CPU alone `--fsdp` means DDP."""
    state: Any = accelerate.state.PartialState
    state._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    state.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


def sharded_arguments(folder: Path | str, **changes: Any) -> TrainingArguments:
    """Arguments with `--fsdp`, version 2; `fsdp_config` adds to its settings."""
    config = {"version": 2, "transformer_layer_cls_to_wrap": LAYERS, "reshard_after_forward": True}
    config |= changes.pop("fsdp_config", {})
    # Older transformers take the strategy as a text.
    return arguments(folder, **({"use_cpu": False, "fsdp": "full_shard", "fsdp_config": config} | changes))


def load_sharded(directory: Path | str, kind: Any = AutoModelForSequenceClassification, **given: Any) -> Any:
    """Load a model as transformers shards it, by default over all processes."""
    from transformers.distributed import DistributedConfig

    given.setdefault("distributed_config", DistributedConfig(fsdp_size=torch.distributed.get_world_size()))
    return kind.from_pretrained(directory, **given)


def whole(values: Tensor) -> Tensor:
    """Return a tensor, gathered if it is sharded, as a copy of its own."""
    values = values.detach()
    return (values.full_tensor() if isinstance(values, DTensor) else values).clone()


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: whole(values) for name, values in model.state_dict().items()}


def saved_weights(directory: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def refusal(work: Callable[[], Any]) -> str | None:
    """Return the message of the `ValueError` that some work raises, None if it raises none."""
    try:
        work()
    except ValueError as error:
        return str(error)
    return None
