"""How many tokens a model has positions for."""

from math import inf

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from hf_sparse.architectures import POSITION_TABLES


def most_tokens(model: PreTrainedModel | PreTrainedConfig) -> int | None:
    """Return how many tokens a model, or one of this configuration, takes; None if there is no limit.

    `max_position_embeddings` may count positions that no token gets: those of RoBERTa begin behind the number
    of its padding token, so that its 514 hold 512 tokens. Others have a table that is larger by as much.
    """
    if isinstance(model, PreTrainedConfig):
        with torch.device("meta"):
            model = AutoModel.from_config(model)
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    named = model.named_modules()
    rooms = (_room(module) for name, module in named if name.rpartition(".")[2] in POSITION_TABLES)
    return min(limit, *rooms, inf)


def _room(module: nn.Module) -> float:
    """Return how many positions of a table tokens get."""
    if not isinstance(module, nn.Embedding):
        return inf
    skipped = getattr(module, "offset", None)
    if skipped is None:
        skipped = 0 if module.padding_idx is None else module.padding_idx + 1
    return module.num_embeddings - skipped
