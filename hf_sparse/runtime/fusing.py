"""Making a model of the BERT family ready to run, its encoder as one piece."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from hf_sparse.runtime.choosing import PackedLayer, pack_layer
from hf_sparse.runtime.engine import EngineLayer, FusedEncoder, norm_vectors
from hf_sparse.runtime.families import Family, family_of
from hf_sparse.runtime.integers import quantized
from hf_sparse.runtime.library import ACTIVATIONS, Kernels, load_kernels
from hf_sparse.runtime.optimizing import integers_of, replace, require_cpu


def fuse(model: PreTrainedModel) -> PreTrainedModel:
    """Replace the encoder of a model of the BERT family, in place, by one of the kernels; return the model.

    Layers compute with the codes and the ranges that training gave them. Those that are plain floats are
    rounded now: weights to int8 for each output, inputs to 8 bits for each token. Embeddings and heads stay
    as they are, and so do `forward` and its outputs, but for hidden states of tokens that the attention mask
    leaves out, which are zeros. Neither hidden states of each layer nor attentions are there.

    Without a C++ compiler the model stays as it is, after one warning. Raises `ValueError` for models of
    other families, and for layers with scales of groups of inputs.
    """
    require_cpu(model)
    family = family_of(model)
    kernels = load_kernels()
    model.eval().requires_grad_(False)
    if kernels is None:
        return model
    base = model.base_model
    layers = quantized(base)
    packed = [
        pack_layer(kernels, integers_of(f"{name}.{part}", linear, layers))
        for name, _, linears in family.parts(base)
        for part, linear in zip(family.linears, linears, strict=True)
    ]
    install(kernels, model, family, packed)
    return model


def install(kernels: Kernels, model: PreTrainedModel, family: Family, packed: Sequence[PackedLayer]) -> None:
    """Put an encoder in place of a model's own, made of all its Linears in the order of its layers."""
    base, config = model.base_model, model.config
    layers, epsilon = [], None
    for index, (_, layer, linears) in enumerate(family.parts(base)):
        six = packed[index * len(linears) : (index + 1) * len(linears)]
        norms = [layer.get_submodule(name) for name in family.norms]
        epsilon = norms[0].eps
        layers.append(
            EngineLayer(
                tuple(one.weight for one in six), tuple(one.grid for one in six), norm_vectors(*norms)
            )
        )
    activation = ACTIVATIONS[getattr(config, family.activation)]
    replace(
        base,
        family.encoder,
        FusedEncoder(kernels, layers, config.num_attention_heads, activation, epsilon),
    )
    base.register_forward_pre_hook(_refuse_inner_states, with_kwargs=True)


def _refuse_inner_states(module: nn.Module, _: tuple, inputs: dict) -> None:
    for asked in ("output_hidden_states", "output_attentions"):
        wanted = inputs.get(asked)
        if wanted or (wanted is None and getattr(module.config, asked, False)):
            raise ValueError(
                f"{asked} is not there in a fused encoder, which keeps none; call optimize(model) instead"
            )
