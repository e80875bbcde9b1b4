"""Embedding tables of few bits, whose rows are rounded when they are looked up."""

import re
from collections.abc import Iterator

from torch import Tensor, nn

from hf_sparse.architectures import RELATIVE_POSITIONS
from hf_sparse.modules import base_modules
from hf_sparse.quantization.fake_layers import LayerQuantization
from hf_sparse.targets import Target


class FakeQuantEmbedding(nn.Embedding):
    """An Embedding whose `forward` rounds the rows that it looks up; its table keeps its name and values.

    A row has its own scales, so that it can be rounded alone; a scale of the whole table is computed from
    all of it.
    """

    quantization: LayerQuantization
    input_low: Tensor
    input_high: Tensor

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
    """Return the embedding tables of the base model, such as words, positions and types.

    Tables of relative positions are left out. Raises `ValueError` if the model lacks `nn.Embedding`s, or if
    one shares its weight with another module, which would compute with weights that are not rounded.
    """
    tables = tuple(
        Target(f"{name}.weight".lstrip("."), module)
        for name, module in base_modules(model)
        if type(module) in (nn.Embedding, FakeQuantEmbedding) and not _RELATIVE.search(name)
    )
    if not tables:
        raise ValueError(
            f"{type(model).__name__} lacks embeddings of class nn.Embedding; leave quantization.embeddings "
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
