"""Open sparse checkpoints that libraries of the past left behind, as stock models."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_sparse.atomic.directories import replacing_directory, require_free
from hf_sparse.checkpoint.carry_over import carried, carry
from hf_sparse.checkpoint.load import load_model, load_tokenizer
from hf_sparse.checkpoint.sparsity_record import write_sparsity_record
from hf_sparse.hub.legacy.bitmask import unpack_bitmasks
from hf_sparse.hub.legacy.masked_weights import fold_intel_masks, fold_parametrizations, fold_torch_masks
from hf_sparse.hub.legacy.nn_pruned import refill_removed, turn_into_mobilebert
from hf_sparse.hub.legacy.old_checkpoint import POOLER, Conversion, Rounds, State, listed, read_state
from hf_sparse.hub.legacy.proof import Proof, Rounding, measure_rounding, prove
from hf_sparse.hub.legacy.quantization_aware import drop_observers
from hf_sparse.sparsity.evidence import IN_PATTERN, pruned_weights
from hf_sparse.sparsity.inspection import WeightInspection, inspect_weights
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED
from hf_sparse.targets import Targets, every_weight, find_targets

LAYOUTS: Mapping[str, Callable[[State], Conversion | None]] = {
    "quantization_aware": drop_observers,
    "intel_masks": fold_intel_masks,
    "torch_masks": fold_torch_masks,
    "parametrizations": fold_parametrizations,
    "bitmasks": unpack_bitmasks,
    "removed": refill_removed,
    "no_norm": turn_into_mobilebert,
}
"""The function that undoes each layout, by name; it returns None for a checkpoint in another layout."""


@dataclass(frozen=True)
class Undone:
    """A checkpoint in today's layout, with the layouts it was in and notes on what was done.

    `kin` is the checkpoint as the type of model that it was saved as: `state` itself, unless a layout turned
    it into a model of another type. `as_written` and `rounded` (see `Conversion`) name modules of `kin`.
    """

    state: State
    kin: State
    layouts: tuple[str, ...]
    notes: tuple[str, ...]
    as_written: Mapping[str, Callable[[nn.Module], nn.Module]]
    rounded: Mapping[str, Rounds | None]


@dataclass(frozen=True)
class Rescued:
    """A checkpoint of an old library as a stock model.

    Args:
        model: The stock model, in evaluation mode.
        layouts: Names in `LAYOUTS` of the layouts that were undone; empty for plain weights.
        notes: What was done, one sentence each.
        weights: The weights that a run would prune, or whose zeros it would lock.
        difference: Largest difference of the logits from those of the layout before rounding, as a share of
            the largest logit. None if the layout stores weights as stock models do.
        rounding: How far the rounding of the layout moved the logits, None if it did not round.
        proof: Inputs and expected outputs, to compare a saved copy with.
        tokenizer: The tokenizer of the checkpoint, None if it lacks one.
        carried: Other files to save with the model, by their paths in its directory.
    """

    model: PreTrainedModel = field(repr=False)
    layouts: tuple[str, ...]
    notes: tuple[str, ...]
    weights: tuple[WeightInspection, ...] = field(repr=False)
    difference: float | None
    rounding: Rounding | None
    proof: Proof = field(repr=False)
    tokenizer: PreTrainedTokenizerBase | None = field(repr=False)
    carried: Mapping[str, Path] = field(repr=False, default_factory=dict)

    @property
    def sparsity(self) -> float:
        """Share of zeros among `weights`, in [0, 1]."""
        return sum(weight.zeros for weight in self.weights) / sum(weight.size for weight in self.weights)

    @property
    def pattern(self) -> str | None:
        """The most common pattern of the sparse weights, None if no weight is sparse."""
        return _most_common(self.weights)

    def save(self, directory: str | Path) -> float:
        """Write a directory that stock `from_pretrained` loads, checked before it takes its place.

        Args:
            directory: Directory that is new or empty. An earlier result is not replaced, since it could have
                been trained further.

        Returns:
            Largest difference of the logits of the saved copy, as a share of the largest logit.

        Raises:
            ValueError: If the logits differ, or if the directory is not empty.
        """
        with replacing_directory(Path(directory)) as staged:
            self.model.save_pretrained(staged)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(staged)
            carry(self.carried, staged)
            stock = load_model(staged, restore=False, strict=False, dtype=torch.float32)
            return self.proof.difference(stock)


def load_legacy(
    name_or_path: str, *, revision: str | None = None, token: str | bool | None = None
) -> Rescued:
    """Open a sparse checkpoint that today's transformers loads wrongly, as a stock model.

    Reads the layouts of Intel's Prune Once for All, oBERT, nn_pruning, `torch.nn.utils.prune`,
    parametrizations, SparseML and compressed-tensors. The configuration of the model records its zeros, so
    that later runs lock them, and its logits are compared with those of the layout.

    Args:
        name_or_path: Directory, or name of a model on the Hub.
        revision: Branch, tag or commit on the Hub.
        token: Access token; by default the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        The model, with what was found and done.

    Raises:
        ValueError: If files are damaged or contradict each other, if no stock model can express the layout,
            or if the model is dense and in no old layout.
        FileNotFoundError: If weights are missing.
    """
    hub: dict[str, Any] = {"revision": revision, "token": token}
    undone = undo_layouts(read_state(name_or_path, **hub))
    model, left_out = build(undone.state)
    targets = _targets(model)
    sparse = bool(pruned_weights(targets))
    if not sparse and not undone.layouts:
        raise ValueError(
            f"{name_or_path} is neither sparse nor in a layout of the past; load it with from_pretrained"
        )
    kin = model if undone.kin is undone.state else build(undone.kin)[0]
    proof = prove(kin, undone.as_written)
    difference = proof.difference(model)
    rounding = measure_rounding(kin, proof, undone.rounded)
    weights = inspect_weights(targets)
    if sparse:
        _record(model, targets, weights)
    notes = (*undone.notes, *left_out, *(() if sparse else ("no pattern of zeros to lock",)))
    return Rescued(
        model,
        undone.layouts,
        notes,
        weights,
        difference if proof.modules else None,
        rounding,
        proof,
        load_tokenizer(name_or_path, **hub),
        carried(name_or_path, **hub),
    )


def require_new(directory: str | Path) -> None:
    """Raise `ValueError` unless `Rescued.save` may write into a directory."""
    require_free(Path(directory))


def undo_layouts(read: State) -> Undone:
    """Return a checkpoint with all its layouts undone; raise `ValueError` if one of them cannot be."""
    state = kin = read
    layouts: list[str] = []
    notes: list[str] = []
    as_written: dict[str, Callable[[nn.Module], nn.Module]] = {}
    rounded: dict[str, Rounds | None] = {}
    for name, convert in LAYOUTS.items():
        if (conversion := convert(state)) is None:
            continue
        state = conversion.state
        kin = state if state.config.get("model_type") == read.config.get("model_type") else kin
        layouts.append(name)
        notes += conversion.notes
        as_written |= conversion.as_written
        rounded |= conversion.rounded
    return Undone(state, kin, tuple(layouts), tuple(notes), as_written, rounded)


def build(state: State) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Return the model that a configuration names, in evaluation mode, and notes on what was left out.

    Transformers renames keys as usual: `LayerNorm.gamma`, the prefix of the base model. Only a pooler may be
    left out, if the class lacks one. Raises `ValueError` for classes that transformers does not have, and for
    tensors that are missing, left over, or of other shapes.
    """
    named = state.config.get("architectures") or [None]
    kind = getattr(transformers, str(named[0]), None)
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise ValueError(
            f"architectures in config.json names {named[0]}, which transformers does not have; write the "
            "class that it is, such as BertForQuestionAnswering"
        )
    if "quantization_config" in state.config:
        held = state.config["quantization_config"]
        method = held.get("quant_method") if isinstance(held, dict) else held
        raise ValueError(
            f"the checkpoint is quantized by {method}, which this command does not read; load it with "
            "from_pretrained, or take the model it was made of"
        )
    # With output_loading_info it returns a pair, which its annotation does not say.
    loaded: Any = kind.from_pretrained(
        None,
        config=state.stock_config(),
        state_dict=dict(state.tensors),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        dtype=_dtype(state),
    )
    model, report = loaded
    spare = [
        key for key in report["unexpected_keys"] if f".{key}".endswith((f"{POOLER}.weight", f"{POOLER}.bias"))
    ]
    spoken = f"a {kind.__name__}; name another class under architectures in config.json, or get all files"
    _refuse("the checkpoint lacks {}, which would be random in " + spoken, report["missing_keys"])
    _refuse("{} has another shape than in " + spoken, [key for key, *_ in report["mismatched_keys"]])
    _refuse("{} is in no layout known and in no " + spoken[2:], set(report["unexpected_keys"]) - set(spare))
    return model.eval(), (f"a pooler left out, which {kind.__name__} lacks",) if spare else ()


