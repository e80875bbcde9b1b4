"""Making a model of the BERT family ready to run, its encoder as one piece."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel

from hf_sparse.quantization.layers import require_finite
from hf_sparse.runtime.choosing import PackedLayer, pack_layer
from hf_sparse.runtime.engine import EngineLayer, FusedEncoder, norm_vectors
from hf_sparse.runtime.families import Family, family_of
from hf_sparse.runtime.integers import quantized
from hf_sparse.runtime.library import ACTIVATIONS, Kernels, load_kernels
from hf_sparse.runtime.linear import refuse_saving
from hf_sparse.runtime.optimizing import integers_of, replace, require_cpu
from hf_sparse.suitable import require_merged


def fuse(model: PreTrainedModel) -> PreTrainedModel:
    """Replace the encoder of a model of the BERT family, in place, by one of the kernels; return the model.

    Layers compute with the codes and the ranges that training gave them. Those that are plain floats are
    rounded now: weights to int8 for each output, inputs to 8 bits for each token. Embeddings and heads stay
    as they are, and so do `forward` and its outputs, but for hidden states of tokens that the attention mask
    leaves out, which are zeros. Neither hidden states of each layer nor attentions are there.

    Without a C++ compiler the model stays as it is, after one warning. Raises `ValueError`, the model as it
    was, for other families, layers that differ in size, adapters and hooks that would be lost, scales of
    groups of inputs, and weights that are not finite.
    """
    require_cpu(model)
    require_merged(model)
    if any(isinstance(module, FusedEncoder) for module in model.modules()):
        return model
    family = family_of(model)
    require_finite(model.named_parameters())
    kernels, base = load_kernels(), model.base_model
    refuse_hooks(base.get_submodule(family.encoder))
    layers = quantized(base)
    if kernels is not None:
        packed = [
            pack_layer(kernels, integers_of(f"{name}.{part}", linear, layers))
            for name, _, linears in family.parts(base)
            for part, linear in zip(family.linears, linears, strict=True)
        ]
        install(kernels, model, family, packed)
    return model.eval().requires_grad_(False)


def install(kernels: Kernels, model: PreTrainedModel, family: Family, packed: Sequence[PackedLayer]) -> None:
    """Put an encoder in place of a model's own, made of all its Linears in the order of its layers.

    Raises `ValueError` for layers that differ from each other.
    """
    base, config = model.base_model, model.config
    layers, epsilons = [], set()
    for index, (name, layer, linears) in enumerate(family.parts(base)):
        six = packed[index * len(linears) : (index + 1) * len(linears)]
        norms = [layer.get_submodule(norm) for norm in family.norms]
        if any(type(norm) is not nn.LayerNorm for norm in norms):
            raise ValueError(f"{name} has norms that are no LayerNorms; call optimize(model) instead")
        epsilons |= {norm.eps for norm in norms}
        layers.append(
            EngineLayer(
                tuple(one.weight for one in six), tuple(one.grid for one in six), norm_vectors(*norms)
            )
        )
    _require_alike(layers, epsilons, config.num_attention_heads)
    activation = ACTIVATIONS[getattr(config, family.activation)]
    encoder = FusedEncoder(kernels, layers, config.num_attention_heads, activation, *epsilons)
    replace(base, family.encoder, encoder)
    base.register_forward_pre_hook(_refuse_inner_states, with_kwargs=True)
    model.save_pretrained = refuse_saving


def refuse_hooks(encoder: nn.Module) -> None:
    """Raise `ValueError` where somebody listens to modules that would be gone."""
    for name, module in encoder.named_modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            # Those of transformers collect inner states, which are refused anyway.
            owner = getattr(hook, "__module__", None) or type(hook).__module__
            if not owner.startswith(("transformers.", "compressed_tensors.")):
                raise ValueError(
                    f"{name or 'the encoder'} has a hook of {owner}, which would never be called again; "
                    "remove it, or call optimize(model) instead"
                )


def _require_alike(layers: Sequence[EngineLayer], epsilons: set[float], heads: int) -> None:
    shapes = {tuple((weight.rows, weight.columns) for weight in layer.packed) for layer in layers}
    hidden, inner = layers[0].packed[0].columns, layers[0].packed[4].rows
    expected = (*[(hidden, hidden)] * 4, (inner, hidden), (hidden, inner))
    if shapes != {expected} or hidden % heads or len(epsilons) != 1:
        raise ValueError(
            f"the layers of this encoder differ, or heads or neurons were removed from some: weights of "
            f"{sorted(shapes)}, {heads} heads, epsilons {sorted(epsilons)}; call optimize(model) instead"
        )


def _refuse_inner_states(module: nn.Module, _: tuple, inputs: dict) -> None:
    for asked in ("output_hidden_states", "output_attentions"):
        wanted = inputs.get(asked)
        if wanted or (wanted is None and getattr(module.config, asked, False)):
            raise ValueError(
                f"{asked} is not there in a fused encoder, which keeps none; call optimize(model) instead"
            )
