"""The structures that can be removed from a layer: heads of attention, neurons of feed-forward layers."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from hf_sparse.architectures import (
    ACTIVATION_SETTINGS,
    ATTENTION_OUTPUTS,
    BESIDE_PROJECTIONS,
    PROJECTIONS,
    feed_forward_width,
)
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
        found for targets in by_layer(model).values() for found in _heads_of(model, targets, heads, groups)
    ]


def _heads_of(model: PreTrainedModel, targets: Sequence[Target], heads: int, groups: int) -> Iterator[Heads]:
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


@dataclass(frozen=True)
class Neurons(Structures):
    """The neurons of one layer; `into` is one matrix, with a gate two.

    Without a known activation only neurons that nothing reads are dead.
    """

    activation: nn.Module | None

    def constant(self) -> tuple[Tensor, Tensor]:
        """Return a mask of neurons without weights, and their output; with a gate one zero factor does."""
        nothing = torch.zeros_like(self.out.weight[0])
        if self.activation is None:
            return nothing.bool(), nothing
        empty = [~filled(target.weight, 1) for target in self.into]
        if len(self.into) == 1:
            return empty[0], self.activation(bias_of(self.into[0])) * empty[0]
        still = [found & (bias_of(target) == 0) for found, target in zip(empty, self.into, strict=True)]
        # The names do not show which of the two goes through the activation.
        keeps_zero = bool(self.activation(torch.zeros(1)) == 0)
        constant = (still[0] | still[1]) if keeps_zero else torch.zeros_like(still[0])
        return constant, nothing

    def changes(self, model: PreTrainedModel, gone: int) -> dict[str, Any]:
        key, width = width_of(model)
        return {key: width - gone}


def find_neurons(model: PreTrainedModel) -> list[Neurons]:
    """Return the neurons of every layer: matrices with a side of the width that the configuration says.

    Raises `ValueError` where the feed-forward layers cannot be identified, and for quantized models.
    """
    _, width = width_of(model)
    activation, found = _activation(model), []
    for name, all_of_layer in by_layer(model).items():
        targets = [target for target in all_of_layer if width in target.weight.shape]
        if not targets:
            continue
        into = tuple(target for target in targets if target.weight.shape[0] == width)
        out = [target for target in targets if target.weight.shape[1] == width]
        if len(out) != 1 or not 1 <= len(into) <= 2 or len(into) + 1 != len(targets):
            raise ValueError(
                f"the feed-forward layer of {name} is not clear: {len(targets)} of its matrices have a "
                f"side of {width}"
            )
        found.append(Neurons(name, into, out[0], width, activation))
    if not found:
        raise ValueError(f"no layer of {type(model).__name__} has a matrix with a side of {width}")
    return found


def width_of(model: PreTrainedModel) -> tuple[str, int]:
    """Return the setting of the width of the feed-forward layers, and the width."""
    found = feed_forward_width(model.config)
    if found is not None:
        return found
    raise ValueError(
        f"the configuration of {type(model).__name__} does not say how wide its feed-forward layers are, so "
        "they cannot be made smaller"
    )


def _activation(model: PreTrainedModel) -> nn.Module | None:
    names = (getattr(model.config, key, None) for key in ACTIVATION_SETTINGS)
    return next((ACT2FN[name] for name in names if isinstance(name, str) and name in ACT2FN), None)
