"""How many tokens a model has positions for."""

from math import inf

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

# What tables of absolute positions are called; those of relative ones have another end, or no offset.
_TABLES = ("position_embeddings", "embed_positions", "position_embedding", "pos_embeddings")


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
    rooms = (_room(module) for name, module in model.named_modules() if name.rpartition(".")[2] in _TABLES)
    return min(limit, *rooms, inf)


def _room(module: nn.Module) -> float:
    """Return how many positions of a table tokens get."""
    if not isinstance(module, nn.Embedding):
        return inf
    skipped = getattr(module, "offset", None)
    if skipped is None:
        skipped = 0 if module.padding_idx is None else module.padding_idx + 1
    return module.num_embeddings - skipped
