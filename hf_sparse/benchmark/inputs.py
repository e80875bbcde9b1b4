"""Random texts of one length for any model that reads texts."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_sparse.data.positions import most_tokens
from hf_sparse.export.onnx import example_inputs

_SEED = 0


def random_inputs(model: PreTrainedModel, batch: int, length: int) -> dict[str, Tensor]:
    """Return what a tokenizer could give: (batch, length) random tokens, always the same, none left out.

    Raises `ValueError` for models that read anything else than texts, and for lengths that they have no
    positions for.
    """
    try:
        names = tuple(example_inputs(model))
    except ValueError:
        raise ValueError(
            f"{type(model).__name__} does not read texts alone, as models that are timed must; name an "
            "encoder or a decoder of texts"
        ) from None
    most = most_tokens(model)
    if most is not None and length > most:
        raise ValueError(
            f"{length} tokens are more than the {most} that the model has positions for; take fewer, with "
            "--max-seq-length"
        )
    inputs = {name: torch.ones(batch, length, dtype=torch.long) for name in names}
    inputs["input_ids"] = _tokens(model, batch, length)
    if "token_type_ids" in inputs:
        inputs["token_type_ids"].zero_()
    return inputs


def _tokens(model: PreTrainedModel, batch: int, length: int) -> Tensor:
    table = model.get_input_embeddings()
    count = table.num_embeddings if isinstance(table, nn.Embedding) else model.config.vocab_size
    padding = getattr(model.config, "pad_token_id", None)
    known = torch.tensor([token for token in range(count) if token != padding] or [0])
    drawn = torch.randint(len(known), (batch, length), generator=torch.Generator().manual_seed(_SEED))
    return known[drawn]
