"""The outputs that the reference gives for the encoder of a model, before it is fused."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from hf_sparse.architectures import ENCODERS
from hf_sparse.quantization.quantized_layers import QuantizedLayer
from hf_sparse.runtime import reference
from hf_sparse.runtime.bindings import ACTIVATIONS
from hf_sparse.runtime.fusion import encoder_layers
from hf_sparse.runtime.integer_layer import IntegerLayer, integer_layer
from hf_sparse.runtime.places import LOG2_E
from hf_sparse.runtime.reference import Distances, Variant


def pieces_of(layer: IntegerLayer, count: int) -> list[IntegerLayer]:
    biases = [None] * count if layer.bias is None else layer.bias.chunk(count)
    parts = zip(layer.codes.chunk(count), layer.steps.chunk(count), biases, strict=True)
    return [replace(layer, codes=codes, steps=steps, bias=bias) for codes, steps, bias in parts]


def norm_of(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    if isinstance(norm, nn.Identity):
        return None
    bias = getattr(norm, "bias", None)
    return norm.weight.detach(), torch.zeros_like(norm.weight) if bias is None else bias.detach()


def turns_of(base: nn.Module, kind: str | None, positions: Tensor) -> Tensor:
    more = {} if kind is None else {"layer_type": kind}
    cosines, sines = base.rotary_emb(torch.zeros(1), positions[None], **more)
    pairs = cosines.shape[-1] // 2
    return torch.cat([cosines[0, :, :pairs], sines[0, :, :pairs]], 1)


def biases_of(encoder: nn.Module, length: int) -> Tensor:
    """Return biases (heads, 2 * length - 1) by the place of the query less that of the key."""
    apart = torch.arange(-length + 1, length)
    buckets = encoder.relative_position_bucket(-apart)
    return encoder.relative_attention_bias.weight.detach()[buckets].t() * torch.tensor(LOG2_E)


def encoded(
    base: nn.Module,
    states: Tensor,
    mask: Tensor,
    quantized: Mapping[nn.Module, QuantizedLayer],
    positions: Tensor | None = None,
) -> Tensor:
    """Return the last hidden states (batch, length, hidden) for the inputs of the first layer."""
    config, names = base.config, ENCODERS[base.config.model_type]
    positions = torch.arange(states.shape[1])[None].expand(mask.shape) if positions is None else positions
    kinds = getattr(config, "layer_types", None) if names.rotary else None
    layers = list(encoder_layers(base, names))
    if names.inner:
        each = len(layers) // config.num_hidden_groups
        calls = range(config.num_hidden_layers)
        groups = [call * config.num_hidden_groups // config.num_hidden_layers for call in calls]
        layers = [layer for group in groups for layer in layers[group * each : (group + 1) * each]]
    found = torch.zeros_like(states)
    for row, kept in enumerate(mask.bool()):
        tokens, columns = states[row, kept], kept.nonzero()[:, 0]
        if not len(tokens):
            continue
        for index, (_, layer, linears) in enumerate(layers):
            kind = kinds[index] if kinds else None
            window = config.sliding_window if kind == "sliding_attention" else -1
            biases = biases_of(base.get_submodule(names.encoder), states.shape[1]) if names.relative else None
            distances = None
            if window >= 0 or biases is not None:
                reach = states.shape[1] - 1
                rows = [None] * config.num_attention_heads if biases is None else biases
                distances = [Distances(columns, window, bias, reach) for bias in rows]
            variant = Variant(
                getattr(config, "num_key_value_heads", None),
                names.norms_first,
                type(layer.get_submodule(names.norms[1])) is nn.LayerNorm,
                turns_of(base, kind, positions[row, kept]) if names.rotary else None,
                distances,
            )
            norms = [layer.get_submodule(name) for name in names.norms]
            tokens = reference.encoder_layer(
                [
                    part
                    for linear, pieces in zip(linears, names.pieces, strict=True)
                    for part in pieces_of(integer_layer("", linear, quantized.get(linear)), pieces)
                ],
                tuple(norm_of(norm) for norm in norms),
                config.num_attention_heads,
                ACTIVATIONS[getattr(config, names.activation)],
                getattr(norms[1], "eps", None) or norms[1].variance_epsilon,
                tokens,
                variant,
            )
        found[row, kept] = tokens
    return found
