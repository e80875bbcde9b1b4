"""Make a model of the BERT family ready to run, its whole encoder as one module of the kernels."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hf_sparse.architectures import ENCODERS, EncoderNames
from hf_sparse.quantization.quantized_layers import require_finite_tensors
from hf_sparse.runtime.autotune import PackedLayer, pack_layer
from hf_sparse.runtime.bindings import ACTIVATIONS, Kernels, load_kernels
from hf_sparse.runtime.fused_encoder import FusedEncoder, FusedLayer, norm_vectors
from hf_sparse.runtime.integer_layer import as_integers, quantized_linears
from hf_sparse.runtime.linear import forbid_saving
from hf_sparse.runtime.optimization import Model, replace, require_cpu, transformers_model
from hf_sparse.savable import require_merged


def fuse(model: Model) -> Model:
    """Replace the encoder of a model of the BERT family, in place, by one of the kernels; return the model.

    Quantized layers compute with the codes and the ranges that training gave them. Plain layers are rounded
    now: weights to int8 per output, inputs to 8 bits per token. Embeddings and heads stay in PyTorch, and
    `forward` and its outputs stay the same, except that hidden states of tokens which the attention mask
    leaves out are zeros, and that neither hidden states of each layer nor attentions are returned.

    Without a C++ compiler the model stays as it is, after one warning.

    Args:
        model: A model on the CPU whose `model_type` is bert, camembert, distilbert, electra, roberta or
            xlm-roberta, or a `SentenceTransformer` or `CrossEncoder` with one inside, whose pooling and
            normalization stay. Save it before: the fused model cannot be saved or trained.

    Returns:
        The same model, in evaluation mode and without gradients.

    Raises:
        ValueError: The architecture is another one, layers differ in size, the encoder has adapters or hooks
            that would be lost, weights have scales for groups of inputs or are not finite. The model is
            unchanged then.
    """
    require_merged(model)
    inner = transformers_model(model)
    require_cpu(inner)
    if not any(isinstance(module, FusedEncoder) for module in inner.modules()):
        _fuse_encoder(inner)
    return model.eval().requires_grad_(False)


def _fuse_encoder(model: PreTrainedModel) -> None:
    names = encoder_names(model)
    require_finite_tensors(model.named_parameters())
    kernels, base = load_kernels(), model.base_model
    refuse_hooks(base.get_submodule(names.encoder))
    layers = quantized_linears(base)
    if kernels is not None:
        packed = [
            pack_layer(kernels, as_integers(f"{name}.{part}", linear, layers))
            for name, _, linears in encoder_layers(base, names)
            for part, linear in zip(names.linears, linears, strict=True)
        ]
        install(kernels, model, names, packed)


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
    """Yield the name of each layer, the layer, and its six Linears in the order of LINEARS."""
    path = f"{names.encoder}.{names.layers}"
    layers = base.get_submodule(path)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(f"{path} is a {type(layers).__name__}, not a list of layers; call optimize(model)")
    for index, layer in enumerate(layers):
        yield f"{path}.{index}", layer, tuple(layer.get_submodule(name) for name in names.linears)


def install(
    kernels: Kernels, model: PreTrainedModel, names: EncoderNames, packed: Sequence[PackedLayer]
) -> None:
    """Put a fused encoder, made of all Linears in the order of their layers, in place of a model's own.

    Raises `ValueError` for layers that differ from each other.
    """
    base, config = model.base_model, model.config
    layers, epsilons = [], set()
    for index, (name, layer, linears) in enumerate(encoder_layers(base, names)):
        six = packed[index * len(linears) : (index + 1) * len(linears)]
        norms = []
        for part in names.norms:
            norm = layer.get_submodule(part)
            if not isinstance(norm, nn.LayerNorm) or type(norm) is not nn.LayerNorm:
                raise ValueError(f"{name} has norms other than LayerNorm; call optimize(model) instead")
            norms.append(norm)
            epsilons.add(norm.eps)
        layers.append(
            FusedLayer(tuple(one.weight for one in six), tuple(one.grid for one in six), norm_vectors(*norms))
        )
    _require_alike(layers, epsilons, config.num_attention_heads)
    activation = ACTIVATIONS[getattr(config, names.activation)]
    encoder = FusedEncoder(kernels, layers, config.num_attention_heads, activation, *epsilons)
    replace(base, names.encoder, encoder)
    base.register_forward_pre_hook(_refuse_inner_states, with_kwargs=True)
    forbid_saving(model)


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


def _require_alike(layers: Sequence[FusedLayer], epsilons: set[float], heads: int) -> None:
    shapes = {tuple((weight.rows, weight.columns) for weight in layer.packed) for layer in layers}
    hidden, inner = layers[0].packed[0].columns, layers[0].packed[4].rows
    expected = (*[(hidden, hidden)] * 4, (inner, hidden), (hidden, inner))
    if shapes != {expected} or hidden % heads or len(epsilons) != 1:
        raise ValueError(
            f"the layers of this encoder differ, or heads or neurons were removed from some: weights of "
            f"{sorted(shapes)}, {heads} heads, epsilons {sorted(epsilons)}; call optimize(model) instead"
        )


def _refuse_inner_states(module: nn.Module, _: tuple[Any, ...], inputs: dict[str, Any]) -> None:
    for asked in ("output_hidden_states", "output_attentions"):
        wanted = inputs.get(asked)
        if wanted or (wanted is None and getattr(module.config, asked, False)):
            raise ValueError(
                f"{asked} is set, and a fused encoder returns only its last hidden states; call "
                "optimize(model) instead"
            )
