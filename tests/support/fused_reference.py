"""The outputs that the reference gives for the encoder of a model, and those of the fused one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_sparse.quantization.quantized_layers import QuantizedLayer
from hf_sparse.runtime.bindings import ACTIVATIONS
from hf_sparse.runtime.encoders import layer_reference
from hf_sparse.runtime.encoders.encoder_parts import encoder_layers, encoder_names
from hf_sparse.runtime.encoders.layer_reference import Coded, Distances, Variant
from hf_sparse.runtime.encoders.places import LOG2_E, half_codes, row_table
from hf_sparse.runtime.fused_encoder import FusedEncoder
from hf_sparse.runtime.integer_layer import IntegerLayer, integer_layer
from hf_sparse.runtime.reference import linear


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


def relations_of(
    encoder: nn.Module, config: PreTrainedConfig, own: Sequence[str], parts: Sequence[IntegerLayer]
) -> list[tuple[Coded, Coded]]:
    """Return, for each head, what queries and what keys are multiplied with for each row of distances."""
    buckets = encoder.position_buckets if encoder.position_buckets > 0 else encoder.max_relative_positions
    embedded = encoder.get_rel_embedding()[: 2 * buckets].detach()
    kinds = [kind for kind in ("c2p", "p2c") if kind in config.pos_att_type]
    layers = dict(zip(kinds, parts[-len(own) :], strict=True)) if own else {"c2p": parts[1], "p2c": parts[0]}
    both = []
    for kind in ("c2p", "p2c"):
        projected = linear(layers[kind], embedded) if kind in kinds else torch.zeros_like(embedded)
        heads = projected.chunk(config.num_attention_heads, 1)
        both.append([(codes.double(), step) for codes, step in map(half_codes, heads)])
    return list(zip(*both, strict=True))


def encoded(
    base: nn.Module,
    states: Tensor,
    mask: Tensor,
    quantized: Mapping[nn.Module, QuantizedLayer],
    positions: Tensor | None = None,
) -> Tensor:
    """Return the last hidden states (batch, length, hidden) for the inputs of the first layer."""
    config, names = base.config, encoder_names(base)
    encoder, heads = base.get_submodule(names.encoder), base.config.num_attention_heads
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
            parts = [
                part
                for one, pieces in zip(linears, names.pieces, strict=True)
                for part in pieces_of(integer_layer("", one, quantized.get(one)), pieces)
            ]
            biases = biases_of(encoder, states.shape[1]) if names.relative else [None] * heads
            relations, scaling, rows_of = [None] * heads, None, None
            if names.disentangled:
                relations = relations_of(encoder, config, names.positions, parts)
                scaling = (config.hidden_size // heads * (1 + len(config.pos_att_type))) ** -0.5
                rows_of = row_table(encoder, states.shape[1])[0]
            distances = None
            if window >= 0 or names.relative or names.disentangled:
                reach = states.shape[1] - 1
                distances = [
                    Distances(columns, window, bias, reach, rows_of, relation)
                    for bias, relation in zip(biases, relations, strict=True)
                ]
            variant = Variant(
                getattr(config, "num_key_value_heads", None),
                names.norms_first,
                type(layer.get_submodule(names.norms[1])) is nn.LayerNorm,
                scaling,
                turns_of(base, kind, positions[row, kept]) if names.rotary else None,
                distances,
            )
            norms = [layer.get_submodule(name) for name in names.norms]
            tokens = layer_reference.encoder_layer(
                parts[: len(parts) - len(names.positions)],
                tuple(map(norm_of, norms)),
                heads,
                ACTIVATIONS[getattr(config, names.activation)],
                getattr(norms[1], "eps", None) or norms[1].variance_epsilon,
                tokens,
                variant,
            )
        found[row, kept] = tokens
    return found


def encoder_of(model: PreTrainedModel) -> FusedEncoder:
    (found,) = (module for module in model.modules() if isinstance(module, FusedEncoder))
    return found


def call(encoder: FusedEncoder, states: Tensor, mask: Tensor | None = None) -> Tensor:
    positions = torch.arange(states.shape[1])[None] if encoder.tables.rotations is not None else None
    with torch.no_grad():
        found = encoder(states, mask, position_embeddings=positions)
    return found if isinstance(found, Tensor) else found.last_hidden_state


def compare(found: dict[str, Tensor], exact: dict[str, Tensor], mask: Tensor | None) -> None:
    assert found.keys() == exact.keys()
    for key, value in exact.items():
        one, other = found[key], value
        if mask is not None and value.shape[:2] == mask.shape:
            # Of tokens that are left out nothing is promised.
            one, other = one[mask.bool()], other[mask.bool()]
        assert (one - other).abs().mean() < 0.02 * other.abs().mean() + 1e-3
        torch.testing.assert_close(one, other, rtol=0, atol=0.1 * float(other.abs().max()))
