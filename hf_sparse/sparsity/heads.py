"""The heads of attention layers whose projections are matrices of their own."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from hf_sparse.sparsity.structures import Structures, bias_of, by_layer
from hf_sparse.targets import Target

# What BERT, DistilBERT, T5 and most others call the projections of one attention.
_INTO = re.compile(r"(.+?)(?:\.self)?\.(q|k|v)(?:uery|ey|alue|_proj|_lin|)\.weight")
_OUT = re.compile(r"(.+?)\.(?:o|o_proj|out_proj|out_lin|output\.dense|dense)\.weight")


@dataclass(frozen=True)
class Heads(Structures):
    """Those of one attention, `heads` in `count` groups, of which each shares a key and a value.

    `into` are the projections of queries, keys and values.
    """

    heads: int

    @property
    def size(self) -> int:
        """Numbers in the query of one head."""
        return self.out.weight.shape[1] // self.heads

    def constant(self) -> tuple[Tensor, Tensor]:
        """Return those whose values are their bias: whatever is attended to, its weights sum to one."""
        value = self.into[2]
        empty = ~value.weight.detach().any(1).view(self.count, -1).any(1)
        biases = (bias_of(value).view(self.count, -1) * empty[:, None])[:, None]
        return empty, biases.expand(-1, self.heads // self.count, -1).reshape(-1)

    def idle(self) -> int:
        """Return how many heads have no part in the output but a constant one."""
        constant = self.constant()[0].repeat_interleave(self.heads // self.count)
        return int((self.unread(self.heads) | constant).sum())


def find_heads(model: PreTrainedModel) -> list[Heads]:
    """Return the heads of every attention that is recognised by the names and shapes of its projections.

    Raises `ValueError` for quantized models.
    """
    heads = getattr(model.config, "num_attention_heads", None)
    if not isinstance(heads, int):
        return []
    groups = getattr(model.config, "num_key_value_heads", None) or heads
    return [found for targets in by_layer(model).values() for found in _of_layer(targets, heads, groups)]


def _of_layer(targets: Sequence[Target], heads: int, groups: int) -> Iterator[Heads]:
    attentions: dict[str, dict[str, Target]] = {}
    for target in targets:
        if match := _INTO.fullmatch(target.name):
            attentions.setdefault(match[1], {})[match[2]] = target
    outs = {match[1]: target for target in targets if (match := _OUT.fullmatch(target.name))}
    for name, into in attentions.items():
        if into.keys() != {"q", "k", "v"} or name not in outs:
            continue
        query, key, value, out = into["q"], into["k"], into["v"], outs[name]
        width = out.weight.shape[1]
        shared = width // heads * groups
        fits = width % heads == 0 and heads % groups == 0 and len(query.weight) == width
        if fits and len(key.weight) == len(value.weight) == shared:
            yield Heads(name, (query, key, value), out, groups, heads)