def _dtype(state: State) -> torch.dtype:
    floating = {value.dtype for value in state.tensors.values() if value.is_floating_point()}
    return floating.pop() if len(floating) == 1 else torch.float32


def _refuse(sentence: str, keys: Iterable[str]) -> None:
    if names := sorted(keys):
        raise ValueError(sentence.format(listed(names)))


def _targets(model: PreTrainedModel) -> Targets:
    """Return the weights that a run prunes, and others that were pruned, such as those of a pooler."""
    usual, every = find_targets(model), every_weight(model)
    shares = measure_sparsity(model, every).per_target
    chosen = (target for target in every if target.name in usual.names or shares[target.name] >= IN_PATTERN)
    return Targets(tuple(chosen), every.left_out)


def _record(model: PreTrainedModel, targets: Targets, weights: tuple[WeightInspection, ...]) -> None:
    masks = Masks(targets)
    masks.lock_zeros(dict.fromkeys(targets.names, UNSTRUCTURED))
    layers = {weight.name: (weight.pattern or str(UNSTRUCTURED), None) for weight in weights}
    write_sparsity_record(model, masks, _most_common(weights), None, layers)


def _most_common(weights: tuple[WeightInspection, ...]) -> str | None:
    counts = Counter(weight.pattern for weight in weights if weight.sparsity >= IN_PATTERN)
    return counts.most_common(1)[0][0] if counts else None
