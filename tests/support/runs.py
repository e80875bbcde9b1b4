"""Training runs that can be interrupted, and everything that must be equal afterwards."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import BertTokenizerFast, TrainerCallback, default_data_collator
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_sparse import Recipe, SparseTrainer, find_targets
from hf_sparse.training.checkpoints.manifest import MANIFEST
from hf_sparse.training.mlm import EpochCallback, MaskedTokens
from tests.support.tiny import VOCABULARY, arguments, bert, masked_lm, pruning, sentences

# 7 batches an epoch make 4 steps of 2 micro-batches, the last of a single one; three epochs make 12 steps.
# The ramp ends at step 6.
ROWS = 28
EPOCH = 4
CHECKPOINT_FILES = {
    "config.json",
    "hf_sparse_files.json",
    "hf_sparse_pass.pth",
    "hf_sparse_run.json",
    "hf_sparse_state.safetensors",
    "model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
}
# Wall clock, which differs between any two runs.
_CLOCK = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss"}


_LASSO = "sparsity.group_lasso={refresh: 3, every: 2}"


def prune(folder: Path | str, **changes: Any) -> SparseTrainer:
    """A trainer that prunes with dropout, shuffling, accumulation, a rewound learning rate."""
    return _trainer(folder, changes, model=bert(), recipe=pruning())


def prune_little(folder: Path | str, **changes: Any) -> SparseTrainer:
    """A trainer that has removed too few weights after its first steps for the model to count as sparse."""
    return _trainer(folder, changes, model=bert(), recipe=pruning("sparsity.schedule.final=0.1"))


def revive(folder: Path | str, **changes: Any) -> SparseTrainer:
    """A trainer whose removed weights are remembered; the last of its updates is that of step 9."""
    assignments = ["sparsity.revive=true", "sparsity.schedule.update_end=9"]
    return _trainer(folder, changes, model=bert(), recipe=pruning(*assignments))


def distil(folder: Path | str, **changes: Any) -> SparseTrainer:
    recipe = Recipe.preset("prune_ofa_90").override(["sparsity.schedule.every=1"])
    return _trainer(folder, changes, model=bert(), recipe=recipe, teacher=bert(seed=1))


def distil_hidden(
    folder: Path | str, settings: Mapping[str, str] = MappingProxyType({}), **changes: Any
) -> SparseTrainer:
    """A trainer whose student learns projections to the width of its teacher."""
    chosen = {"sparsity.schedule.every": "1", "distillation.hidden": "0.5", **settings}
    recipe = Recipe.preset("prune_ofa_90").override(f"{name}={value}" for name, value in chosen.items())
    teacher = bert(seed=1, hidden_size=48)
    return _trainer(folder, changes, model=bert(), recipe=recipe, teacher=teacher)


def quantize(folder: Path | str, **changes: Any) -> SparseTrainer:
    """A trainer that prunes, distils and quantizes; rounding begins at step 2, ranges freeze at step 10."""
    recipe = Recipe.preset("prune_ofa_90").override(
        ["sparsity.schedule.every=1", "quantization={begin: 2, freeze: 10}"]
    )
    return _trainer(folder, changes, model=bert(), recipe=recipe, teacher=bert(seed=1))


def lasso(folder: Path | str, **changes: Any) -> SparseTrainer:
    """A trainer whose groups are pushed towards zero until step 7, gamma anew at every third one."""
    recipe = Recipe.preset("group_lasso_block").override(["sparsity.schedule.begin=7", _LASSO])
    return _trainer(folder, changes, model=bert(), recipe=recipe)


def lasso_by_gradient(folder: Path | str, **changes: Any) -> SparseTrainer:
    """The same with the penalty as a term of the loss."""
    assignments = ["sparsity.schedule.begin=7", _LASSO, "sparsity.group_lasso.step=gradient"]
    recipe = Recipe.preset("group_lasso_block").override(assignments)
    return _trainer(folder, changes, model=bert(), recipe=recipe)


def move(folder: Path | str, **changes: Any) -> SparseTrainer:
    """A trainer that learns scores until step 9 and draws them down until step 6."""
    assignments = ["sparsity.method=soft_movement", "sparsity.schedule.update_end=9"]
    return _trainer(folder, changes, model=bert(), recipe=pruning(*assignments))


def lock(folder: Path | str, **changes: Any) -> SparseTrainer:
    model = bert()
    with torch.no_grad():
        for target in find_targets(model):
            target.weight[target.weight.abs() < 0.02] = 0.0
    return _trainer(folder, changes, model=model, recipe=Recipe.preset("transfer"), teacher=bert(seed=1))


def mlm(folder: Path | str, **changes: Any) -> SparseTrainer:
    """A trainer of masked language modeling whose masks are drawn anew in every epoch."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"w{i}" for i in range(VOCABULARY - len(words))]
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    rows = [{name: row[name].tolist() for name in ("input_ids", "attention_mask")} for row in sentences(ROWS)]
    trainer = _trainer(
        folder,
        changes,
        model=masked_lm(),
        recipe=Recipe.preset("prune_ofa_90"),
        teacher=masked_lm(seed=1),
        train_dataset=MaskedTokens(rows, tokenizer),
        data_collator=default_data_collator,
    )
    trainer.add_callback(EpochCallback())
    return trainer


def _trainer(folder: Path | str, changes: dict[str, Any], **parts: Any) -> SparseTrainer:
    settings = {"gradient_accumulation_steps": 2, "weight_decay": 0.1, "num_train_epochs": 3, "max_steps": -1}
    callbacks = changes.pop("callbacks", None)
    args = arguments(folder, **(settings | changes))
    return SparseTrainer(args=args, callbacks=callbacks, **({"train_dataset": sentences(ROWS)} | parts))


def checkpoint(folder: Path | str, step: int) -> Path:
    return Path(folder) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def unlisted(folder: Path) -> Path:
    """Return a checkpoint after taking its manifest away, as releases without one left it."""
    (folder / MANIFEST).unlink()
    return folder


def outcome(trainer: SparseTrainer) -> dict[str, Any]:
    """Return all tensors and numbers of a finished run that an interruption must not change."""
    masks = trainer.sparsifier.masks
    state = trainer.optimizer.state_dict()
    lines = [
        {key: value for key, value in line.items() if key not in _CLOCK} for line in trainer.state.log_history
    ]
    return {
        "weights": {name: value.clone() for name, value in trainer.model.state_dict().items()},
        "masks": {name: masks[name] for name in masks.targets.names},
        "optimizer": state["state"],
        "groups": state["param_groups"],
        "scheduler": trainer.lr_scheduler.state_dict()["last_epoch"],
        "log": lines,
        "parts": trainer.sparsifier.state()[1],
        "ranges": {} if trainer.quantizer is None else trainer.quantizer.state(),
    }


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Yield the places where two outcomes differ by one bit or more."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from differences(one.get(key), other.get(key), f"{path}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{path}/{index}")
    elif torch.is_tensor(one) and torch.is_tensor(other):
        if not torch.equal(one, other):
            yield path
    elif one != other:
        yield f"{path}: {one} != {other}"


class Cut(TrainerCallback):
    """Interrupts a run as a user would, in the middle of a step that follows `step` finished ones."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt
