"""Undo what nn_pruning does beyond zeros: removed heads and neurons, and norms that do not normalize.

Heads and neurons (`nn_pruning/inference_model_patcher.py`; the madlag models): it removes heads with the
`prune_heads` that transformers had before release 5: their rows of query, key and value with the biases,
their columns of the output, listed by layer in `pruned_heads` of config.json, as {"0": [0, 2]}. It removes
the neurons that are empty in a layer: rows of one feed-forward matrix and columns of the other. Release 5 of
transformers ignores `pruned_heads` and has one number of neurons for all layers. Both are put back as zeros.
A head or a neuron whose output columns are zero adds nothing, whatever its activation is.

Norms (`nn_pruning/modules/nonorm.py`): it replaces the LayerNorm of BERT by the NoNorm of MobileBERT,
`x * weight + bias`, and writes `layer_norm_type: no_norm` into config.json. Stock BERT loads the same keys
into LayerNorms and computes something else. MobileBERT without its bottleneck computes the same: one
feed-forward network per layer, no trigrams, norms of type `no_norm`. Only the transform of its
masked-language head keeps a LayerNorm.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hf_sparse.architectures import BERT, DISTILBERT, ENCODERS, EncoderNames, feed_forward_width
from hf_sparse.hub.legacy.old_checkpoint import Conversion, State, some

# Types of models whose parts those tools removed.
_TYPES = tuple(name for name, names in ENCODERS.items() if names in (BERT, DISTILBERT))
# Tensors of unfinished runs of nn_pruning, and of the movement pruning that it grew out of.
_UNFINISHED = (".mask_scores", ".ampere_pattern", ".LayerNorm.accumulator")


def refill_removed(state: State) -> Conversion | None:
    """Fill all layers up to the sizes of the configuration with zeros; see the module."""
    _require_finished(state.tensors)
    removed = _removed_heads(state.config)
    layers = list(_layers(state.tensors)) if state.config.get("model_type") in _TYPES else []
    if not layers:
        if removed:
            raise ValueError(
                f"pruned_heads of a {state.config.get('model_type')} cannot be put back, only those of "
                f"{', '.join(_TYPES)}; load it with transformers 4"
            )
        return None
    refill = _Refill(state, removed)
    for prefix, layer, names in layers:
        refill.heads(prefix, layer, names)
        refill.neurons(prefix, names)
    if unknown := sorted(removed.keys() - {layer for _, layer, _ in layers}):
        raise ValueError(
            f"pruned_heads names layer {unknown[0]}, which the model does not have; correct config.json"
        )
    if not refill.notes():
        return None
    return Conversion(State(refill.tensors, state.config), refill.notes(), refill.as_written)


class _Refill:
    """Collects the tensors of a checkpoint with zeros in place of removed heads and neurons."""

    def __init__(self, state: State, removed: Mapping[int, Sequence[int]]) -> None:
        self.tensors = dict(state.tensors)
        self.as_written: dict[str, Callable[[nn.Module], nn.Module]] = {}
        self._removed = removed
        sizes = state.stock_config()
        self._hidden, self._heads = sizes.hidden_size, sizes.num_attention_heads
        _, self._neurons = feed_forward_width(sizes) or ("", 0)
        self._head_count, self._neuron_count = 0, 0

    def notes(self) -> tuple[str, ...]:
        counts = {"head": self._head_count, "neuron": self._neuron_count}
        notes = [
            f"{some(count, f'removed {what}')} put back as zeros" for what, count in counts.items() if count
        ]
        if self._removed and not self._head_count:
            notes.append("pruned_heads taken out of the configuration: these heads are zeros already")
        return tuple(notes)

    def heads(self, prefix: str, layer: int, names: EncoderNames) -> None:
        """Put back the heads of a layer that `pruned_heads` lists."""
        gone = self._removed.get(layer, ())
        if any(head >= self._heads for head in gone):
            raise ValueError(
                f"pruned_heads of layer {layer} is {list(gone)}, of {self._heads} heads; correct config.json"
            )
        out = f"{prefix}.{names.output}"
        rows = len(self._weight(f"{prefix}.{names.projections[0]}"))
        if rows == self._hidden:
            self._require_empty(out, layer, gone)
            return
        size = self._hidden // self._heads
        kept = [head for head in range(self._heads) if head not in gone]
        if rows != len(kept) * size or not kept:
            raise ValueError(
                f"{prefix} has {rows // size} heads and pruned_heads leaves {len(kept)} of {self._heads}; "
                "correct config.json"
            )
        for name in names.projections:
            self._spread(f"{prefix}.{name}", self._places(kept), self._hidden, dimension=0)
        self._spread(out, self._places(kept), self._hidden, dimension=1)
        self._head_count += self._heads - len(kept)

    def neurons(self, prefix: str, names: EncoderNames) -> None:
        """Fill a layer up to the number of neurons in the configuration."""
        into, back = f"{prefix}.{names.intermediate}", f"{prefix}.{names.last}"
        count = len(self._weight(into))
        if count >= self._neurons:
            return
        # Which neurons were removed is unknown, and the order of neurons makes no difference.
        places = torch.arange(count)
        self._spread(into, places, self._neurons, dimension=0)
        self._spread(back, places, self._neurons, dimension=1)
        self._neuron_count += self._neurons - count

    def _require_empty(self, out: str, layer: int, gone: Sequence[int]) -> None:
        weight = self._weight(out)
        if weight.shape[1] == self._hidden and weight[:, self._places(gone)].any():
            raise ValueError(
                f"pruned_heads says that heads {list(gone)} of layer {layer} are removed, and {out} has "
                "weights for them; take pruned_heads out of config.json if they are to count"
            )

    def _places(self, heads: Sequence[int]) -> Tensor:
        """Return the indices of the rows of some heads."""
        size = self._hidden // self._heads
        return (torch.tensor(heads, dtype=torch.int64)[:, None] * size + torch.arange(size)).flatten()

    def _weight(self, name: str) -> Tensor:
        weight = self.tensors.get(f"{name}.weight")
        if weight is None or weight.dim() != 2:
            raise ValueError(f"the checkpoint lacks the matrix {name}.weight; get all its files")
        return weight

    def _spread(self, name: str, places: Tensor, length: int, dimension: int) -> None:
        """Enlarge a Linear in dimension 0 (outputs) or 1 (inputs), with its old values at `places`."""
        weight, bias = self._weight(name), self.tensors.get(f"{name}.bias")
        if (
            weight.dim() != 2
            or weight.shape[dimension] != len(places)
            or (bias is not None and len(bias) != len(weight))
        ):
            raise ValueError(
                f"{name} is of shape {tuple(weight.shape)} where {len(places)} of {length} "
                f"{('outputs', 'inputs')[dimension]} are expected; get the file again"
            )
        self.as_written[name] = partial(_small, weight=weight, bias=bias)
        self.tensors[f"{name}.weight"] = _filled(weight, places, length, dimension)
        if bias is not None and dimension == 0:
            self.tensors[f"{name}.bias"] = _filled(bias, places, length, 0)


def _filled(values: Tensor, places: Tensor, length: int, dimension: int) -> Tensor:
    shape = list(values.shape)
    shape[dimension] = length
    return values.new_zeros(shape).index_copy_(dimension, places, values)


def _small(module: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Return the Linear as it was written; from its size transformers derives the number of heads."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return linear


def _layers(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, int, EncoderNames]]:
    for names in (BERT, DISTILBERT):
        for key in tensors:
            if match := re.fullmatch(rf"(.*\blayer\.(\d+))\.{re.escape(names.projections[0])}\.weight", key):
                yield match[1], int(match[2]), names


def _removed_heads(config: Mapping[str, Any]) -> dict[int, list[int]]:
    held = config.get("pruned_heads") or {}
    try:
        heads = {int(layer): sorted({int(head) for head in gone}) for layer, gone in held.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"pruned_heads is {held!r}, no heads by layers; correct config.json") from error
    if any(gone and gone[0] < 0 for gone in heads.values()):
        raise ValueError(f"pruned_heads is {held!r}, where heads are counted from 0; correct config.json")
    return {layer: gone for layer, gone in heads.items() if gone}


def _require_finished(tensors: Mapping[str, Tensor]) -> None:
    unfinished = next((key for key in tensors if key.endswith(_UNFINISHED)), None)
    if unfinished is not None:
        raise ValueError(
            f"{unfinished} belongs to an unfinished run, whose masks depend on its settings; finish it with "
            "its own library (compile_model of nn_pruning, bertarize.py of movement pruning)"
        )


_KEY = "layer_norm_type"
_HEADS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
)
_NORM = re.compile(r"(.+\.LayerNorm)\.(?:weight|gamma)")


def turn_into_mobilebert(state: State) -> Conversion | None:
    """Turn BERT without normalization into the MobileBERT that computes the same; see the module."""
    config = dict(state.config)
    kind = config.pop(_KEY, None)
    if kind in (None, "layer_norm"):
        return None
    architecture = (config.get("architectures") or ["BertModel"])[0]
    if kind != "no_norm" or config.get("model_type") != "bert" or config.get("is_decoder"):
        raise ValueError(
            f"{_KEY} {kind!r} of a {config.get('model_type')} cannot be expressed in transformers; only "
            "no_norm of BERT encoders can (MobileBERT)"
        )
    if architecture not in {f"Bert{head}" for head in _HEADS}:
        raise ValueError(
            f"{architecture} without normalization cannot be expressed in transformers: MobileBERT "
            "normalizes in its language head; name another class under architectures, such as BertModel, and "
            "leave out the head"
        )
    norms = [match[1] for key in state.tensors if (match := _NORM.fullmatch(key))]
    tensors = {re.sub(r"^bert\.", "mobilebert.", key): value for key, value in state.tensors.items()}
    width = config["hidden_size"]
    prefix = "mobilebert." if any(key.startswith("mobilebert.") for key in tensors) else ""
    # MobileBERT always has this part, and does not use it if embeddings are as wide as layers. It gets no
    # zeros, which would look pruned.
    unused = f"{prefix}embeddings.embedding_transformation"
    tensors |= {
        f"{unused}.weight": torch.full((width, width), 1 / width),
        f"{unused}.bias": torch.zeros(width),
    }
    config |= {
        "model_type": "mobilebert",
        "architectures": [f"Mobile{architecture}"],
        "embedding_size": width,
        "use_bottleneck": False,
        "trigram_input": False,
        "key_query_shared_bottleneck": False,
        "num_feedforward_networks": 1,
        "normalization_type": "no_norm",
        "classifier_activation": True,
        "hidden_act": config.get("hidden_act", "gelu"),
        "num_attention_heads": config.get("num_attention_heads", 12),
    }
    as_written: dict[str, Callable[[nn.Module], nn.Module]] = dict.fromkeys(norms, _without_norm)
    note = (
        f"{some(len(norms), 'norm')} that only multiply and add: {architecture} became Mobile{architecture}"
    )
    return Conversion(State(tensors, config), (note,), as_written)


def _without_norm(module: nn.Module) -> nn.Module:
    return _NoNorm(module) if isinstance(module, nn.LayerNorm) else module


class _NoNorm(nn.Module):
    """A LayerNorm of BERT that multiplies and adds only."""

    def __init__(self, module: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias = module.weight, module.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.weight + self.bias
