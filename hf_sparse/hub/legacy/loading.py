"""Sparse checkpoints of libraries that are no more, as stock models."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_sparse.atomic.directories import replacing_directory, require_free
from hf_sparse.checkpoint.carrying import carried, carry
from hf_sparse.checkpoint.contract import write_contract
from hf_sparse.checkpoint.loading import load_model, load_tokenizer
from hf_sparse.hub.legacy.building import build
from hf_sparse.hub.legacy.layouts import undo_layouts
from hf_sparse.hub.legacy.proof import Proof, prove
from hf_sparse.hub.legacy.reading import read_state
from hf_sparse.hub.legacy.rounding import Rounding, measure_rounding
from hf_sparse.sparsity.evidence import IN_PATTERN, pruned_weights
from hf_sparse.sparsity.inspection import WeightInspection, inspect_weights
from hf_sparse.sparsity.masks import Masks
from hf_sparse.sparsity.measure import measure_sparsity
from hf_sparse.sparsity.patterns.block import UNSTRUCTURED
from hf_sparse.targets import Targets, every_weight, find_targets


@dataclass(frozen=True)
class Rescued:
    """A stock model, with what was found in its checkpoint and done to it.

    `layouts` are names out of `legacy.layouts.LAYOUTS`, none for plain weights; `notes` say in words what was
    done; `weights` are those that a run would lock; `difference` is the largest of the logits from those of
    the layout before any rounding, as a share of the largest, None where it holds weights as stock models do,
    so that there is nothing to compare. `rounding` says how far its rounding moved them, None if it did none.
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
        """Share of zeros among these weights."""
        return sum(weight.zeros for weight in self.weights) / sum(weight.size for weight in self.weights)

    @property
    def pattern(self) -> str | None:
        """The pattern of most weights that are sparse, None if none is."""
        return _most_common(self.weights)

    def save(self, directory: str | Path) -> float:
        """Write a plain directory with what belongs to the model; return the largest difference of it.

        Stock `from_pretrained` loads it, which is done, and its logits compared, before the directory is
        there. Raises `ValueError` if logits differ, and for a directory that is not empty: an earlier result
        could not be told from one that was trained since.
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
    """Open a sparse checkpoint that transformers of today mishandles.

    Of Intel's Prune Once for All, oBERT, nn_pruning, `torch.nn.utils.prune`, parametrizations, SparseML and
    compressed-tensors: see `legacy.layouts`. The model is stock, its zeros are recorded in its configuration,
    so that later runs lock them, and it gives the logits of the layout as it was written.

    `name_or_path` is a directory or a Hub name. Raises `ValueError` for files that are damaged or contradict
    themselves, for layouts without an equal among stock models, for dense models without any, and
    `FileNotFoundError` where there are no weights.
    """
    hub = {"revision": revision, "token": token}
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
    """Raise `ValueError` unless `save` may write into a directory."""
    require_free(Path(directory))


def _targets(model: PreTrainedModel) -> Targets:
    """Return the weights that a run prunes, and others that were pruned, such as a pooler's."""
    usual, every = find_targets(model), every_weight(model)
    shares = measure_sparsity(model, every).per_target
    chosen = (target for target in every if target.name in usual.names or shares[target.name] >= IN_PATTERN)
    return Targets(tuple(chosen), every.left_out)


def _record(model: PreTrainedModel, targets: Targets, weights: tuple[WeightInspection, ...]) -> None:
    masks = Masks(targets)
    masks.lock_zeros(dict.fromkeys(targets.names, UNSTRUCTURED))
    layers = {weight.name: (weight.pattern or str(UNSTRUCTURED), None) for weight in weights}
    write_contract(model, masks, _most_common(weights), None, layers)


def _most_common(weights: tuple[WeightInspection, ...]) -> str | None:
    counts = Counter(weight.pattern for weight in weights if weight.sparsity >= IN_PATTERN)
    return counts.most_common(1)[0][0] if counts else None
