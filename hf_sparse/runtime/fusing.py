"""Making a model of the BERT family ready to run, its encoder as one piece."""

import logging

from torch import nn
from transformers import PreTrainedModel

from hf_sparse.runtime.choosing import best_form
from hf_sparse.runtime.engine import EngineLayer, FusedEncoder, norm_vectors
from hf_sparse.runtime.families import Family, family_of
from hf_sparse.runtime.integers import IntegerLayer, integer_layer, quantized
from hf_sparse.runtime.library import ACTIVATIONS, Kernels, load_kernels
from hf_sparse.runtime.optimizing import require_cpu
from hf_sparse.runtime.packing import PackedWeight, pack

logger = logging.getLogger(__name__)


def fuse(model: PreTrainedModel) -> PreTrainedModel:
    """Replace the encoder of a model of the BERT family, in place, by one that the kernels compute; return it.

    Layers compute with the codes and the ranges that training gave them. Those that are plain floats are
    rounded now: weights to int8 for each output, inputs to 8 bits for each token. Embeddings and heads stay
    as they are, and so do `forward` and its outputs, but for hidden states of tokens that the attention mask
    leaves out, which are zeros. Neither hidden states of each layer nor attentions are there.

    Without a C++ compiler the model stays as it is, after one warning. Raises `ValueError` for models of other
    families, and for layers with scales of groups of inputs.
    """
    require_cpu(model)
    family = family_of(model)
    kernels = load_kernels()
    model.eval().requires_grad_(False)
    if kernels is None:
        return model
    base = model.base_model
    layers = quantized(base)
    integers = [
        [
            integer_layer(f"{name}.{part}", linear, layers.get(f"{name}.{part}"))
            for part, linear in zip(family.linears, linears, strict=True)
        ]
        for name, _, linears in family.parts(base)
    ]
    install(kernels, model, family, integers)
    return model


def install(
    kernels: Kernels, model: PreTrainedModel, family: Family, integers: list[list[IntegerLayer]]
) -> None:
    """Put an encoder of these layers in place of a model's own."""
    base, config = model.base_model, model.config
    engine_layers, epsilon = [], None
    for (_, layer, _), six in zip(family.parts(base), integers, strict=True):
        norms = [layer.get_submodule(name) for name in family.norms]
        epsilon = norms[0].eps
        engine_layers.append(
            EngineLayer(
                tuple(packed(kernels, one) for one in six),
                tuple((one.input_step, float(one.input_zero), one.dynamic) for one in six),
                norm_vectors(*norms),
            )
        )
    activation = ACTIVATIONS[getattr(config, family.activation)]
    engine = FusedEncoder(kernels, engine_layers, config.num_attention_heads, activation, epsilon)
    parent, _, name = family.encoder.rpartition(".")
    setattr(base.get_submodule(parent) if parent else base, name, engine)
    base.register_forward_pre_hook(_refuse_inner_states, with_kwargs=True)


def packed(kernels: Kernels, layer: IntegerLayer) -> PackedWeight:
    """Pack a layer in the form that is fastest here."""
    form = best_form(kernels, layer.codes)
    return pack(kernels, layer.codes, layer.multipliers, layer.bias, form)


def _refuse_inner_states(module: nn.Module, _: tuple, inputs: dict) -> None:
    for asked in ("output_hidden_states", "output_attentions"):
        wanted = inputs.get(asked)
        if wanted or (wanted is None and getattr(module.config, asked, False)):
            raise ValueError(
                f"{asked} is not there in a fused encoder, which keeps none; call optimize(model) instead"
            )
