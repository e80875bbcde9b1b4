"""Find the parts of an encoder in a model, or say why it cannot be fused."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedModel

from hf_sparse.architectures import ENCODERS, EncoderNames
from hf_sparse.runtime.bindings import ACTIVATIONS

# The kind of a layer of local attention in `layer_types` of a configuration.
LOCAL = "sliding_attention"
# Types of rotary embeddings whose angles depend on the length of a text.
_VARYING = {"dynamic", "longrope"}

Layer = TypeVar("Layer")


def encoder_names(model: PreTrainedModel) -> EncoderNames:
    """Return the names of an encoder's parts; raise `ValueError` with the reason if it cannot be fused."""
    config = model.config
    names = ENCODERS.get(config.model_type)
    if names is None:
        reason = f"models of type {config.model_type} are not among {', '.join(ENCODERS)}"
    elif getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        reason = "its attention looks back, or at another model"
    elif getattr(config, "position_embedding_type", None) not in (None, "absolute"):
        reason = f"its positions are {config.position_embedding_type}"
    elif getattr(config, names.activation) not in ACTIVATIONS:
        reason = f"its activation {getattr(config, names.activation)} is none of {', '.join(ACTIVATIONS)}"
    elif varying := _rotations(config) & _VARYING:
        reason = f"its rotary embeddings are {varying.pop()}, which depend on the length of a text"
    elif getattr(config, "conv_kernel_size", 0) > 0:
        reason = "it has a convolution beside its first layer"
    elif LOCAL in (kinds := getattr(config, "layer_types", None) or ()) and set(kinds) == {LOCAL}:
        reason = "no layer of it sees whole texts"
    else:
        return _configured(names, config)
    raise ValueError(
        f"the encoder of this {type(model).__name__} cannot be fused: {reason}; optimize(model) replaces "
        "its Linears one by one"
    )


def _rotations(config: Any) -> set[str]:
    """Return the types of rotary embeddings in a configuration, which may have one for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    nested = [one for one in found.values() if isinstance(one, dict)] or [found]
    return {str(one.get("rope_type", "default")) for one in nested}


def _configured(names: EncoderNames, config: Any) -> EncoderNames:
    """Return the names without the projections of relative positions that a configuration leaves out."""
    if not names.disentangled:
        return names
    kinds = (config.pos_att_type or ()) if getattr(config, "relative_attention", False) else ()
    own = () if getattr(config, "share_att_key", False) else zip(names.positions, ("c2p", "p2c"), strict=True)
    return replace(
        names, disentangled=bool(kinds), positions=tuple(name for name, kind in own if kind in kinds)
    )


def encoder_layers(
    base: nn.Module, names: EncoderNames
) -> Iterator[tuple[str, nn.Module, tuple[nn.Module, ...]]]:
    """Yield the name of each layer, the layer, and its Linears in the order of `names.linears`."""
    path = f"{names.encoder}.{names.layers}" if names.layers else names.encoder
    for name, layer in _entries(base, path):
        for inner, one in _entries(base, f"{name}.{names.inner}") if names.inner else [(name, layer)]:
            yield inner, one, tuple(one.get_submodule(part) for part in names.linears)


def _entries(base: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    layers = base.get_submodule(path)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(f"{path} is a {type(layers).__name__}, not a list of layers; call optimize(model)")
    for index, layer in enumerate(layers):
        yield f"{path}.{index}", layer


def called_layers(layers: Sequence[Layer], config: Any) -> list[Layer]:
    """Return the layers of groups in the order in which the encoder calls them, several times each."""
    each, calls = len(layers) // config.num_hidden_groups, config.num_hidden_layers
    groups = [int(call / (calls / config.num_hidden_groups)) for call in range(calls)]
    return [layer for group in groups for layer in layers[group * each : (group + 1) * each]]


def require_norms(norms: Sequence[nn.Module], names: EncoderNames, first: str) -> tuple[float, bool]:
    """Return the epsilon of all norms, and whether they are LayerNorms, not RMSNorms; refuse others."""
    kept = norms[1:] if names.norms_first and type(norms[0]) is nn.Identity else norms
    kinds = {
        "LayerNorm"
        if type(norm) is nn.LayerNorm
        else "RMSNorm"
        if _is_rms_norm(norm)
        else type(norm).__name__
        for norm in kept
    }
    found = (getattr(norm, "eps", getattr(norm, "variance_epsilon", None)) for norm in kept)
    epsilons = sorted({float(epsilon) for epsilon in found if epsilon is not None})
    if kinds not in ({"LayerNorm"}, {"RMSNorm"}) or len(epsilons) != 1:
        raise ValueError(
            f"the norms of {first} and the layers behind it are {', '.join(sorted(kinds))} with epsilons "
            f"{epsilons}, and the kernels compute LayerNorm or RMSNorm, with one epsilon; call "
            "optimize(model) instead"
        )
    return epsilons[0], kinds == {"LayerNorm"}


def _is_rms_norm(norm: nn.Module) -> bool:
    # transformers has a class for each model, all with these names.
    return type(norm).__name__.endswith("RMSNorm") and hasattr(norm, "variance_epsilon")
