"""Make an encoder of transformers ready to run, as one module of the kernels."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hf_sparse.architectures import ENCODERS, EncoderNames
from hf_sparse.quantization.quantized_layers import require_finite_tensors
from hf_sparse.runtime.autotune import PackedLayer, pack_pieces
from hf_sparse.runtime.bindings import ACTIVATIONS, Kernels, load_kernels
from hf_sparse.runtime.fused_encoder import EncoderSettings, FusedEncoder, FusedLayer, norm_vectors
from hf_sparse.runtime.integer_layer import as_integers, quantized_linears
from hf_sparse.runtime.linear import forbid_saving
from hf_sparse.runtime.optimization import replace, require_cpu
from hf_sparse.runtime.places import PlaceTables, PositionsAlone, bias_table, rotation_table
from hf_sparse.savable import require_merged

# The kind of a layer of local attention in `layer_types` of a configuration.
_LOCAL = "sliding_attention"


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
    else:
        return names
    raise ValueError(
        f"the encoder of this {type(model).__name__} cannot be fused: {reason}; optimize(model) replaces "
        "its Linears one by one"
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
        layers.append(
            FusedLayer(
                tuple(one.weight for one in parts),
                tuple(one.grid for one in parts),
                tuple(vector for norm in both for vector in norm_vectors(norm)),
                rotation=-1 if names.rotary is None else sorted(set(kinds)).index(kind) if kinds else 0,
                window=config.sliding_window if kind == _LOCAL else -1,
            )
        )
    epsilon, centered = _require_norms(norms, names, found[0][0])
    settings = EncoderSettings(
        config.num_attention_heads,
        ACTIVATIONS[getattr(config, names.activation)],
        epsilon,
        getattr(config, "num_key_value_heads", None),
        names.norms_first,
        centered,
        bare=not names.layers,
    )
    _require_alike(layers, settings)
    if names.inner:
        layers = _repeated(layers, config)
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
    return PlaceTables()


def _repeated(layers: Sequence[FusedLayer], config: Any) -> list[FusedLayer]:
    """Return the layers of groups in the order in which the encoder calls them, several times each."""
    each, calls = len(layers) // config.num_hidden_groups, config.num_hidden_layers
    groups = [int(call / (calls / config.num_hidden_groups)) for call in range(calls)]
    return [layer for group in groups for layer in layers[group * each : (group + 1) * each]]


def _require_norms(norms: Sequence[nn.Module], names: EncoderNames, first: str) -> tuple[float, bool]:
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
