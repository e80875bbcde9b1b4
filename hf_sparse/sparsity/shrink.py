"""Taking out of a model the neurons and heads that compute nothing, so that matrices become smaller."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from hf_sparse.sparsity.heads import find_heads
from hf_sparse.sparsity.neurons import find_neurons, width_of
from hf_sparse.sparsity.structures import Structures

# The settings of a configuration that change, by layer and by how many are removed.
_Changed = Callable[[PreTrainedModel, Structures, int], dict[str, Any]]


@dataclass(frozen=True)
class Shrunk:
    """How many neurons or heads every layer had and has now, and how many were dead in each layer.

    `reason` says why none could be removed although every layer had some.
    """

    before: int
    now: int
    dead: Mapping[str, int]
    reason: str = ""


def shrink(model: PreTrainedModel) -> dict[str, Shrunk]:
    """Remove dead neurons and attention heads from a model, in place; logits stay what they are.

    Dead is what nothing reads, its columns out of the layer being zero, and what is the same whatever comes
    in, its rows into the layer (of a head: those of its value) being zero: what that adds goes into the next
    bias. Configurations have one number for all layers, so as many are removed of each as the layer with the
    fewest has; heads that share a key and a value go together, and only where the configuration has a size of
    heads of its own. Returns what was done to `neurons` and to `heads`, as far as the model's are found.
    Raises `ValueError` where the feed-forward layers cannot be told, and for quantized models.
    """
    neurons, heads = find_neurons(model), find_heads(model)
    done = {"neurons": _remove(model, neurons, _narrower, fewer=False)}
    # A configuration takes neurons in any number or in none, but may take fewer heads where not so many.
    return done | ({"heads": _remove(model, heads, _fewer_heads, fewer=True)} if heads else {})


def count_dead(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return how many `neurons` and `heads` are dead, and of how many; without those that cannot be told.

    A head counts alone here, whether or not those it shares a key and a value with are dead too.
    """
    if not isinstance(model, PreTrainedModel):
        return {}
    try:
        neurons, heads = find_neurons(model), find_heads(model)
    except ValueError:
        return {}
    found = {"neurons": (sum(len(layer.dead()) for layer in neurons), sum(layer.count for layer in neurons))}
    if heads:
        found["heads"] = (sum(layer.idle() for layer in heads), sum(layer.heads for layer in heads))
    return found


def _remove(model: PreTrainedModel, layers: Sequence[Structures], changed: _Changed, fewer: bool) -> Shrunk:
    """Remove as many of the dead as a configuration can say, from all layers alike."""
    dead = {layer.name: layer.dead() for layer in layers}
    numbers = {name: len(gone) for name, gone in dead.items()}
    before, most, reason = layers[0].count, min(numbers.values()), ""
    for count in range(most, 0 if fewer else max(most - 1, 0), -1):
        changes = changed(model, layers[0], count)
        try:
            _check(model, changes, layers, count)
        except ValueError as error:
            reason = reason or str(error)
            continue
        for layer in layers:
            layer.remove(dead[layer.name][:count])
        # The configuration is shared with every part of the model, so it stays the same object.
        for key, value in changes.items():
            setattr(model.config, key, value)
        return Shrunk(before, before - count, numbers)
    return Shrunk(before, before, numbers, reason)


def _narrower(model: PreTrainedModel, layer: Structures, gone: int) -> dict[str, Any]:
    key, width = width_of(model)
    return {key: width - gone}


def _fewer_heads(model: PreTrainedModel, layer: Structures, gone: int) -> dict[str, Any]:
    heads = layer.heads // layer.count * (layer.count - gone)
    changes = {"num_attention_heads": heads, "head_dim": layer.size}
    if hasattr(model.config, "num_key_value_heads"):
        changes["num_key_value_heads"] = layer.count - gone
    return changes


def _check(
    model: PreTrainedModel, changes: Mapping[str, Any], layers: Sequence[Structures], gone: int
) -> None:
    """Raise `ValueError` unless a model of the changed configuration has the shapes that are left."""
    planned = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for layer in layers:
        planned |= layer.shapes(gone)
    what = f"a {type(model).__name__} with {', '.join(f'{key} {value}' for key, value in changes.items())}"
    config = copy.deepcopy(model.config)
    try:
        for key, value in changes.items():
            setattr(config, key, value)
        # As a saved one is read, with its checks.
        config = type(config).from_dict(config.to_dict())
        with torch.device("meta"), no_init_weights():
            there = {name: tuple(value.shape) for name, value in type(model)(config).state_dict().items()}
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ValueError(f"{what} cannot be made: {error}") from error
    if wrong := [name for name in planned if planned[name] != there.get(name)]:
        raise ValueError(
            f"{what} would differ in {len(wrong)} other parameters, such as {wrong[0]}; it cannot be made "
            "smaller"
        )
