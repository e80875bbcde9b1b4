"""Checkpoints that hold a model's weights under other keys, read as `from_pretrained` reads them."""

from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel


def read_converted(module: nn.Module, state_dict: dict[str, Tensor], *_: Any) -> None:
    """Turn what `save_pretrained` wrote into the keys and tensors of the model; a pre-hook of loading.

    transformers stores some models under the keys that they have on the Hub, the experts of mixtures one by
    one. `Trainer` reads such a checkpoint back without converting it, and leaves as it was what it misses.
    """
    if not isinstance(module, PreTrainedModel) or state_dict.keys() <= module.state_dict().keys():
        return
    converted, report = type(module).from_pretrained(
        None,
        config=deepcopy(module.config),
        state_dict=dict(state_dict),
        dtype=module.dtype,
        output_loading_info=True,
    )
    # A shard of a checkpoint holds only some: what it lacks has been drawn at random.
    found = {key: value for key, value in converted.state_dict().items() if key not in report["missing_keys"]}
    state_dict.clear()
    state_dict.update(found)
