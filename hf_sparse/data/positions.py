"""The number of tokens that a model has positions for."""

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from hf_sparse.architectures import POSITION_TABLES


def most_tokens(model: PreTrainedModel | PreTrainedConfig) -> int | None:
    """Return the largest number of tokens in an input of a model; None if it is unlimited.

    It can be less than `max_position_embeddings`, which counts unused positions in some models. RoBERTa's
    positions begin after the index of its padding token, so 514 positions hold 512 tokens.

    Args:
        model: A model or its configuration, from which one is built without allocating weights.
    """
    if isinstance(model, PreTrainedConfig):
        with torch.device("meta"):
            model = AutoModel.from_config(model)
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return None
    named = model.named_modules()
    tables = (module for name, module in named if name.rpartition(".")[2] in POSITION_TABLES)
    return min([limit, *(_room(table) for table in tables if isinstance(table, nn.Embedding))])


def _room(table: nn.Embedding) -> int:
    """Return the number of positions in a table that tokens use."""
    skipped = getattr(table, "offset", None)
    if skipped is None:
        skipped = 0 if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - skipped
