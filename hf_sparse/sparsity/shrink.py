"""Taking neurons out of feed-forward layers that compute nothing, so that matrices become smaller."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.initialization import no_init_weights
from transformers.pytorch_utils import Conv1D

from hf_sparse.targets import Target, find_targets

# What configurations call the width of a feed-forward layer, and its activation.
_WIDTHS = ("intermediate_size", "hidden_dim", "ffn_dim", "d_ff", "n_inner")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation", "activation_function", "dense_act_fn")


@dataclass(frozen=True)
class Shrunk:
    """The width of all feed-forward layers before and now, and how many neurons of each were dead."""

    before: int
    now: int
    dead: Mapping[str, int]


@dataclass(frozen=True)
class _FeedForward:
    """The matrices of one layer: into its neurons, one or with a gate two, and out of them."""

    name: str
    into: tuple[Target, ...]
    out: Target


def shrink(model: PreTrainedModel) -> Shrunk:
    """Remove dead neurons from the feed-forward layers of a model, in place; logits stay what they are.

    A neuron is dead if nothing reads it, its column out of the layer being zero, or if it is the same
    whatever comes in, its row into the layer being zero: what it adds then goes into the bias. Configurations
    have one width for all layers, so as many are removed of each as the layer with the fewest has. Raises
    `ValueError` where the feed-forward layers cannot be told, and for quantized models.
    """
    key, width = _width(model)
    layers = list(_feed_forwards(model, width))
    activation = _activation(model)
    dead = {layer.name: _dead(layer, activation) for layer in layers}
    count = min(len(indices) for indices in dead.values())
    config = copy.deepcopy(model.config)
    setattr(config, key, width - count)
    _check(model, config, layers, width - count)
    for layer in layers:
        gone = dead[layer.name][:count]
        keep = torch.ones(width, dtype=torch.bool)
        keep[gone] = False
        _fold(layer, gone, activation)
        for target in layer.into:
            _cut(target, keep.to(target.weight.device), outputs=True)
        _cut(layer.out, keep.to(layer.out.weight.device), outputs=False)
    model.config = config
    return Shrunk(width, width - count, {name: len(indices) for name, indices in dead.items()})


def _check(model: PreTrainedModel, config: PreTrainedConfig, layers: list[_FeedForward], now: int) -> None:
    """Raise `ValueError` unless a model of a configuration has the shapes that are left, and no other."""
    planned = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for layer in layers:
        for target in (*layer.into, layer.out):
            rows, columns = target.weight.shape
            shape = (rows, now) if target is layer.out else (now, columns)
            planned[target.name] = shape[::-1] if target.transposed else shape
            if target is not layer.out and target.module.bias is not None:
                planned[f"{target.name.removesuffix('weight')}bias"] = (now,)
    with torch.device("meta"), no_init_weights():
        there = {
            name: tuple(value.shape)
            for name, value in type(model)(copy.deepcopy(config)).state_dict().items()
        }
    if wrong := [name for name in planned if planned[name] != there.get(name)]:
        raise ValueError(
            f"a {type(model).__name__} of narrower feed-forward layers would differ in {len(wrong)} other "
            f"parameters, such as {wrong[0]}; it cannot be made smaller"
        )


def _width(model: PreTrainedModel) -> tuple[str, int]:
    for key in _WIDTHS:
        if isinstance(width := getattr(model.config, key, None), int):
            return key, width
    if hasattr(model.config, "n_inner"):
        # As GPT-2 reads a missing width.
        return "n_inner", 4 * model.config.hidden_size
    raise ValueError(
        f"the configuration of {type(model).__name__} does not say how wide its feed-forward layers are, so "
        "they cannot be made smaller"
    )


def _activation(model: PreTrainedModel) -> nn.Module:
    for key in _ACTIVATIONS:
        if isinstance(name := getattr(model.config, key, None), str) and name in ACT2FN:
            return ACT2FN[name]
    raise ValueError(f"the configuration of {type(model).__name__} names no activation that is known")


def _feed_forwards(model: PreTrainedModel, width: int) -> Iterator[_FeedForward]:
    """Yield what reads and what writes as many numbers as the configuration says, by layer."""
    layers: dict[str, list[Target]] = {}
    for target in find_targets(model):
        if type(target.module) not in (nn.Linear, Conv1D):
            raise ValueError(
                f"{target.name} belongs to a {type(target.module).__name__}; shrink a model of floats and of "
                "Linears, before it is quantized"
            )
        if width in target.weight.shape:
            layers.setdefault(_layer_of(target.name), []).append(target)
    for name, targets in layers.items():
        into = tuple(target for target in targets if target.weight.shape[0] == width)
        out = [target for target in targets if target.weight.shape[1] == width]
        if len(out) != 1 or not 1 <= len(into) <= 2 or len(into) + 1 != len(targets):
            raise ValueError(
                f"the feed-forward layer of {name} cannot be told: {len(targets)} of its matrices have a "
                f"side of {width}"
            )
        yield _FeedForward(name, into, out[0])
    if not layers:
        raise ValueError(f"no layer of {type(model).__name__} has a matrix with a side of {width}")


def _layer_of(name: str) -> str:
    parts = name.split(".")
    number = next(index for index, part in enumerate(parts) if part.isdecimal())
    return ".".join(parts[: number + 1])


def _dead(layer: _FeedForward, activation: nn.Module) -> list[int]:
    """Return the neurons that can go, in order."""
    unread = ~layer.out.weight.detach().any(0)
    empty = [~target.weight.detach().any(1) for target in layer.into]
    if len(layer.into) == 1:
        constant = empty[0]
        if layer.out.module.bias is None:
            constant = constant & (activation(_bias(layer.into[0])) == 0)
    else:
        # Of a gate and what it lets through, one that is zero is enough; the gate's activation keeps zeros.
        still = [found & (_bias(target) == 0) for found, target in zip(empty, layer.into, strict=True)]
        keeps_zero = bool(activation(torch.zeros(1)) == 0)
        constant = (still[0] | still[1]) if keeps_zero else torch.zeros_like(unread)
    return (unread | constant).nonzero().flatten().tolist()


def _fold(layer: _FeedForward, gone: list[int], activation: nn.Module) -> None:
    """Add to the bias what neurons add that are the same whatever comes in."""
    if len(layer.into) == 2 or layer.out.module.bias is None or not gone:
        return
    into = layer.into[0]
    constant = ~into.weight.detach()[gone].any(1)
    values = activation(_bias(into)[gone]) * constant
    with torch.no_grad():
        layer.out.module.bias += layer.out.weight.detach()[:, gone] @ values


def _bias(target: Target) -> Tensor:
    bias = target.module.bias
    return target.weight.new_zeros(len(target.weight)) if bias is None else bias.detach()


def _cut(target: Target, keep: Tensor, outputs: bool) -> None:
    """Leave only some outputs, or inputs, of a Linear or Conv1D."""
    module = target.module
    weight = target.weight.detach()[keep] if outputs else target.weight.detach()[:, keep]
    module.weight = nn.Parameter((weight.t() if target.transposed else weight).contiguous())
    if outputs and module.bias is not None:
        module.bias = nn.Parameter(module.bias.detach()[keep])
    if isinstance(module, Conv1D):
        module.nx, module.nf = module.weight.shape
    else:
        module.out_features, module.in_features = module.weight.shape
