"""Embedding tables of few bits: rows that are rounded as they are looked up."""

import re
from collections.abc import Iterator

from torch import Tensor, nn

from hf_sparse.architectures import RELATIVE_POSITIONS
from hf_sparse.modules import base_modules
from hf_sparse.quantization.linear import LayerQuantization
from hf_sparse.targets import Target


class FakeQuantEmbedding(nn.Embedding):
    """An Embedding with the same table under the same name, whose `forward` rounds what it looks up.

    A row has scales of its own, so rounding it alone is rounding the table; with one scale for the whole
    table that is taken from all of it.
    """

    quantization: LayerQuantization

    def forward(self, indices: Tensor) -> Tensor:
        self.quantization.called = True
        found = super().forward(indices)
        if not self.quantization.phase.active:
            return found
        scheme = self.quantization.weights
        steps = scheme.scales(self.weight) if scheme.granularity == "tensor" else None
        return scheme.simulate(found.reshape(-1, found.shape[-1]), steps).view(found.shape)


_RELATIVE = re.compile(RELATIVE_POSITIONS)


def find_embeddings(model: nn.Module) -> tuple[Target, ...]:
    """Find the embedding tables of the base model: words, positions, types; none of relative positions.

    Raises `ValueError` if there is none of class `nn.Embedding`, or if one is tied to another module, whose
    weights would not be rounded with it.
    """
    tables = tuple(
        Target(f"{name}.weight".lstrip("."), module)
        for name, module in base_modules(model)
        if type(module) in (nn.Embedding, FakeQuantEmbedding) and not _RELATIVE.search(name)
    )
    if not tables:
        raise ValueError(
            f"{type(model).__name__} has no embeddings of class nn.Embedding; leave quantization.embeddings "
            "out"
        )
    for table in tables:
        if (other := next(_sharing(model, table), None)) is not None:
            raise ValueError(
                f"{table.name} is tied to {other}, which would not be rounded with it; leave "
                "quantization.embeddings out, or untie them (tie_word_embeddings=False)"
            )
    return tables


def _sharing(model: nn.Module, table: Target) -> Iterator[str]:
    for name, module in model.named_modules():
        if module is not table.module and getattr(module, "weight", None) is table.parameter:
            yield name
