"""The heads of attention layers whose projections are matrices of their own."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_sparse.architectures import ATTENTION_OUTPUTS, BESIDE_PROJECTIONS, PROJECTIONS
from hf_sparse.sparsity.structured.structures import Structures, bias_of, by_layer, filled
from hf_sparse.targets import Target

# Which of query, key and value a projection computes, by its name.
_ROLES = {name: role for names in PROJECTIONS for name, role in zip(names, "qkv", strict=True)}
_INTO = re.compile(rf"((.+?)(?:\.self)?)\.({'|'.join(_ROLES)})\.weight")
_OUT = re.compile(rf"(.+?)\.(?:{'|'.join(map(re.escape, ATTENTION_OUTPUTS))})\.weight")
_BESIDE = re.compile(BESIDE_PROJECTIONS)


@dataclass(frozen=True)
class Heads(Structures):
    """The heads of one attention layer, `heads` in `count` groups; a group shares a key and a value.

    `into` holds the projections of queries, keys and values.
    """

    heads: int

    @property
    def members(self) -> int:
        """Heads of one group."""
        return self.heads // self.count

    @property
    def size(self) -> int:
        """Length of the query of one head."""
        return self.out.weight.shape[1] // self.heads

    def constant(self) -> tuple[Tensor, Tensor]:
        """Return a mask of groups whose values are their bias, and these: attention weights sum to one."""
        value = self.into[2]
        empty = ~filled(value.weight, 1).view(self.count, -1).any(1)
        biases = (bias_of(value).view(self.count, -1) * empty[:, None])[:, None]
        return empty, biases.expand(-1, self.members, -1).reshape(-1)

    def changes(self, model: PreTrainedModel, gone: int) -> dict[str, Any]:
        left = self.count - gone
        changes = {"num_attention_heads": self.members * left, "head_dim": self.size}
        if hasattr(model.config, "num_key_value_heads"):
            changes["num_key_value_heads"] = left
        return changes


def find_heads(model: PreTrainedModel) -> list[Heads]:
    """Return the heads of every attention layer with projections of known names and shapes.

    Raises `ValueError` for quantized models.
    """
    heads = getattr(model.config, "num_attention_heads", None)
    if not isinstance(heads, int):
        return []
    groups = getattr(model.config, "num_key_value_heads", None) or heads
    return [
        found for targets in by_layer(model).values() for found in _of_layer(model, targets, heads, groups)
    ]


def _of_layer(model: PreTrainedModel, targets: Sequence[Target], heads: int, groups: int) -> Iterator[Heads]:
    attentions: dict[str, dict[str, Target]] = {}
    places: dict[str, str] = {}
    for target in targets:
        if match := _INTO.fullmatch(target.name):
            attentions.setdefault(match[2], {})[_ROLES[match[3]]] = target
            places[match[2]] = match[1]
    outs = {match[1]: target for target in targets if (match := _OUT.fullmatch(target.name))}
    for name, into in attentions.items():
        if into.keys() != {"q", "k", "v"} or name not in outs:
            continue
        query, key, value, out = into["q"], into["k"], into["v"], outs[name]
        width = out.weight.shape[1]
        shared = width // heads * groups
        fits = width % heads == 0 and heads % groups == 0 and len(query.weight) == width
        plain = _is_plain(model.get_submodule(places[name]), (query, key, value, out))
        if fits and plain and len(key.weight) == len(value.weight) == shared:
            yield Heads(name, (query, key, value), out, groups, heads)


def _is_plain(attention: nn.Module, projections: Sequence[Target]) -> bool:
    """Return whether nothing else in an attention layer could act on values or tie heads to each other."""
    known = {id(target.module) for target in projections}
    rest = [name for name, part in attention.named_children() if id(part) not in known]
    return all(map(_BESIDE.fullmatch, rest)) and not list(attention.parameters(recurse=False))
