"""Removal of neurons and heads that compute nothing, so that the matrices of a model become smaller."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_sparse.sparsity.structured.heads_and_neurons import find_heads, find_neurons
from hf_sparse.sparsity.structured.structures import Structures


@dataclass(frozen=True)
class Shrunk:
    """The outcome of `shrink` for one kind of structure, neurons or heads.

    Attributes:
        before: Number in each layer before.
        now: Number in each layer now.
        dead: How many were dead in each layer, by the layer's name.
        reason: Why none was removed although every layer had dead ones, else empty.
    """

    before: int
    now: int
    dead: Mapping[str, int]
    reason: str = ""


@dataclass
class _Plan:
    """The changes to make; all of them are checked before the first is made."""

    changes: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    removals: list[tuple[Structures, list[int]]] = field(default_factory=list)


def shrink(model: PreTrainedModel) -> dict[str, Shrunk]:
    """Remove dead neurons and attention heads from a model, in place; logits stay the same.

    A neuron or head is dead if nothing reads it (its columns out of the layer are zero), or if its output is
    constant (its rows into the layer, of a head those of its value, are zero); a constant output goes into
    the next bias. Configurations have one number for all layers, so every layer loses as many as the layer
    with the fewest dead ones has. Heads that share a key and a value are removed together, and only where the
    configuration has a size of heads of its own.

    Args:
        model: a model of floats with Linear or Conv1D layers.

    Returns:
        What was done to `neurons` and to `heads`, for each kind that the model is found to have.

    Raises:
        ValueError: if nothing can be removed because layers are not recognized, and for quantized models.
        RuntimeError: if the outputs of the smaller model differ.
    """
    found, errors = _find(model)
    plan, done = _Plan(), {}
    for kind, layers in found.items():
        done[kind] = _add(plan, model, layers, _KINDS[kind][1])
    if errors and not plan.removals:
        raise errors[0]
    before = _outputs(model)
    for layer, gone in plan.removals:
        layer.remove(gone)
    _configure(model, plan.changes)
    if before is not None and not _agree(before, _outputs(model)):
        raise RuntimeError(
            f"{type(model).__name__} does something with its neurons or heads that is not known here: its "
            "outputs changed. Load the model again; this one is spoiled, and nothing has been written"
        )
    return done


def count_dead(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return how many `neurons` and `heads` are dead, and how many there are; only kinds that are recognized.

    `shrink` may remove fewer: here every dead head counts, even if heads that share its key and value are
    not dead, and even if no configuration can express the number of those that would be left.
    """
    found = _find(model)[0] if isinstance(model, PreTrainedModel) else {}
    return {
        kind: (sum(layer.idle() for layer in layers), sum(layer.count * layer.members for layer in layers))
        for kind, layers in found.items()
    }


def _find(model: PreTrainedModel) -> tuple[dict[str, Sequence[Structures]], list[ValueError]]:
    """Return the structures of every kind that is recognized, and why others are not."""
    found: dict[str, Sequence[Structures]] = {}
    errors = []
    for kind, (find, _) in _KINDS.items():
        try:
            found[kind] = find(model)
        except ValueError as error:
            errors.append(error)
    return {kind: layers for kind, layers in found.items() if layers}, errors


def _add(plan: _Plan, model: PreTrainedModel, layers: Sequence[Structures], fewer: bool) -> Shrunk:
    """Plan to remove as many of the dead as a configuration can express, from every layer, but not all."""
    dead = {layer.name: layer.dead() for layer in layers}
    members, count, reason = layers[0].members, layers[0].count, ""
    numbers = {name: len(gone) * members for name, gone in dead.items()}
    most = min(count - 1, *map(len, dead.values()))
    for gone in range(most, 0 if fewer else max(most - 1, 0), -1):
        changes = plan.changes | layers[0].changes(model, gone)
        shapes = dict(plan.shapes)
        for layer in layers:
            shapes |= layer.shapes(gone)
        try:
            _check(model, changes, shapes)
        except ValueError as error:
            reason = reason or str(error)
            continue
        plan.changes, plan.shapes = changes, shapes
        plan.removals += [(layer, dead[layer.name][:gone]) for layer in layers]
        return Shrunk(count * members, (count - gone) * members, numbers)
    return Shrunk(count * members, count * members, numbers, reason)


# How each kind is found, and whether a configuration may refuse a number and accept a smaller one: a width
# may be any number, a number of heads has to fit others.
_KINDS: dict[str, tuple[Callable[[PreTrainedModel], Sequence[Structures]], bool]] = {
    "neurons": (find_neurons, False),
    "heads": (find_heads, True),
}


def _check(model: PreTrainedModel, changes: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `ValueError` unless a model of the changed configuration has the remaining shapes."""
    planned = {name: tuple(value.shape) for name, value in model.state_dict().items()} | dict(shapes)
    what = f"a {type(model).__name__} with {', '.join(f'{key} {value}' for key, value in changes.items())}"
    config = copy.deepcopy(model.config)
    try:
        for key, value in changes.items():
            setattr(config, key, value)
        # As if it was read from a file, with its checks.
        config = type(config).from_dict(config.to_dict())
        with torch.device("meta"):
            there = {name: tuple(value.shape) for name, value in type(model)(config).state_dict().items()}
    except (ValueError, TypeError, ArithmeticError, RuntimeError, StrictDataclassError) as error:
        raise ValueError(f"{what} cannot be made: {error}") from error
    if wrong := [name for name in planned if planned[name] != there.get(name)]:
        raise ValueError(
            f"{what} would differ in {len(wrong)} other parameters, such as {wrong[0]}; it cannot be made "
            "smaller"
        )


def _configure(model: PreTrainedModel, changes: Mapping[str, Any]) -> None:
    """Change the configuration of a model and of its parts, which may have copies of it."""
    configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}
    for key, value in changes.items():
        before = getattr(model.config, key, None)
        for config in configs.values():
            if getattr(config, key, None) == before:
                setattr(config, key, value)


def _outputs(model: PreTrainedModel) -> Tensor | None:
    """Return a model's output for some tokens; None if it takes other inputs."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(**{name: value.to(model.device) for name, value in model.dummy_inputs.items()})[0]
    except (ValueError, TypeError, AttributeError, IndexError, KeyError, RuntimeError):
        return None
    finally:
        model.train(training)


def _agree(before: Tensor, after: Tensor | None) -> bool:
    if after is None or after.shape != before.shape:
        return False
    tolerance = 1e-3 if before.dtype in (torch.float32, torch.float64) else 5e-2
    return bool((after - before).abs().max() <= tolerance * before.abs().max().clamp(min=1))
