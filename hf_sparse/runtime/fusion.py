"""Make an encoder of transformers ready to run, as one module of the kernels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_sparse.architectures import ENCODERS, EncoderNames
from hf_sparse.quantization.quantized_layers import require_finite_tensors
from hf_sparse.runtime.autotune import PackedLayer, pack_pieces
from hf_sparse.runtime.bindings import ACTIVATIONS, Kernels, load_kernels
from hf_sparse.runtime.encoders.encoder_parts import (
    LOCAL,
    called_layers,
    encoder_layers,
    encoder_names,
    require_norms,
)
from hf_sparse.runtime.encoders.places import (
    PlaceTables,
    PositionsAlone,
    RelationTables,
    bias_table,
    padded_rows,
    relation_tables,
    rotation_table,
    row_table,
)
from hf_sparse.runtime.fused_encoder import EncoderSettings, FusedEncoder, FusedLayer, norm_vectors
from hf_sparse.runtime.integer_layer import as_integers, quantized_linears
from hf_sparse.runtime.linear import RuntimeLinear, forbid_saving
from hf_sparse.runtime.optimization import replace, require_cpu
from hf_sparse.savable import require_merged

# Texts of models with relative positions alone may be longer than `max_position_embeddings`.
_LONGEST = 4096
# Which of the projections of a layer projects positions for queries and for keys.
_PROJECTORS = {"c2p": 1, "p2c": 0}


def fuse(model: PreTrainedModel) -> PreTrainedModel:
    """Replace the encoder of a model, in place, by one of the kernels; return the model.

    Quantized layers compute with the codes and the ranges that training gave them. Plain layers are rounded
    now: weights to int8 per output, inputs to 8 bits per token. Embeddings and heads stay in PyTorch, and
    `forward` and its outputs stay the same, except that hidden states of tokens which the attention mask
    leaves out are zeros, and that neither hidden states of each layer nor attentions are returned.

    Without a C++ compiler the model stays as it is, after one warning.

    Args:
        model: A model on the CPU whose `model_type` is a key of `hf_sparse.architectures.ENCODERS`, such as
            bert, modernbert or vit. Save it before: the fused model cannot be saved or trained.

    Returns:
        The same model, in evaluation mode and without gradients.

    Raises:
        ValueError: The architecture is another one, layers differ in size, the encoder has adapters or hooks
            that would be lost, weights have scales for groups of inputs or are not finite. The model is
            unchanged then.
    """
    require_cpu(model)
    require_merged(model)
    if any(isinstance(module, FusedEncoder) for module in model.modules()):
        return model
    names = encoder_names(model)
    require_finite_tensors(model.named_parameters())
    kernels, base = load_kernels(), model.base_model
    refuse_hooks(base.get_submodule(names.encoder))
    layers = quantized_linears(base)
    if kernels is not None:
        packed = [
            pack_pieces(kernels, as_integers(f"{name}.{part}", linear, layers), pieces)
            for name, _, linears in encoder_layers(base, names)
            for part, linear, pieces in zip(names.linears, linears, names.pieces, strict=True)
        ]
        install(kernels, model, names, packed)
    return model.eval().requires_grad_(False)


def install(
    kernels: Kernels, model: PreTrainedModel, names: EncoderNames, packed: Sequence[Sequence[PackedLayer]]
) -> None:
    """Put a fused encoder, made of all Linears in the order of their layers, in place of a model's own.

    Raises `ValueError` for layers that differ from each other.
    """
    base, config = model.base_model, model.config
    kinds = getattr(config, "layer_types", None) if names.rotary else None
    found = list(encoder_layers(base, names))
    layers, norms = [], []
    for index, (_, layer, linears) in enumerate(found):
        parts = [
            part for linear in packed[index * len(linears) : (index + 1) * len(linears)] for part in linear
        ]
        both = [layer.get_submodule(part) for part in names.norms]
        norms += both
        kind = kinds[index] if kinds else None
        relations = _relations(kernels, base, names, config, parts) if names.disentangled else None
        parts = parts[: len(parts) - len(names.positions)]
        layers.append(
            FusedLayer(
                tuple(one.weight for one in parts),
                tuple(one.grid for one in parts),
                tuple(vector for norm in both for vector in norm_vectors(norm)),
                rotation=-1 if names.rotary is None else sorted(set(kinds)).index(kind) if kinds else 0,
                window=config.sliding_window if kind == LOCAL else -1,
                relations=relations,
            )
        )
    epsilon, centered = require_norms(norms, names, found[0][0])
    width = layers[0].packed[0].columns // config.num_attention_heads
    settings = EncoderSettings(
        config.num_attention_heads,
        ACTIVATIONS[getattr(config, names.activation)],
        epsilon,
        getattr(config, "num_key_value_heads", None),
        names.norms_first,
        centered,
        (width * (1 + len(set(config.pos_att_type)))) ** -0.5 if names.disentangled else None,
        bare=not names.layers,
        listed=ENCODERS[config.model_type].disentangled,
    )
    _require_alike(layers, settings)
    if names.inner:
        layers = called_layers(layers, config)
    own = base.get_submodule(names.encoder)
    entrance = None if names.entrance is None else (names.entrance, own.get_submodule(names.entrance))
    tables = _tables(base, names, config, sorted(set(kinds)) if kinds else [None])
    encoder = FusedEncoder(kernels, layers, settings, tables, entrance)
    replace(base, names.encoder, encoder if names.layers else nn.ModuleList([encoder]))
    if names.rotary is not None:
        replace(base, names.rotary, PositionsAlone())
    base.register_forward_pre_hook(_refuse_inner_states, with_kwargs=True)
    forbid_saving(model)


def _tables(base: nn.Module, names: EncoderNames, config: Any, kinds: Sequence[str | None]) -> PlaceTables:
    """Return the tables of places of an encoder; raise `ValueError` if the kernels cannot use them."""
    if names.rotary is not None:
        count = config.max_position_embeddings
        return PlaceTables(rotations=rotation_table(base.get_submodule(names.rotary), kinds, count))
    if names.relative is not None:
        count = config.max_position_embeddings
        return PlaceTables(biases=bias_table(base.get_submodule(names.encoder), count), longest=count)
    if names.disentangled:
        rows_of, rows = row_table(base.get_submodule(names.encoder), _LONGEST)
        return PlaceTables(rows_of=rows_of, rows=padded_rows(rows), longest=_LONGEST)
    return PlaceTables()


def _relations(
    kernels: Kernels, base: nn.Module, names: EncoderNames, config: Any, parts: Sequence[PackedLayer]
) -> RelationTables:
    """Return the projections of the relative positions of one layer, which its own Linears compute."""
    encoder: Any = base.get_submodule(names.encoder)
    _, rows = row_table(encoder, 1)
    kinds = [kind for kind in ("c2p", "p2c") if kind in config.pos_att_type]
    # Without Linears of their own, positions are projected as keys for queries, and as queries for keys.
    own = parts[len(parts) - len(names.positions) :] or [parts[_PROJECTORS[kind]] for kind in kinds]
    with torch.no_grad():
        embedded = encoder.get_rel_embedding()[:rows].float()
        found = {
            kind: RuntimeLinear(kernels, layer)(embedded) for kind, layer in zip(kinds, own, strict=True)
        }
    return relation_tables(found.get("c2p"), found.get("p2c"), config.num_attention_heads, kernels.lanes)


def refuse_hooks(encoder: nn.Module) -> None:
    """Raise `ValueError` if a module that would be replaced has a hook of somebody else."""
    for name, module in encoder.named_modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            # Those of transformers collect inner states, which are refused anyway.
            owner = getattr(hook, "__module__", None) or type(hook).__module__
            if not owner.startswith(("transformers.", "compressed_tensors.")):
                raise ValueError(
                    f"{name or 'the encoder'} has a hook of {owner}, which would never be called again; "
                    "remove it, or call optimize(model) instead"
                )


def _require_alike(layers: Sequence[FusedLayer], settings: EncoderSettings) -> None:
    shapes = {tuple((weight.rows, weight.columns) for weight in layer.packed) for layer in layers}
    hidden, inner, heads = layers[0].packed[0].columns, layers[0].packed[4].rows, settings.heads
    narrow = hidden // heads * (settings.key_heads or heads)
    gate = [(inner, hidden)] * (len(layers[0].packed) - 6)
    expected = (
        *((hidden, hidden), (narrow, hidden), (narrow, hidden), (hidden, hidden), (inner, hidden)),
        *(*gate, (hidden, inner)),
    )
    if shapes != {expected} or hidden % heads or heads % (settings.key_heads or heads):
        raise ValueError(
            f"the layers of this encoder differ, or heads or neurons were removed from some: weights of "
            f"{sorted(shapes)}, {heads} heads; call optimize(model) instead"
        )


def _refuse_inner_states(module: nn.Module, _: tuple[Any, ...], inputs: dict[str, Any]) -> None:
    for asked in ("output_hidden_states", "output_attentions"):
        wanted = inputs.get(asked)
        if wanted or (wanted is None and getattr(module.config, asked, False)):
            raise ValueError(
                f"{asked} is set, and a fused encoder returns only its last hidden states; call "
                "optimize(model) instead"
            )
